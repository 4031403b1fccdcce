from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ml.audio.files import AudioError, read_window
from ml.retrieval.queries import mix as mix_input
from ml.retrieval.queries.mix import mix_window, read_chunks

RATE_HZ = 16_000


def write(path: Path, audio: np.ndarray, rate_hz: int = RATE_HZ) -> Path:
    soundfile.write(path, audio, rate_hz, subtype="FLOAT")
    return path


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_two_files_are_their_float_sum(tmp_path: Path) -> None:
    low, high = 9 * noise(2 * RATE_HZ), 9 * noise(3 * RATE_HZ, seed=1)
    paths = [write(tmp_path / "low.wav", low), write(tmp_path / "high.wav", high)]
    total = high.copy()
    total[: len(low)] += low
    assert np.abs(total).max() > 1  # more than full scale, and kept
    chunks = read_chunks([*paths], RATE_HZ, 1.0)
    assert np.array_equal(chunks.waveforms.ravel(), total)
    assert chunks.start_s.tolist() == [0, 1, 2]
    assert chunks.duration_s == 3


def test_channels_are_the_shorter_axis() -> None:
    stereo = noise(2 * RATE_HZ, 2)
    mono = stereo.mean(axis=1)
    for mix in (stereo, (stereo.T, RATE_HZ), stereo.astype(np.float64)):
        (chunk,) = read_chunks(mix, RATE_HZ, 2.0).waveforms
        assert chunk == pytest.approx(mono, abs=1e-7)


def test_a_second_is_enough() -> None:
    assert len(read_chunks(noise(RATE_HZ), RATE_HZ, 8.0).waveforms) == 1
    with pytest.raises(ValueError, match=r"lasts 0\.99 s; expected at least 1 s"):
        read_chunks(noise(RATE_HZ * 99 // 100), RATE_HZ, 8.0)
    with pytest.raises(ValueError, match=r"the example lasts 0\.50 s"):
        read_chunks(noise(RATE_HZ // 2), RATE_HZ, 8.0, "example")


def test_silent_chunks_are_left_out() -> None:
    waveform = np.concatenate([noise(RATE_HZ), np.zeros(2 * RATE_HZ, np.float32), noise(RATE_HZ)])
    assert read_chunks(waveform, RATE_HZ, 1.0).start_s.tolist() == [0, 3]


def test_a_window_is_that_part_of_the_mix(tmp_path: Path) -> None:
    waveform = noise(6 * RATE_HZ, 2)
    path = write(tmp_path / "mix.wav", waveform)
    window = mix_window(path, 2.5, 2.0, rate_hz=RATE_HZ, array_hz=RATE_HZ)
    assert np.array_equal(window, waveform[40_000:72_000])
    window = mix_window([path, noise(RATE_HZ)], 5.0, 2.0, rate_hz=RATE_HZ, array_hz=RATE_HZ)
    assert np.array_equal(window[:RATE_HZ], waveform[5 * RATE_HZ :])
    assert not window[RATE_HZ:].any()
    double = mix_window(path, 2.0, 1.0, rate_hz=2 * RATE_HZ, array_hz=RATE_HZ)
    assert double.shape == (2 * RATE_HZ, 2)


def test_a_mono_part_sounds_in_all_channels() -> None:
    mono, stereo = noise(RATE_HZ), noise(RATE_HZ, 2, seed=1)
    window = mix_window([mono, stereo], 0, 1.0, rate_hz=RATE_HZ, array_hz=RATE_HZ)
    assert np.array_equal(window, stereo + mono[:, None])


def test_silence_around_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "one.wav", noise(RATE_HZ))
    window, rate_hz = read_window(path, -0.5, 2.0)
    assert rate_hz == RATE_HZ
    assert window.shape == (2 * RATE_HZ, 1)
    assert np.array_equal(window[8000:24_000, 0], noise(RATE_HZ))
    assert not window[:8000].any()
    assert not window[24_000:].any()


def test_a_long_mix_is_sampled_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mix_input, "MAX_WHOLE_S", 5.0)
    seconds = np.repeat(np.arange(1, 21), RATE_HZ) / 40  # second i has level (i + 1) / 40
    waveform = (seconds * np.where(np.arange(len(seconds)) % 2, 1, -1)).astype(np.float32)
    path = write(tmp_path / "long.wav", waveform)
    for mix in (path, waveform, [path, np.zeros(RATE_HZ, np.float32)]):
        chunks = read_chunks(mix, RATE_HZ, 1.0)
        assert chunks.start_s.tolist() == [0, 4, 9, 14, 19]
        assert chunks.duration_s == 20
        levels = np.abs(chunks.waveforms).mean(axis=1)
        assert levels == pytest.approx((chunks.start_s + 1) / 40)
    with pytest.raises(ValueError, match="silent"):
        read_chunks(np.zeros(20 * RATE_HZ, np.float32), RATE_HZ, 1.0)


def test_an_hour_takes_no_more_memory_than_ten_minutes(tmp_path: Path) -> None:
    rate_hz, minute = 8000, noise(60 * 8000)
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", rate_hz, 1, "PCM_16") as file:
        for _ in range(60):
            file.write(minute)
    tracemalloc.start()
    chunks = read_chunks(tmp_path / "hour.wav", RATE_HZ, 8.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert chunks.duration_s == 3600
    assert chunks.waveforms.shape == (75, 8 * RATE_HZ)
    assert peak < 3 * chunks.waveforms.nbytes  # the hour itself is 230 MB


def test_a_long_container_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mix_input, "MAX_WHOLE_S", 1.0)
    soundfile.write(tmp_path / "long.wav", noise(4 * RATE_HZ), RATE_HZ)
    path = (tmp_path / "long.wav").rename(tmp_path / "long.m4a")
    with pytest.raises(AudioError, match=r"long\.m4a.*convert it to wav"):
        read_chunks(path, RATE_HZ, 1.0)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (np.zeros(32_000, np.float32), "silent"),
        (np.full(32_000, np.inf, np.float32), "infinite"),
        (np.ones(32_000, np.int16), "int16"),
        (np.ones((40, 40), np.float32), "at most 32 channels"),
        (np.zeros(0, np.float32), "shape"),
        ([], "empty list"),
        ((np.ones(32_000, np.float32), 0), "0 Hz"),
        ((np.ones(32_000, np.float32), 44_100.5), "44100.5 Hz"),
        ((np.ones(32_000, np.float32), np.ones(32_000, np.float32)), "ndarray"),
    ],
)
def test_bad_arrays(mix: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_chunks(mix, RATE_HZ, 1.0)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio\n" * 50)
    (tmp_path / "empty.wav").touch()
    write(tmp_path / "header.wav", np.zeros(0, np.float32))
    write(tmp_path / "nan.wav", np.full(32_000, np.nan, np.float32))
    for name, message in {
        "text.wav": "cannot be decoded",
        "empty.wav": "0 bytes",
        "header.wav": "no samples",
        "nan.wav": "NaN",
        "missing.wav": "does not exist",
        ".": "folder",
    }.items():
        with pytest.raises(AudioError, match=message):
            read_chunks(tmp_path / name, RATE_HZ, 1.0)
