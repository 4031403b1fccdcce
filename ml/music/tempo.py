"""Tempo and beats of a recording with a steady tempo; of any other, nothing.

The onset curve (``ml.beats.peaks``) of such a recording is like itself one beat later, and two, and
eight: its autocorrelation (Percival and Tzanetakis, "Streamlined Tempo Estimation Based on
Autocorrelation and Cross-correlation with Pulses", 2014; here without their pulses) is averaged
over multiples of each candidate's beat. That average is the *confidence*: how much of the curve
comes back with the beat, 1 for a click track, about 0 for noise and speech. The tempo is where it
is highest, less what comes back a third of a beat off (where two beats were taken for three) and
less the distance from a usual tempo (Ellis, "Beat Tracking by Dynamic Programming", 2007: a bell on
a logarithmic scale). The decoder of ``ml.beats.dbn`` then places beats near that tempo, and long
runs of them say the tempo to a fraction of a frame.

Differs from a trained probe (``ml.beats.tracker``): that is of a model and of a home where beats
were evaluated; this is the same for all, and made once a corpus.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np

from ml.beats.dbn import DBNBeatDecoder
from ml.beats.peaks import onset_curve

if TYPE_CHECKING:
    from ml.audio.mel import LogMel

RATE_HZ = 16_000
"""Of the waveforms that are listened to."""
MIN_S = 6.0
"""Less holds too few beats to tell."""
LEAST_CONFIDENCE, _SURE_S = 0.1, 30.0
"""Below it no tempo is steady (``README.md`` has the figures). Of less than so many seconds chance
makes the curve as much more like itself as the square root of what is missing, and more is asked.
"""
_FPS = 50
_SLOWEST_BPM, _FASTEST_BPM = 50.0, 215.0
_USUAL_BPM, _UNUSUAL = 125.0, 0.1
"""What the tempo is about, and what an octave from it costs; further away by the square."""
_OFF = 0.5
"""How much it costs that something comes back a third of a beat off."""
_BEATS = 8
"""Multiples of the beat that are averaged."""
_LOUD, _FAINT = 0.98, 0.02
"""An onset that is higher than that share of all frames counts no more than these do, so that a
crash after silence is not all there is; but for what is faint beside the highest."""
_LEAST_RISE = 8.0
"""How much the log-mel rises from frame to frame, all bins together, where it rises most (12 and
more in music): a hum without noise has the rhythm of how its period falls on frames."""
_NEAR = 1.03
"""How far a beat may be from the tempo."""
_RUN, _STRAY = 32, 0.01
"""Beats that a tempo is told from, and how far it may be from that of most others."""
_BLOCK_S = 600


@dataclass(frozen=True, kw_only=True, eq=False)
class Tempo:
    """A steady tempo."""

    bpm: float
    confidence: float
    """How much of the onset curve comes back with the beat, 0…1; higher where drums play."""
    beats_s: np.ndarray
    """(beat,) float64, increasing."""


def find_tempo(waveform: np.ndarray) -> Tempo | None:
    """Find the tempo of a recording.

    Args:
        waveform: (samples,) float32 mono at ``RATE_HZ``.

    Returns:
        None where it has no steady tempo: silence, speech, less than ``MIN_S``.
    """
    if len(waveform) < MIN_S * RATE_HZ or not waveform.any():
        return None
    curve = _onsets(waveform)
    bpm, confidence = _periodicity(curve)
    if confidence < LEAST_CONFIDENCE * max(1.0, (_SURE_S * RATE_HZ / len(waveform)) ** 0.5):
        return None
    beat = 60 * _FPS / bpm  # in frames, of which the decoder's beats have whole numbers
    longest, shortest = max(beat * _NEAR, ceil(beat)), min(beat / _NEAR, floor(beat))
    near = DBNBeatDecoder(_FPS, min_bpm=60 * _FPS / longest, max_bpm=60 * _FPS / shortest)
    beats = near(curve)
    return Tempo(bpm=_bpm_of(beats), confidence=confidence, beats_s=beats)


def _bpm_of(beats: np.ndarray) -> float:
    """Average the tempo over runs of beats, but for those in which they stray."""
    run = min(_RUN, len(beats) // 2)
    beat_s = (beats[run:] - beats[:-run]) / run
    middle = np.median(beat_s)
    return 60 / float(beat_s[np.abs(beat_s / middle - 1) <= _STRAY].mean())


def _onsets(waveform: np.ndarray) -> np.ndarray:
    """Compute the onset curve: (frame,) 0…1 at ``_FPS``; zeros where there are no onsets."""
    import torch

    log_mel = _frontend()
    fps = RATE_HZ / log_mel.config.hop_samples
    blocks = torch.from_numpy(waveform).split(_BLOCK_S * RATE_HZ)
    with torch.inference_mode():
        mels = [log_mel(block[None])[0].T for block in blocks if len(block) >= RATE_HZ]
    mel, frames = torch.cat(mels).numpy(), round(len(waveform) / RATE_HZ * _FPS)
    rises = np.maximum(np.diff(mel, axis=0), 0).sum(axis=1)
    if np.quantile(rises, _LOUD) < _LEAST_RISE:
        return np.zeros(frames)
    return onset_curve(mel, fps, _FPS, frames)


@lru_cache(maxsize=1)
def _frontend() -> LogMel:
    from ml.audio.mel import LogMel, LogMelConfig

    return LogMel(LogMelConfig(rate_hz=RATE_HZ))


def _periodicity(curve: np.ndarray) -> tuple[float, float]:
    """Find the beat that an onset curve repeats with: its tempo in bpm, and the confidence."""
    around = np.convolve(curve, np.full(_FPS, 1 / _FPS), "same")
    onsets = np.maximum(curve - around, 0)
    onsets = np.minimum(onsets, max(_FAINT, np.quantile(onsets, _LOUD)))
    similarity = _autocorrelation(onsets - onsets.mean())
    bpm = np.geomspace(_SLOWEST_BPM, _FASTEST_BPM, 1000)
    beat = 60 * _FPS / bpm[:, None]  # (tempo, 1) in frames
    count = np.arange(1, _BEATS + 1)
    on_beats = _average(similarity, beat * count)
    off_beats = _average(similarity, beat * np.append(count - 1 / 3, count - 2 / 3))
    costs = _OFF * off_beats + _UNUSUAL * np.log2(bpm / _USUAL_BPM) ** 2
    best = int((on_beats - costs).argmax())
    return float(bpm[best]), float(np.clip(on_beats[best], 0, 1))


def _average(similarity: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Average over the lags of each tempo, (tempo, lag), those that are known: (tempo,)."""
    is_known = lags < len(similarity) - 1
    values = np.interp(lags, np.arange(len(similarity)), similarity)
    return np.where(is_known, values, 0).sum(axis=1) / np.maximum(is_known.sum(axis=1), 1)


def _autocorrelation(values: np.ndarray) -> np.ndarray:
    """Correlate a curve with itself, (lag,) up to half of its length; 1 at lag 0."""
    spectrum = np.fft.rfft(values, 2 * len(values))
    sums = np.fft.irfft(np.abs(spectrum) ** 2)[: len(values) // 2]
    means = sums / (len(values) - np.arange(len(sums)))
    smooth = np.convolve(means, [0.25, 0.5, 0.25], "same")
    return smooth / means[0] if means[0] > 0 else smooth
