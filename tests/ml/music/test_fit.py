from __future__ import annotations

import numpy as np
import pytest

from ml.music.fit import MOST_SPEED, Music, plan_fit, stretched


def music(bpm: float | None, key: str | None = None, first_s: float = 0.25) -> Music:
    beats = [] if bpm is None else first_s + 60 / bpm * np.arange(40)
    return Music(bpm=bpm, beats_s=list(beats), key=key)


@pytest.mark.parametrize(
    ("stem", "mix", "speed"),
    [(100, 120, 1.2), (60, 120, 1.0), (170, 90, 90 / 85), (75, 140, 14 / 15)],
)
def test_a_stem_is_played_by_the_octave_that_changes_it_least(
    stem: float, mix: float, speed: float
) -> None:
    fit = plan_fit(music(stem), music(mix), 3.0, 4.0)
    assert fit.speed == pytest.approx(speed, abs=1e-6)
    assert not fit.notes


def test_both_begin_on_a_beat_near_the_places_given() -> None:
    stem, mix = music(90.0, first_s=0.1), music(108.0, first_s=0.4)
    for start_s, mix_start_s in ((3.0, 7.0), (0.05, 0.0), (5.5, 12.3)):
        fit = plan_fit(stem, mix, start_s, mix_start_s)
        assert min(abs(np.array(stem.beats_s) - fit.start_s)) < 1e-6
        assert min(abs(np.array(mix.beats_s) - fit.mix_start_s)) < 1e-6
        assert abs(fit.start_s - start_s) < 60 / 90
        assert abs(fit.mix_start_s - mix_start_s) < 2 * 60 / 108


@pytest.mark.parametrize(
    ("stem", "mix", "why"),
    [
        (music(None), music(120), "the stem has no steady tempo"),
        (music(120), music(None), "the mix has no steady tempo"),
        (music(85), music(120), "120.0 bpm for 85.0 would be 1.41 times as fast"),
    ],
)
def test_what_cannot_be_fitted_stays_where_it_is_and_says_why(
    stem: Music, mix: Music, why: str
) -> None:
    fit = plan_fit(stem, mix, 3.0, 4.0, to_key=True)
    assert (fit.speed, fit.semitones, fit.start_s, fit.mix_start_s) == (1, 0, 3.0, 4.0)
    assert fit.notes[0].startswith(why)
    assert fit.notes[1].endswith("no plain key: not transposed")


def test_keys_meet_by_the_nearest_transposition_and_only_when_asked() -> None:
    stem, mix = music(100, "A minor"), music(100, "D major")
    assert plan_fit(stem, mix, 0, 0, to_key=True).semitones == 2
    assert plan_fit(stem, mix, 0, 0).semitones == 0
    assert plan_fit(stem, mix, 3.0, 4.0, to_tempo=False).start_s == 3.0


@pytest.mark.parametrize("speed", [1 / MOST_SPEED, 0.93, 1.25])
def test_stretching_moves_onsets_and_transposing_does_not(speed: float) -> None:
    rate_hz, clicks = 16_000, np.arange(0.5, 4, 0.5)
    time = np.arange(4 * rate_hz) / rate_hz
    ringing = np.exp(-np.mod(time, 0.5) / 0.05) * (time >= 0.5)
    audio = np.stack([0.3 * ringing * np.sin(2 * np.pi * 440 * time)] * 2, axis=1)
    audio = audio.astype(np.float32)
    played = stretched(audio, rate_hz, speed, 0)
    higher = stretched(audio, rate_hz, speed, 12)
    assert played.shape == higher.shape == (round(len(audio) / speed), 2)
    for sound in (played, higher):
        level = np.abs(sound[:, 0])
        for click in clicks / speed:
            near = slice(round((click - 0.1) * rate_hz), round((click + 0.1) * rate_hz))
            rises = near.start + np.argmax(level[near] > 0.5 * level[near].max())
            assert rises / rate_hz == pytest.approx(click, abs=0.02)
    peaks = [np.abs(np.fft.rfft(sound[:, 0])).argmax() / len(sound) for sound in (played, higher)]
    assert np.array(peaks) * rate_hz == pytest.approx([440, 880], rel=0.02)
    assert stretched(audio, rate_hz, 1, 0) is audio
