"""The key of a recording, of 24, and whether it has pitch at all.

What stands out of the spectrum are *peaks*: partials of notes, by how far they rise above the
spectrum around them (noise, and drums with it, hardly does). Their pitches, at the recording's own
tuning, make a profile of 12 pitch classes (Gómez, "Tonal description of polyphonic audio for music
content processing", 2006; here without her harmonics), and the key is the one whose profile it is
most like: Krumhansl and Schmuckler's way, with the profiles of Albrecht and Shanahan ("The Use of
Large Corpora to Train a New Type of Key-Finding Algorithm", 2013). The correlation is the
*confidence*.

Dorian and mixolydian pieces are taken for minor and major ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ml.music.tempo import RATE_HZ

TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MODES = ("major", "minor")
KEYS = tuple(f"{tonic} {mode}" for mode in MODES for tonic in TONICS)
"""All keys, as tables name them."""
MIN_S, _ENOUGH_S = 8.0, 25.0
"""What sounds less long has no key that could be told; until the latter more is asked of it."""
LEAST_CONFIDENCE, LEAST_WHEN_DENSE, LEAST_WHEN_SHORT = 0.7, 0.8, 0.85
"""Below it no key is said (``README.md`` has the figures): of what sounds long enough; where peaks
hardly stand out, as in dense mixes and in drums; of ``MIN_S``."""
LEAST_PITCHES = 5.0
"""How many pitch classes sound, in effect: 6.1 and more in songs, in 99 % of their 8 s 5.2; a tone
with its overtones has 2.7, a fifth 4.5."""
LEAST_TUNED = 0.2
"""How closely pitches lie a semitone apart, 0…1: music from 0.34 on, speech up to 0.17."""
LEAST_PROMINENCE = 2.5
"""How far the peaks of what has pitch rise, on average, above the spectrum around them."""
_PROFILES = np.array(
    [
        [0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081],
        [0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052],
    ]
)
"""(mode, semitones above the tonic)"""
_WINDOW, _HOP = 8192, 4096
_MOST_WINDOWS = 400
"""Of a longer recording so many, evenly spread."""
_LOW_HZ, _HIGH_HZ = 60.0, 2000.0
_AROUND = 41
"""Bins that a peak is compared with: 80 Hz."""
_MOST_PROMINENCE = 20.0
_SOUNDS, _HEARD = 0.01, 0.03
"""Least magnitude of a window, of the loudest one's, and of a peak, of its window's loudest."""
_SPELT = re.compile(
    r"([A-Ga-g])[ -]*(#|♯|sharp|b|♭|flat)?[ -]*((?i:major|maj|dur|minor|min|moll)|m|M)?"
)
_SHIFT = {"#": 1, "♯": 1, "sharp": 1, "b": -1, "♭": -1, "flat": -1}


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key."""

    name: str
    """One of ``KEYS``."""
    confidence: float
    """Correlation of what is heard with the key's profile, 0…1. It tells music in a key from other
    sounds; that a related key would be right instead it does not tell."""


def find_key(waveform: np.ndarray) -> Key | None:
    """Find the key of a recording.

    Args:
        waveform: (samples,) float32 mono at ``RATE_HZ``.

    Returns:
        None where it has none, or none that can be told: silence, drums, speech, a drone, what
        sounds for less than ``MIN_S``.
    """
    peaks = _peaks(waveform)
    if peaks.heard_s < MIN_S or abs(peaks.tuning()) < LEAST_TUNED:
        return None
    classes = peaks.pitch_classes()
    correlations = _correlations(classes)
    best = int(correlations.argmax())
    is_told = _spread(classes) >= LEAST_PITCHES and correlations[best] >= peaks.least_confidence
    return Key(name=KEYS[best], confidence=float(correlations[best])) if is_told else None


def has_pitch(waveform: np.ndarray) -> bool:
    """Tell whether notes stand out of a recording: hardly of drums, noise and dense mixes."""
    return _peaks(waveform).have_pitch


def read_key(text: str) -> str:
    """Read a key as people write it: ``Am``, ``a minor``, ``Bb``, ``C# maj``; one of ``KEYS``.

    Raises:
        ValueError: it is none.
    """
    spelt = _SPELT.fullmatch(text.strip())
    if spelt is None:
        raise ValueError(f"{text!r} is no key; expected one such as A minor, Bb major or F#m")
    letter, sign, mode = spelt.groups()
    tonic = TONICS[(TONICS.index(letter.upper()) + _SHIFT.get(sign or "", 0)) % 12]
    is_minor = mode == "m" or (mode or "").lower() in ("minor", "min", "moll")
    return f"{tonic} {MODES[is_minor]}"


