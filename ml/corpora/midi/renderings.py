"""How a composition is played this time, the playing, and what General MIDI's programs are called.

All is drawn from (seed, content of the file, number): neither other files of the folder nor the
file's name change a song.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ml.corpora.demo.production import draw_character, produce
from ml.corpora.midi.files import (
    MIN_NOTES,
    MIN_PARTS,
    Composition,
    MidiError,
    MidiNote,
    Part,
    read_composition,
)
from ml.corpora.midi.fluidsynth import DRUM_BANK, RATE_HZ, Event, play
from ml.labels.names import Labels, slakh_labels
from ml.tracks import Split

_TRANSPOSITION = (-5, 6)
_TEMPO = (0.85, 1.18)
_OTHER_PROGRAM = 0.35
"""How often another program of the family plays."""
_DYNAMICS = (0.6, 1.5)
"""Exponent on velocity: below 1 soft notes come closer to loud ones."""
_PEAK_DB = (-14.0, -3.0)
_TAIL_S = 1.0
_START_EVERY_S = 5.0
_SILENT = 1e-4
_LOWEST, _HIGHEST = 12, 115
FAMILY = 8
"""Programs of a family follow each other."""
CLASSES = (
    *("Piano", "Chromatic Percussion", "Organ", "Guitar", "Bass", "Strings", "Strings", "Brass"),
    *("Reed", "Pipe", "Synth Lead", "Synth Pad", "Synth Effects", "Ethnic", "Percussive"),
    "Sound Effects",
)
"""One a family, as Slakh2100 calls them; ensembles count as strings."""
# fmt: off
PROGRAMS = (
    "Acoustic Grand Piano", "Bright Acoustic Piano", "Electric Grand Piano", "Honky-tonk Piano",
    "Electric Piano 1", "Electric Piano 2", "Harpsichord", "Clavinet",
    "Celesta", "Glockenspiel", "Music Box", "Vibraphone",
    "Marimba", "Xylophone", "Tubular Bells", "Dulcimer",
    "Drawbar Organ", "Percussive Organ", "Rock Organ", "Church Organ",
    "Reed Organ", "Accordion", "Harmonica", "Tango Accordion",
    "Acoustic Guitar (nylon)", "Acoustic Guitar (steel)", "Electric Guitar (jazz)",
    "Electric Guitar (clean)", "Electric Guitar (muted)", "Overdriven Guitar",
    "Distortion Guitar", "Guitar Harmonics",
    "Acoustic Bass", "Electric Bass (finger)", "Electric Bass (pick)", "Fretless Bass",
    "Slap Bass 1", "Slap Bass 2", "Synth Bass 1", "Synth Bass 2",
    "Violin", "Viola", "Cello", "Contrabass",
    "Tremolo Strings", "Pizzicato Strings", "Orchestral Harp", "Timpani",
    "String Ensemble 1", "String Ensemble 2", "Synth Strings 1", "Synth Strings 2",
    "Choir Aahs", "Voice Oohs", "Synth Voice", "Orchestra Hit",
    "Trumpet", "Trombone", "Tuba", "Muted Trumpet",
    "French Horn", "Brass Section", "Synth Brass 1", "Synth Brass 2",
    "Soprano Sax", "Alto Sax", "Tenor Sax", "Baritone Sax",
    "Oboe", "English Horn", "Bassoon", "Clarinet",
    "Piccolo", "Flute", "Recorder", "Pan Flute",
    "Blown Bottle", "Shakuhachi", "Whistle", "Ocarina",
    "Lead 1 (square)", "Lead 2 (sawtooth)", "Lead 3 (calliope)", "Lead 4 (chiff)",
    "Lead 5 (charang)", "Lead 6 (voice)", "Lead 7 (fifths)", "Lead 8 (bass + lead)",
    "Pad 1 (new age)", "Pad 2 (warm)", "Pad 3 (polysynth)", "Pad 4 (choir)",
    "Pad 5 (bowed)", "Pad 6 (metallic)", "Pad 7 (halo)", "Pad 8 (sweep)",
    "FX 1 (rain)", "FX 2 (soundtrack)", "FX 3 (crystal)", "FX 4 (atmosphere)",
    "FX 5 (brightness)", "FX 6 (goblins)", "FX 7 (echoes)", "FX 8 (sci-fi)",
    "Sitar", "Banjo", "Shamisen", "Koto",
    "Kalimba", "Bagpipe", "Fiddle", "Shanai",
    "Tinkle Bell", "Agogo", "Steel Drums", "Woodblock",
    "Taiko Drum", "Melodic Tom", "Synth Drum", "Reverse Cymbal",
    "Guitar Fret Noise", "Breath Noise", "Seashore", "Bird Tweet",
    "Telephone Ring", "Helicopter", "Applause", "Gunshot",
)
_DRUMS = {
    "kick drum": (35, 36), "snare drum": (37, 38, 39, 40), "toms": (41, 43, 45, 47, 48, 50),
    "cymbals": (42, 44, 46, 49, 51, 52, 53, 55, 57, 59),
}
# fmt: on
_DRUM_OF = {note: name for name, notes in _DRUMS.items() for note in notes}


@dataclass(frozen=True, kw_only=True)
class MidiConfig:
    """How the compositions of a folder become songs."""

    seed: int = 0
    """All songs follow from it."""
    renderings: int = 1
    """Songs a file."""
    seconds: float = 75.0
    """Length of a song; shorter files are played whole."""
    valid_share: float = 0.05
    test_share: float = 0.1
    """Shares of the files whose songs are ``valid`` and ``test``."""
    split_drums: bool = False
    """One stem a drum instead of one for the kit."""

    def __post_init__(self) -> None:
        if self.seed < 0 or self.renderings < 1:
            raise ValueError(
                f"seed is {self.seed} and renderings {self.renderings}; expected at least 0 and 1"
            )
        if not 8 <= self.seconds <= 600:
            raise ValueError(f"seconds is {self.seconds}; it must be between 8 and 600")
        if min(self.valid_share, self.test_share) < 0 or self.valid_share + self.test_share >= 1:
            raise ValueError(
                f"valid_share is {self.valid_share} and test_share {self.test_share}; expected 0 "
                "or more, together below 1"
            )

    def split(self, content: str) -> Split:
        """Choose the split of a file by the hash of its content."""
        place = int(content[:8], 16) / 0x1_0000_0000
        if place < self.test_share:
            return "test"
        return "valid" if place < self.test_share + self.valid_share else "train"


@dataclass(frozen=True, kw_only=True)
class PlannedPart:
    """One stem to be: what is played by which program of which soundfont."""

    part: Part
    """Its notes in the excerpt, in seconds of the song."""
    labels: Labels
    program: int
    soundfonts: tuple[int, ...]
    """In the order in which they are tried."""
    dynamics: float
    peak_db: float

    @property
    def bank(self) -> int:
        """The soundfont's bank."""
        return DRUM_BANK if self.part.is_drums else 0


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """One song to be."""

    number: int
    split: Split
    duration_s: float
    start_s: float
    """Where in the file the excerpt begins."""
    tempo: float
    """How much faster than written."""
    parts: tuple[PlannedPart, ...]
    production_seed: tuple[int, ...]


