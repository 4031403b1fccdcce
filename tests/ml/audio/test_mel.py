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
