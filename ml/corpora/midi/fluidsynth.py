"""FluidSynth by its library: one part at a time through the preset of a soundfont, in mono.

The library renders as fast as it can, without a sound card, at twice the rate that is wanted: what
folds back above that is then filtered off. Its room and chorus are off, they belong to the
production.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from ctypes.util import find_library
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr

from ml.tracks import CorpusError

RATE_HZ = 16_000
DRUM_BANK = 128
_OVERSAMPLING = 2
_SYNTH_HZ = _OVERSAMPLING * RATE_HZ
_BLOCK = 64
"""Samples that FluidSynth makes at once; events fall on its borders (2 ms)."""
_SETTINGS = {
    "synth.reverb.active": 0,
    "synth.chorus.active": 0,
    "synth.cpu-cores": 1,
    "synth.polyphony": 128,
    "synth.dynamic-sample-loading": 1,
}
_QUIET = range(5)
"""Levels of its log; errors come back as codes."""


class Event(NamedTuple):
    """What happens to the one channel that is played."""

    time_s: float
    order: int
    """Among events of the same time: controllers, ends of notes, notes."""
    kind: str
    """``control``, ``bend``, ``off`` or ``on``: the call of the library."""
    first: int
    second: int = 0


def play(
    soundfont: Path, bank: int, program: int, events: Sequence[Event], duration_s: float
) -> np.ndarray | None:
    """Play events through a preset.

    Each call has a synthesiser of its own: after a reset, what was played before still decides in
    which order voices are summed, and so the last bit.

    Args:
        soundfont: an SF2 or SF3 file.
        bank: 0, or ``DRUM_BANK``.
        program: of the preset.
        events: in any order; those of one time and rank happen as they come.
        duration_s: how much is played; notes that go on are cut.

    Returns:
        (samples,) float32 mono at ``RATE_HZ``; None: the soundfont has no such preset.

    Raises:
        CorpusError: FluidSynth is not installed, or the file is no soundfont.
    """
    samples = round(duration_s * RATE_HZ)
    with _synth(soundfont) as synth:
        loaded = ctypes.c_void_p(_library().fluid_synth_get_sfont(synth, 0))
        if not _library().fluid_sfont_get_preset(loaded, bank, program):
            return None
        number = _library().fluid_sfont_get_id(loaded)
        _library().fluid_synth_program_select(synth, 0, number, bank, program)
        sides = _played(synth, events, -(-samples * _OVERSAMPLING // _BLOCK))
    mono = soxr.resample(sides.mean(axis=0), _SYNTH_HZ, RATE_HZ)
    return mono[:samples].astype(np.float32)


@contextlib.contextmanager
def _synth(soundfont: Path) -> Iterator[ctypes.c_void_p]:
    """Make a synthesiser with one soundfont."""
    library = _library()
    settings = ctypes.c_void_p(library.new_fluid_settings())
    library.fluid_settings_setnum(settings, b"synth.sample-rate", ctypes.c_double(_SYNTH_HZ))
    for name, value in _SETTINGS.items():
        library.fluid_settings_setint(settings, name.encode(), value)
    synth = ctypes.c_void_p(library.new_fluid_synth(settings))
    try:
        if library.fluid_synth_sfload(synth, str(soundfont).encode(), 0) < 0:
            raise CorpusError(f"{soundfont} is no soundfont that FluidSynth reads; expected .sf2")
        yield synth
    finally:
        library.delete_fluid_synth(synth)
        library.delete_fluid_settings(settings)


def _played(synth: ctypes.c_void_p, events: Sequence[Event], blocks: int) -> np.ndarray:
    """Write what events sound like: (side, sample)."""
    library = _library()
    sides = np.zeros((2, blocks * _BLOCK), np.float32)
    calls = {
        "control": library.fluid_synth_cc,
        "bend": library.fluid_synth_pitch_bend,
        "off": library.fluid_synth_noteoff,
        "on": library.fluid_synth_noteon,
    }
    left, right = (ctypes.c_void_p(side.ctypes.data) for side in sides)

    def write(first: int, end: int) -> None:
        if end > first:
            at, samples = first * _BLOCK, (end - first) * _BLOCK
            library.fluid_synth_write_float(synth, samples, left, at, 1, right, at, 1)

    written = 0
    for event in sorted(events, key=lambda event: event[:2]):
        block = min(round(event.time_s * _SYNTH_HZ / _BLOCK), blocks)
        write(written, block)
        written = max(written, block)
        more = () if event.kind in ("bend", "off") else (event.second,)
        calls[event.kind](synth, 0, event.first, *more)
    write(written, blocks)
    return sides


def fluidsynth_version() -> str:
    """Return the version of the library, which decides the samples.

    Raises:
        CorpusError: FluidSynth is not installed.
    """
    return _library().fluid_version_str().decode()


@cache
def _library() -> Any:
    name = find_library("fluidsynth") or "libfluidsynth.so.3"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        raise CorpusError(
            "FluidSynth, which plays MIDI files, is not installed; install it with: "
            "apt-get install fluidsynth (or brew install fluid-synth)"
        ) from None
    for maker in (
        *("new_fluid_settings", "new_fluid_synth"),
        *("fluid_synth_get_sfont", "fluid_sfont_get_preset"),
    ):
        getattr(library, maker).restype = ctypes.c_void_p
    library.fluid_version_str.restype = ctypes.c_char_p
    for level in _QUIET:
        library.fluid_set_log_function(level, None, None)
    return library