def plan_renderings(
    path: Path, content: str, config: MidiConfig, n_soundfonts: int
) -> list[Rendering]:
    """Draw the renderings of a file.

    Args:
        path: the file.
        content: the hash of its bytes.
        config: how many, how long, which seed.
        n_soundfonts: how many there are to draw from.

    Raises:
        MidiError: the file cannot be used.
    """
    composition = read_composition(path)
    planned = [
        _plan(composition, content, config, n_soundfonts, number)
        for number in range(config.renderings)
    ]
    if short := [rendering for rendering in planned if len(rendering.parts) < MIN_PARTS]:
        raise MidiError(f"plays {len(short[0].parts)} parts at once; expected {MIN_PARTS} or more")
    return planned


def render(rendering: Rendering, soundfonts: Sequence[Path]) -> Iterator[np.ndarray]:
    """Play a rendering, stem by stem.

    Yields:
        (samples,) float32 within ±1, one a part; silence where no soundfont has its program.
    """
    rng = np.random.default_rng(np.random.SeedSequence(rendering.production_seed))
    character = draw_character(rng)
    for planned in rendering.parts:
        dry = _play(planned, rendering.duration_s, soundfonts)
        peak = float(np.abs(dry).max(initial=0.0))
        if peak < _SILENT:
            yield np.zeros_like(dry)
        else:
            gain = np.float32(10 ** (planned.peak_db / 20) / peak)
            yield np.clip(produce(dry * gain, character, rng), -1, 1)


def _plan(
    composition: Composition, content: str, config: MidiConfig, n_soundfonts: int, number: int
) -> Rendering:
    key = [config.seed, *(int(content[i : i + 8], 16) for i in range(0, 32, 8)), number]
    rng = np.random.default_rng(np.random.SeedSequence(key))
    tempo = round(float(rng.uniform(*_TEMPO)), 4)
    transposition = int(rng.integers(_TRANSPOSITION[0], _TRANSPOSITION[1] + 1))
    start_s, end_s = _draw_excerpt(rng, composition, config.seconds * tempo)
    duration_s = min(config.seconds, (end_s - start_s) / tempo + _TAIL_S)
    parts = []
    for part in composition.parts:
        shift = 0 if part.is_drums else transposition
        excerpt = _excerpt(part, start_s, end_s, tempo, shift)
        if len(excerpt.notes) >= MIN_NOTES:
            for piece, labels in _pieces(excerpt, config.split_drums):
                parts.append(_plan_part(rng, piece, labels, n_soundfonts))
    return Rendering(
        number=number,
        split=config.split(content),
        duration_s=duration_s,
        start_s=start_s,
        tempo=tempo,
        parts=tuple(parts),
        production_seed=(*key, 1),
    )


