"""What a MIDI file says: parts of notes and controllers, in seconds.

A *part* is what one channel plays with one program. Formats 0 and 1 are read, whatever their
tracks are called; a file that cannot be played as a multitrack is refused with one sentence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import mido
from mido.midifiles.meta import KeySignatureError

DRUM_CHANNEL = 9
MAX_BYTES = 1_000_000
"""Real ones have a tenth of it; one of 4 MB took a minute to read."""
MAX_PARTS = 64
MAX_S = 3600.0
MIN_NOTES = 4
"""A part with fewer says nothing of how parts fit."""
MIN_PARTS = 3
_CONTROLS = frozenset((1, 6, 7, 11, 38, 64, 100, 101))
"""Modulation, volume, expression, sustain, and how far a bend goes; where a part stands in the
stereo picture is not heard in mono."""
_DEFAULT_TEMPO = 500_000


class MidiError(ValueError):
    """A MIDI file cannot be used; one sentence that says why."""


class MidiNote(NamedTuple):
    """One note."""

    start_s: float
    end_s: float
    pitch: int
    velocity: int


class Control(NamedTuple):
    """One change of a controller, or of the bend where ``number`` is None."""

    time_s: float
    number: int | None
    value: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one channel plays with one program."""

    channel: int
    program: int
    """0 to 127; of drums the kit."""
    name: str
    """Of the track in which it begins."""
    notes: tuple[MidiNote, ...]
    controls: tuple[Control, ...]
    """Of the whole channel."""

    @property
    def is_drums(self) -> bool:
        """General MIDI's channel of drums."""
        return self.channel == DRUM_CHANNEL


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A MIDI file that can be played."""

    duration_s: float
    parts: tuple[Part, ...]
    """By channel and program."""


@dataclass(kw_only=True)
class _Channel:
    program: int = 0
    sounding: dict[int, list[tuple[float, int, tuple[int, int]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Pitch → (start, velocity, part) of the notes that are held, in the order they began."""
    controls: list[Control] = field(default_factory=list)

    def change(self, message: Any, time_s: float) -> None:
        """Take what is no note: another program, a bend, a controller that is heard."""
        if message.type == "program_change":
            self.program = message.program
        elif message.type == "pitchwheel":
            self.controls.append(Control(time_s, None, message.pitch))
        elif message.type == "control_change" and message.control in _CONTROLS:
            self.controls.append(Control(time_s, message.control, message.value))


def read_composition(path: Path) -> Composition:
    """Read a MIDI file.

    Raises:
        MidiError: it is broken, of format 2, in SMPTE time, too long, or plays too few parts.
    """
    if path.stat().st_size > MAX_BYTES:
        raise MidiError(f"has more than {MAX_BYTES // 1_000_000} MB")
    try:
        file = mido.MidiFile(path, clip=True)
    except EOFError:
        raise MidiError("is no MIDI file that can be read (it ends early)") from None
    except (OSError, ValueError, LookupError, TypeError, KeySignatureError) as error:
        raise MidiError(f"is no MIDI file that can be read ({error})") from None
    if file.type not in (0, 1):
        raise MidiError(f"is of format {file.type}; expected 0 or 1")
    if file.ticks_per_beat <= 0:
        raise MidiError("counts in SMPTE time; expected ticks of a beat")
    notes, channels, names = _played(file)
    parts = tuple(
        Part(
            channel=channel,
            program=program,
            name=names[channel, program],
            notes=tuple(sorted(played)),
            controls=tuple(channels[channel].controls),
        )
        for (channel, program), played in sorted(notes.items())
        if len(played) >= MIN_NOTES
    )
    if not MIN_PARTS <= len(parts) <= MAX_PARTS:
        raise MidiError(f"plays {len(parts)} parts; expected {MIN_PARTS} to {MAX_PARTS}")
    duration_s = max(note.end_s for part in parts for note in part.notes)
    if duration_s > MAX_S:
        raise MidiError(f"lasts {duration_s / 60:.0f} minutes; expected at most {MAX_S / 60:.0f}")
    return Composition(duration_s=duration_s, parts=parts)


def _played(
    file: mido.MidiFile,
) -> tuple[dict[tuple[int, int], list[MidiNote]], dict[int, _Channel], dict[tuple[int, int], str]]:
    """Play the file: notes by (channel, program), channels, and the names of the tracks."""
    notes: dict[tuple[int, int], list[MidiNote]] = defaultdict(list)
    channels: dict[int, _Channel] = defaultdict(_Channel)
    names: dict[tuple[int, int], str] = {}
    time_s = 0.0
    for time_s, track, message in _timed(file):
        channel = channels[message.channel]
        key = (message.channel, channel.program)
        if message.type == "note_on" and message.velocity > 0:
            channel.sounding[message.note].append((time_s, message.velocity, key))
            names.setdefault(key, track)
        elif message.type in ("note_on", "note_off"):
            _release(channel, message.note, time_s, notes)
        else:
            channel.change(message, time_s)
    for channel in channels.values():
        for pitch in list(channel.sounding):
            while channel.sounding[pitch]:
                _release(channel, pitch, time_s, notes)
    return notes, channels, names


def _release(
    channel: _Channel, pitch: int, time_s: float, notes: dict[tuple[int, int], list[MidiNote]]
) -> None:
    """End the note of a pitch that began first; one that never began is nothing."""
    if channel.sounding[pitch]:
        start_s, velocity, key = channel.sounding[pitch].pop(0)
        notes[key].append(MidiNote(start_s, max(time_s, start_s + 0.02), pitch, velocity))


def _timed(file: mido.MidiFile) -> Iterator[tuple[float, str, Any]]:
    """Yield (seconds, name of the track, message) of the channels' messages, in time."""
    messages = []
    for number, track in enumerate(file.tracks):
        ticks = 0
        for message in track:
            ticks += max(0, message.time)
            messages.append((ticks, number, message))
    messages.sort(key=lambda entry: entry[:2])
    last, time_s, tempo = 0, 0.0, _DEFAULT_TEMPO
    for ticks, number, message in messages:
        time_s += (ticks - last) * tempo / file.ticks_per_beat / 1e6
        last = ticks
        if message.type == "set_tempo":
            if message.tempo <= 0:
                raise MidiError("has a tempo of 0")
            tempo = message.tempo
        elif hasattr(message, "channel"):
            yield time_s, file.tracks[number].name.strip(), message
