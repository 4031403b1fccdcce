"""Sounds on disk, at a glance, and how many of them are kept."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ml.serve.sounds import (
    PLAY_RATE_HZ,
    SoundCache,
    as_played,
    cut_sound,
    sum_sounds,
    waveform_peaks,
    write_sound,
)


def test_peaks_are_the_largest_magnitudes_of_the_parts() -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, (1234, 2)).astype(np.float32)
    found = waveform_peaks(sound, parts=7)
    edges = [int(i * 1234 / 7) for i in range(8)]
    slow = [max(abs(v) for row in sound[a:b] for v in row) for a, b in zip(edges, edges[1:])]  # noqa: B905, RUF007
    assert found == pytest.approx(slow, abs=6e-4)
    assert waveform_peaks(np.zeros((3, 1)), parts=5) == (0, 0, 0, 0, 0)


def test_what_exceeds_full_scale_is_turned_down_not_clipped(tmp_path: Path) -> None:
    loud = 2.5 * np.sin(np.arange(4000) / 9)[:, None].astype(np.float32)
    sound = write_sound(loud, tmp_path / "loud.wav")
    written = soundfile.read(tmp_path / "loud.wav", always_2d=True)[0]
    assert sound.served_gain == pytest.approx(1 / np.abs(loud).max())
    np.testing.assert_allclose(written / sound.served_gain, loud, atol=2e-4)
    assert max(sound.peaks) == pytest.approx(np.abs(loud).max(), abs=1e-3)
    assert write_sound(loud / 3, tmp_path / "soft.wav").served_gain == 1


def test_a_piece_is_what_lies_there(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, (2 * PLAY_RATE_HZ, 2)).astype(np.float32)
    write_sound(sound, tmp_path / "a.wav")
    for start_s, duration_s, rows in (
        (0.5, 0.25, slice(22_050, 33_075)),
        (1.5, None, slice(66_150, None)),
        (1.5, 99.0, slice(66_150, None)),
        (50.0, 1.0, slice(0, 0)),
    ):
        with cut_sound(tmp_path / "a.wav", start_s, duration_s) as piece:
            heard, rate_hz = soundfile.read(io.BytesIO(piece.read()), always_2d=True)
        assert rate_hz == PLAY_RATE_HZ
        np.testing.assert_allclose(heard, sound[rows], atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_channels_and_lengths_come_together() -> None:
    mono, stereo = np.ones((3, 1), np.float32), np.full((5, 2), 2, np.float32)
    assert sum_sounds([mono, stereo]).tolist() == [[3, 3]] * 3 + [[2, 2]] * 2
    six = np.random.default_rng(0).uniform(-1, 1, (100, 6)).astype(np.float32)
    played = as_played(six, PLAY_RATE_HZ)
    assert played == pytest.approx(np.repeat(six.mean(axis=1, keepdims=True), 2, axis=1), abs=1e-6)
    assert as_played(stereo.repeat(1000, axis=0), 22_050).shape == (10_000, 2)


@dataclass(frozen=True)
class Thing:
    paths: tuple[Path, ...]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    def thing(name: str, size: int) -> Thing:
        path = tmp_path / name
        path.write_bytes(bytes(size))
        return Thing((path,))

    cache: SoundCache[Thing] = SoundCache(3, 100)
    for name in "abc":
        cache.put(name, thing(name, 10))
    assert cache.get("a") is not None  # now the newest
    cache.put("d", thing("d", 10))
    assert cache.get("b") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "d"]
    cache.put("large", thing("large", 95))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large"]
    cache.put("over", thing("over", 500))  # the newest stays, whatever its size
    assert cache.get("over") is not None
    assert cache.bytes == 500


def test_of_two_that_are_the_same_the_first_stays(tmp_path: Path) -> None:
    cache: SoundCache[Thing] = SoundCache(3, 100)
    (tmp_path / "1").write_bytes(b"1")
    (tmp_path / "2").write_bytes(b"2")
    first = cache.put("a", Thing((tmp_path / "1",)))
    assert cache.put("a", Thing((tmp_path / "2",))) is first
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert cache.bytes == 1