def _draw_excerpt(
    rng: np.random.Generator, composition: Composition, length_s: float
) -> tuple[float, float]:
    """Draw where the song begins and ends in the file, among places where most parts play."""
    last_s = max(0.0, composition.duration_s - length_s)
    starts = np.arange(0.0, last_s + 0.1, _START_EVERY_S)
    playing = np.zeros(len(starts), int)
    for part in composition.parts:
        begun_s = np.array([note.start_s for note in part.notes])
        ends = np.searchsorted(begun_s, starts + length_s)
        playing += ends - np.searchsorted(begun_s, starts) >= MIN_NOTES
    start_s = float(rng.choice(starts[playing == playing.max()]))
    return start_s, min(composition.duration_s, start_s + length_s)


def _excerpt(part: Part, start_s: float, end_s: float, tempo: float, shift: int) -> Part:
    """Cut a part to an excerpt: times from its start at the new tempo, notes transposed.

    A controller keeps the value that it had at the start.
    """
    notes = tuple(
        MidiNote(
            max(0.0, note.start_s - start_s) / tempo,
            (min(note.end_s, end_s) - start_s) / tempo,
            min(max(note.pitch + shift, _LOWEST), _HIGHEST) if shift else note.pitch,
            note.velocity,
        )
        for note in part.notes
        if note.end_s > start_s + 0.05 and note.start_s < end_s
    )
    controls = tuple(
        control._replace(time_s=max(0.0, control.time_s - start_s) / tempo)
        for control in part.controls
        if control.time_s < end_s
    )
    return replace(part, notes=notes, controls=controls)


def _pieces(part: Part, split_drums: bool) -> Iterator[tuple[Part, Labels]]:
    """Yield a part with its labels, of drums (where asked for) each drum for itself."""
    if not part.is_drums:
        yield part, ()
        return
    if not split_drums:
        yield part, drum_labels(None)
        return
    by_drum: dict[Labels, list[MidiNote]] = {}
    for note in part.notes:
        by_drum.setdefault(drum_labels(note.pitch), []).append(note)
    for labels, notes in sorted(by_drum.items()):
        if len(notes) >= MIN_NOTES:
            yield replace(part, notes=tuple(notes)), labels


def _plan_part(
    rng: np.random.Generator, part: Part, labels: Labels, n_soundfonts: int
) -> PlannedPart:
    program, other = part.program, int(rng.integers(FAMILY))
    if rng.random() < _OTHER_PROGRAM and not part.is_drums:
        program = program // FAMILY * FAMILY + other
    return PlannedPart(
        part=part,
        labels=labels or program_labels(program),
        program=program,
        soundfonts=tuple(int(i) for i in rng.permutation(n_soundfonts)),
        dynamics=float(rng.uniform(*_DYNAMICS)),
        peak_db=float(rng.uniform(*_PEAK_DB)),
    )


def _play(planned: PlannedPart, duration_s: float, soundfonts: Sequence[Path]) -> np.ndarray:
    """Play a part through the first soundfont that has its program; for a kit, some kit will do."""
    events = _events(planned)
    for program in (planned.program, 0) if planned.part.is_drums else (planned.program,):
        for place in planned.soundfonts:
            played = play(soundfonts[place], planned.bank, program, events, duration_s)
            if played is not None:
                return played
    return np.zeros(round(duration_s * RATE_HZ), np.float32)


def _events(planned: PlannedPart) -> list[Event]:
    events = []
    for control in planned.part.controls:
        if control.number is None:
            events.append(Event(control.time_s, 0, "bend", control.value + 8192))
        else:
            events.append(Event(control.time_s, 0, "control", control.number, control.value))
    for note in planned.part.notes:
        velocity = max(1, round(127 * (note.velocity / 127) ** planned.dynamics))
        events.append(Event(note.end_s, 1, "off", note.pitch))
        events.append(Event(note.start_s, 2, "on", note.pitch, velocity))
    return events


def program_labels(program: int) -> Labels:
    """Label a program, 0 to 127: "Electric Bass (finger)" is bass > finger electric bass."""
    return slakh_labels(CLASSES[program // FAMILY], PROGRAMS[program], is_drums=False)


def drum_labels(note: int | None) -> Labels:
    """Label one drum of a kit, or (None) a kit as a whole."""
    if note is None:
        return slakh_labels("Drums", "", is_drums=True)
    name = _DRUM_OF.get(note)
    return ("drums", name) if name else ("percussion",)
