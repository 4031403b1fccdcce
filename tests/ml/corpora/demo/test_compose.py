from __future__ import annotations

import numpy as np
import pytest

from ml.corpora.demo.score import Clock, Drum
from ml.corpora.demo.songs import DemoConfig, make_song, render_dry
from ml.corpora.demo.synths import RATE_HZ

CONFIG = DemoConfig()


@pytest.fixture(scope="module")
def songs():
    return [make_song(CONFIG, "train", i) for i in range(200)]


def test_a_straight_clock_is_linear_and_swing_delays_the_off_beat():
    beats = np.array([0.0, 0.5, 1.0, 1.5])
    assert Clock(beats, 0.5).seconds(1.25) == pytest.approx(0.625)
    swung = Clock(beats, 2 / 3)
    assert swung.seconds(1.5) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert swung.seconds(1.0) == pytest.approx(0.5)
    positions = [swung.seconds(x) for x in np.linspace(0, 2.9, 50)]
    assert np.all(np.diff(positions) > 0)


def test_beats_have_the_tempo_and_cover_the_song(songs):
    for song in songs:
        style, beats = song.composition.style, song.composition.beat_times_s
        assert 70 <= style.bpm <= 170
        interval = np.diff(beats)
        slowest = 60 / (style.bpm * (1 + min(0, style.drift)))
        fastest = 60 / (style.bpm * (1 + max(0, style.drift)))
        assert np.all(interval > fastest - 1e-6)
        assert np.all(interval < slowest + 1e-6)
        assert 0 < beats[0] < 0.5
        assert song.duration_s - slowest <= beats[-1] < song.duration_s
    assert 0.03 < np.mean([song.composition.style.drift != 0 for song in songs]) < 0.3


def test_bars_start_with_a_kick_and_sections_with_a_crash(songs):
    checked = 0
    for song in songs:
        composition = song.composition
        bars = composition.beat_times_s[:: composition.style.beats_per_bar]
        for i, (player, notes) in enumerate(zip(song.cast, composition.parts, strict=True)):
            if player.instrument.name not in ("drum kit", "drum machine"):
                continue
            kicks = np.array([note.start_s for note in notes if note.pitch == Drum.KICK])
            crashes = np.array([note.start_s for note in notes if note.pitch == Drum.CRASH])
            for section in (s for s in composition.sections if s.playing[i]):
                last = section.first_bar + section.bars
                starts = [t for t in bars[section.first_bar : last] if t < song.duration_s - 0.1]
                assert all(np.abs(kicks - t).min() < 0.015 for t in starts)
                assert all(np.abs(crashes - t).min() < 0.015 for t in starts[:1])
                checked += len(starts)
    assert checked > 500


def test_drums_sound_on_the_beats(songs):
    song = next(s for s in songs if s.cast[0].instrument.name == "drum kit")
    stem = render_dry(CONFIG, song, is_one_timbre=True)[0]
    hop = RATE_HZ // 100
    energy = np.sum(stem[: len(stem) // hop * hop].reshape(-1, hop) ** 2, axis=1)
    rise = np.maximum(np.diff(energy, prepend=0), 0)
    times_s = np.arange(len(rise)) / 100
    playing = [
        times
        for section, times in zip(
            song.composition.sections, song.composition.section_times_s, strict=True
        )
        if section.playing[0]
    ]
    beats = np.array(
        [t for t in song.composition.beat_times_s if any(a <= t < b - 0.1 for a, b in playing)]
    )
    near = np.abs(times_s[:, None] - beats[None, :]).min(axis=1) <= 0.02
    active = energy > 0
    assert len(beats) > 10
    assert rise[near].mean() > 3 * rise[active].mean()


def test_sections_follow_each_other_and_parts_rest_as_they_say(songs):
    for song in songs[:50]:
        composition = song.composition
        ends = [end for _, end in composition.section_times_s]
        starts = [start for start, _ in composition.section_times_s]
        assert starts[1:] == pytest.approx(ends[:-1])
        assert any(not on for section in composition.sections for on in section.playing)
        for section, (start, end) in zip(
            composition.sections, composition.section_times_s, strict=True
        ):
            assert sum(section.playing) >= 2
            for on, notes in zip(section.playing, composition.parts, strict=True):
                inside = [n for n in notes if start + 0.1 <= n.start_s < end - 0.1]
                assert on or not inside
    shares = [
        sum((e - s) * x.playing[i] for x, (s, e) in zip(c.sections, c.section_times_s, strict=True))
        / c.section_times_s[-1][1]
        for c in (song.composition for song in songs)
        for i in range(len(c.parts))
    ]
    assert min(shares) > 0.4
