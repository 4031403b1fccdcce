from __future__ import annotations

import numpy as np
import pytest

from ml.music.key import KEYS, MIN_S, TONICS, find_key, has_pitch, read_key, transposition
from ml.music.tempo import RATE_HZ

MINOR = [(0, 3, 7), (5, 8, 12), (7, 11, 14), (0, 3, 7)]
MAJOR = [(0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7)]


def chords(tonic: int, degrees: list[tuple[int, ...]], cents: float = 0.0) -> np.ndarray:
    """A cadence of a second a chord, four partials a note, seven times."""
    time = np.arange(RATE_HZ) / RATE_HZ
    partials = np.arange(1, 5)[:, None]
    audio = []
    for chord in degrees:
        notes = np.array([48 + tonic, *(60 + tonic + degree for degree in chord)])
        hz = 440 * 2 ** ((notes + cents / 100 - 69) / 12)
        waves = [(np.sin(2 * np.pi * f * partials * time) / partials**1.5).sum(0) for f in hz]
        audio.append(np.sum(waves, axis=0) * np.exp(-time))
    return np.tile((0.05 * np.concatenate(audio)).astype(np.float32), 7)


def hits() -> np.ndarray:
    random = np.random.default_rng(0)
    decay = np.exp(-np.arange(RATE_HZ // 2) / (0.04 * RATE_HZ))
    return np.concatenate([0.3 * decay * random.standard_normal(len(decay)) for _ in range(56)])


@pytest.mark.parametrize(("degrees", "mode"), [(MAJOR, "major"), (MINOR, "minor")])
def test_a_cadence_is_in_its_key_at_any_pitch_and_tuning(degrees: list[tuple[int, ...]], mode: str):
    tonics = range(0, 12, 2)
    found = [find_key(chords(tonic, degrees, cents=7 * tonic - 40)) for tonic in tonics]
    assert [key and key.name for key in found] == [f"{TONICS[tonic]} {mode}" for tonic in tonics]


def test_noise_does_not_hide_it_and_has_none():
    drums = hits().astype(np.float32)
    key = find_key(chords(9, MINOR) + 0.3 * drums)
    assert key is not None
    assert key.name == "A minor"
    random = np.random.default_rng(0)
    noise = 0.1 * random.standard_normal(8 * RATE_HZ).astype(np.float32)
    silence = np.zeros(8 * RATE_HZ, np.float32)
    for audio in (drums, noise, silence, silence[:0], chords(0, MAJOR)[: RATE_HZ // 2]):
        assert find_key(audio) is None
        assert not has_pitch(audio)


def test_what_sounds_too_short_to_tell_has_none_however_long_the_silence():
    cadence, silence = chords(9, MINOR), np.zeros(30 * RATE_HZ, np.float32)
    for seconds in (1, 4, MIN_S - 1):
        short = cadence[: round(seconds * RATE_HZ)]
        assert find_key(short) is None
        assert find_key(np.concatenate([short, silence])) is None
        assert has_pitch(short)
    long = find_key(cadence[: 12 * RATE_HZ])
    assert long is not None
    assert long.name == "A minor"


@pytest.mark.parametrize("notes", [(45,), (69,), (45, 52), (36, 43, 48)])
def test_a_drone_has_none(notes: tuple[int, ...]):
    time = np.arange(30 * RATE_HZ) / RATE_HZ
    hz = [partial * 440 * 2 ** ((note - 69) / 12) for note in notes for partial in range(1, 9)]
    waves = [np.sin(2 * np.pi * f * time) / (1 + place % 8) for place, f in enumerate(hz)]
    assert find_key((0.1 * np.sum(waves, axis=0)).astype(np.float32)) is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        *[(key, key) for key in KEYS],
        *[("Am", "A minor"), ("a min", "A minor"), ("Bb", "Bb major"), ("A# major", "Bb major")],
        *[("F♯m", "F# minor"), ("db-dur", "C# major"), ("C# Moll", "C# minor"), ("DM", "D major")],
    ],
)
def test_keys_are_read_as_people_write_them(text: str, key: str):
    assert read_key(text) == key


@pytest.mark.parametrize("text", ["", "H", "A minor major", "120", "do"])
def test_what_is_no_key_is_refused(text: str):
    with pytest.raises(ValueError, match="is no key"):
        read_key(text)


def test_a_transposition_is_the_nearest_and_keys_of_the_same_notes_need_none():
    assert transposition("A minor", "C major") == 0
    assert transposition("A minor", "B minor") == 2
    assert transposition("C major", "F# major") == 6
    assert transposition("G minor", "E minor") == -3
    for one in KEYS:
        assert all(-5 <= transposition(one, other) <= 6 for other in KEYS)