def transposition(from_key: str, to_key: str) -> int:
    """Count the semitones, -5…6, that bring one of ``KEYS`` to another.

    A minor and a major key meet where they share their notes (A minor and C major).
    """
    up = _notes_of(to_key) - _notes_of(from_key)
    return (up + 5) % 12 - 5


def _notes_of(key: str) -> int:
    """Give the tonic of the major key with the same notes, 0…11."""
    tonic, mode = key.split()
    return (TONICS.index(tonic) + 3 * MODES.index(mode)) % 12


@dataclass(frozen=True, kw_only=True)
class _Peaks:
    """Partials of all windows."""

    pitch: np.ndarray
    """(peak,) semitones as MIDI counts them, not rounded."""
    level: np.ndarray
    """(peak,) of the loudest of its window, 0…1."""
    prominence: np.ndarray
    """(peak,) over the spectrum around it, up to ``_MOST_PROMINENCE``."""
    heard_s: float
    """How long it sounds in all."""

    @property
    def least_confidence(self) -> float:
        """Least correlation of a key that is said."""
        missing = max(0.0, (_ENOUGH_S - self.heard_s) / (_ENOUGH_S - MIN_S))
        least = LEAST_CONFIDENCE + (LEAST_WHEN_SHORT - LEAST_CONFIDENCE) * missing
        return least if self.have_pitch else max(least, LEAST_WHEN_DENSE)

    @property
    def have_pitch(self) -> bool:
        """Tell whether they are of notes."""
        if not len(self.pitch):
            return False
        return float(np.average(self.prominence, weights=self.level)) >= LEAST_PROMINENCE

    @property
    def _weights(self) -> np.ndarray:
        return np.sqrt(self.level) * np.maximum(self.prominence - 1, 0)

    def tuning(self) -> complex:
        """Average places between semitones, as angles: short where they glide as in speech."""
        total = max(float(self._weights.sum()), 1e-9)
        return complex(np.sum(self._weights * np.exp(2j * np.pi * self.pitch)) / total)

    def pitch_classes(self) -> np.ndarray:
        """Sum what each pitch class has, (12,) from C, at the tuning that fits best."""
        pitch = self.pitch - np.angle(self.tuning()) / (2 * np.pi)
        nearest = np.rint(pitch)
        weights = self._weights * np.cos(np.pi * (pitch - nearest)) ** 2
        return np.bincount(nearest.astype(int) % 12, weights, 12)


def _peaks(waveform: np.ndarray) -> _Peaks:
    from scipy.ndimage import uniform_filter1d

    if len(waveform) < RATE_HZ:
        return _Peaks(pitch=np.zeros(0), level=np.zeros(0), prominence=np.zeros(0), heard_s=0.0)
    windows = np.lib.stride_tricks.sliding_window_view(waveform, _WINDOW)[::_HOP]
    chosen = np.linspace(0, len(windows) - 1, min(len(windows), _MOST_WINDOWS)).astype(int)
    shape = np.hanning(_WINDOW).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(windows[chosen] * shape, axis=1))  # (window, bin)
    low, high = (round(hz * _WINDOW / RATE_HZ) for hz in (_LOW_HZ, _HIGH_HZ))
    loudest = spectrum[:, low:high].max(axis=1, keepdims=True)
    prominence = spectrum / np.maximum(uniform_filter1d(spectrum, _AROUND, axis=1), 1e-9)
    logs = np.log(np.maximum(spectrum, 1e-9))
    before, here, after = (
        logs[:, low - 1 : high - 1],
        logs[:, low:high],
        logs[:, low + 1 : high + 1],
    )
    is_heard = spectrum[:, low:high] > np.maximum(_HEARD * loudest, 1e-6)
    sounds = loudest > _SOUNDS * loudest.max()  # (window, 1)
    is_peak = (here > before) & (here >= after) & is_heard & sounds
    row, column = np.nonzero(is_peak)
    before, here, after = (part[row, column] for part in (before, here, after))
    # The parabola through three logarithms has its top between the bins.
    place = low + column + 0.5 * (before - after) / (before - 2 * here + after)
    hz = place * RATE_HZ / _WINDOW
    return _Peaks(
        pitch=69 + 12 * np.log2(hz / 440),
        level=spectrum[row, low + column] / loudest[row, 0],
        prominence=np.minimum(prominence[row, low + column], _MOST_PROMINENCE),
        heard_s=float(sounds.mean()) * len(waveform) / RATE_HZ,
    )


def _spread(classes: np.ndarray) -> float:
    """Count (12,) pitch classes by the exponential of their entropy: 1…12."""
    shares = classes[classes > 0] / classes.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _correlations(classes: np.ndarray) -> np.ndarray:
    """Correlate (12,) pitch classes with the profile of each key: (24,) in the order of KEYS."""
    profiles = np.stack([np.roll(profile, tonic) for profile in _PROFILES for tonic in range(12)])
    return np.corrcoef(classes, profiles)[0, 1:]
