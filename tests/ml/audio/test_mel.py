"""The log-mel against an independent implementation and by what it must show."""

import numpy as np
import pytest
import torch

from ml.audio.mel import LogMel, LogMelConfig


@pytest.fixture
def log_mel():
    return LogMel(LogMelConfig())


def test_eight_seconds_give_800_frames_of_80_bins(log_mel):
    assert log_mel(torch.randn(2, 128_000)).shape == (2, 80, 800)


def test_it_equals_librosa(log_mel):
    import librosa

    rng = np.random.default_rng(0)
    waveform = rng.normal(scale=0.1, size=16_000).astype(np.float32)
    mel = librosa.feature.melspectrogram(
        y=waveform, sr=16_000, n_fft=400, hop_length=160, n_mels=80, fmin=50, fmax=8000,
        pad_mode="reflect",
    )  # fmt: skip
    expected = (np.log(mel[:, :100] + 1.19e-7) + 9.453) / 3.569
    found = log_mel(torch.from_numpy(waveform)[None])[0].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_click_stands_in_its_frame(log_mel):
    waveform = torch.zeros(1, 16_000)
    waveform[0, 50 * 160] = 1.0
    assert int(log_mel(waveform).mean(1).argmax()) == 50


def test_rows_do_not_depend_on_each_other(log_mel):
    waveform = torch.randn(40, 3200)
    torch.testing.assert_close(log_mel(waveform)[37:38], log_mel(waveform[37:38]))


def test_silence_is_the_floor(log_mel):
    expected = (np.log(1.19e-7) + 9.453) / 3.569
    assert log_mel(torch.zeros(1, 1600)).numpy() == pytest.approx(expected, rel=1e-5)


def test_a_flat_equaliser_is_a_gain(log_mel):
    waveform = torch.randn(3, 3200)
    gain = torch.tensor([0.5, 1.0, 2.0])[:, None]
    found = log_mel(waveform, power_gain=gain.square().expand(3, 80))
    torch.testing.assert_close(found, log_mel(waveform * gain), atol=1e-5, rtol=1e-5)


def test_the_fingerprint_tells_functions_apart():
    one, same, other = (LogMel(LogMelConfig()) for _ in range(3))
    other.mean += 1
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


def test_too_short_a_waveform_is_refused(log_mel):
    with pytest.raises(ValueError, match="more than 200 samples"):
        log_mel(torch.zeros(1, 200))


OCTAVE = LogMelConfig(window_samples=2_048, hop_samples=320, mel_bins=160, is_octave=True)


def tone(hz: float) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hz * torch.arange(16_000) / 16_000)


def test_in_octave_bands_an_octave_is_as_far_everywhere():
    """160 bands and their two outer edges from 50 to 8,000 Hz: 161 steps of 7.32 octaves."""
    log_mel = LogMel(OCTAVE)
    octave = 161 / np.log2(8_000 / 50)
    for hz in (220.0, 440.0, 880.0, 1_760.0, 3_520.0):
        power = log_mel.mel_power(tone(hz)[None])[0, :, 25]
        assert int(power.argmax()) == pytest.approx(octave * np.log2(hz / 50) - 1, abs=0.6)


def test_octave_bands_tell_semitones_apart_where_mel_bands_do_not(log_mel):
    pair = (tone(440.0) + tone(440.0 * 2 ** (2 / 12)))[None]

    def peaks(frontend: LogMel, frame: int) -> int:
        power = frontend.mel_power(pair)[0, :, frame]
        around = power[1:-1]
        is_peak = (around > power[:-2]) & (around > power[2:]) & (around > 0.1 * power.max())
        return int(is_peak.sum())

    assert (peaks(LogMel(OCTAVE), 25), peaks(log_mel, 50)) == (2, 1)


def test_octave_bands_are_triangles_of_weight_one():
    config = LogMelConfig(
        rate_hz=1_600, window_samples=160, mel_bins=2, low_hz=100, high_hz=800, is_octave=True,
        hop_samples=80,
    )  # fmt: skip
    bands = LogMel(config).filterbank  # edges at 100, 200, 400, 800 Hz; bins of 10 Hz
    for column, centre, width in ((0, 200, 150), (1, 400, 300)):
        weights = np.maximum(0, 1 - np.abs(10 * np.arange(81) - centre) / width)
        np.testing.assert_allclose(bands[:, column], weights / weights.sum(), atol=1e-7)


def test_octave_bands_below_the_spectrum_are_refused():
    with pytest.raises(ValueError, match=r"low_hz=20\.0 with is_octave: .* 40 Hz"):
        LogMelConfig(low_hz=20.0, is_octave=True)
