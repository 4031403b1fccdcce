"""The log-mel frontend, one for training, embedding and queries; its bands may be octaves' parts.

Only torch and torchaudio; runs on the device of its input.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from ml.plain import added_field

_CPU_ROWS = 16
"""Waveforms at a time on the CPU: the spectrogram stays in cache (2.5 times faster than 128)."""


@dataclass(frozen=True, kw_only=True)
class LogMelConfig:
    """Shape of the log-mel spectrogram (Riou et al., section II-D; predecessor's code)."""

    rate_hz: int = 16_000
    """Sample rate of the waveform."""
    window_samples: int = 400
    """Window and FFT length: 25 ms."""
    hop_samples: int = 160
    """Hop: 10 ms."""
    mel_bins: int = 80
    """Mel bands, Slaney scale and norm."""
    low_hz: float = 50.0
    """Lower edge of the lowest band."""
    high_hz: float = 8_000.0
    """Upper edge of the highest band."""
    is_octave: bool = added_field(False)
    """Bands as ``octave_fbanks``, equally many an octave, not mel. Differs: a window of 25 ms tells
    semitones apart above 700 Hz only, and mel bands, which are 70 Hz wide below 1 kHz, not even
    there; but whether two parts go together is a matter of their harmony. Off in ``paper``."""
    floor: float = 1.19e-7
    """Added to the mel power before the logarithm."""
    mean: float = -9.453
    """Subtracted from the log-mel (the predecessor's value)."""
    deviation: float = 3.569
    """Divides the log-mel (the predecessor's value)."""
    is_measured: bool = False
    """Differs: floor, mean and deviation are measured on training audio, per band, before phase 1
    (``ml.training.execution``). Digital silence at the fixed floor otherwise dominates the
    variance. Off in ``paper``."""

    def __post_init__(self) -> None:
        if self.hop_samples <= 0 or self.window_samples < self.hop_samples:
            raise ValueError(
                f"window_samples={self.window_samples}, hop_samples={self.hop_samples}: "
                "expected 0 < hop_samples <= window_samples"
            )
        if not 0 <= self.low_hz < self.high_hz <= self.rate_hz / 2:
            raise ValueError(
                f"low_hz={self.low_hz}, high_hz={self.high_hz}: expected "
                f"0 <= low_hz < high_hz <= rate_hz / 2 = {self.rate_hz / 2}"
            )
        if self.is_octave and self.low_hz < self.rate_hz / self.window_samples:
            raise ValueError(
                f"low_hz={self.low_hz} with is_octave: expected at least a bin of the spectrum, "
                f"{self.rate_hz / self.window_samples:.4g} Hz; raise it, or window_samples"
            )


def octave_fbanks(config: LogMelConfig) -> Tensor:
    """Make triangular bands whose centres lie equally far apart on a logarithmic scale.

    A band reaches to the centres of its neighbours, or one bin of the spectrum where these are
    nearer, and its weights sum to 1.

    Returns:
        (frequency, band) float32.
    """
    hz = torch.linspace(0, config.rate_hz / 2, config.window_samples // 2 + 1, dtype=torch.float64)
    low, high = math.log2(config.low_hz), math.log2(config.high_hz)
    edges = torch.logspace(low, high, config.mel_bins + 2, base=2, dtype=torch.float64)
    width = torch.maximum((edges[2:] - edges[:-2]) / 2, hz[1])
    bands = (1 - (hz[:, None] - edges[None, 1:-1]).abs() / width).clamp(min=0)
    return (bands / bands.sum(0)).float()


class LogMel(nn.Module):
    """Waveform to standardised log-mel: ``(ln(mel_power + floor) - mean) / deviation``.

    Power spectrogram with a periodic Hann window, centred with reflect padding; frame *t* is
    centred on sample ``t * hop``. The last frame is dropped, so 8 s give 800 frames.
    Floor, mean and deviation are buffers and travel with a checkpoint.
    """

    floor: Tensor
    mean: Tensor
    deviation: Tensor
    window: Tensor
    filterbank: Tensor

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        bins = config.mel_bins
        self.register_buffer("floor", torch.tensor(config.floor))
        self.register_buffer("mean", torch.full((bins,), config.mean))
        self.register_buffer("deviation", torch.full((bins,), config.deviation))
        window = torch.hann_window(config.window_samples, periodic=True)
        self.register_buffer("window", window, persistent=False)
        if config.is_octave:
            filterbank = octave_fbanks(config)
        else:
            filterbank = melscale_fbanks(
                n_freqs=config.window_samples // 2 + 1,
                f_min=config.low_hz,
                f_max=config.high_hz,
                n_mels=bins,
                sample_rate=config.rate_hz,
                norm="slaney",
                mel_scale="slaney",
            )  # (frequency, mel_bin)
        self.register_buffer("filterbank", filterbank, persistent=False)

    def mel_power(self, waveform: Tensor) -> Tensor:
        """Mel power spectrogram.

        Args:
            waveform: (batch, samples) float, full scale ±1; at least 201 samples.

        Returns:
            (batch, mel_bin, frame) float32, >= 0; ``samples // hop`` frames.

        Raises:
            ValueError: the waveform is too short to be padded by reflection.
        """
        half = self.config.window_samples // 2
        if waveform.ndim != 2 or waveform.shape[1] <= half:
            raise ValueError(
                f"waveform has shape {tuple(waveform.shape)}, expected (batch, samples) with more "
                f"than {half} samples"
            )
        with torch.autocast(waveform.device.type, enabled=False):
            rows = _CPU_ROWS if waveform.device.type == "cpu" else len(waveform)
            blocks = waveform.float().split(max(1, rows))
            return torch.cat([self._block_power(block) for block in blocks])

    def _block_power(self, waveform: Tensor) -> Tensor:
        spectrum = torch.stft(
            waveform,
            n_fft=self.config.window_samples,
            hop_length=self.config.hop_samples,
            window=self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )  # (batch, frequency, frame)
        frames = max(1, waveform.shape[1] // self.config.hop_samples)
        spectrum = spectrum[..., :frames]
        power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        return torch.einsum("bft,fm->bmt", power, self.filterbank)

    def forward(self, waveform: Tensor, power_gain: Tensor | None = None) -> Tensor:
        """Standardised log-mel.

        Args:
            waveform: (batch, samples).
            power_gain: (batch, mel_bin), multiplies the mel power: an equaliser as fine as bands.

        Returns:
            (batch, mel_bin, frame).
        """
        power = self.mel_power(waveform)
        if power_gain is not None:
            power = power * power_gain[..., None]
        log_mel = torch.log(power + self.floor)
        return (log_mel - self.mean[:, None]) / self.deviation[:, None]

    def fingerprint(self) -> str:
        """Equal for two frontends that compute the same function: configuration and buffers."""
        digest = hashlib.sha256(repr(sorted(asdict(self.config).items())).encode())
        for buffer in (self.floor, self.mean, self.deviation):
            digest.update(buffer.detach().cpu().numpy().tobytes())
        return digest.hexdigest()


def spectrum_vectors(mel: Tensor) -> Tensor:
    """Embed by the spectrum alone, which needs no learning.

    Args:
        mel: (batch, mel_bin, frame), standardised.

    Returns:
        (batch, 2 · mel_bin): mean, then deviation over frames, per bin.
    """
    return torch.cat([mel.mean(-1), mel.std(-1, correction=0)], dim=-1)
