from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import mido
import pytest

from ml.corpora.midi.files import MidiError, read_composition


def track(*data: int) -> bytes:
    return b"MTrk" + struct.pack(">I", len(data)) + bytes(data)


def midi(kind: int, ticks: int, *tracks: bytes) -> bytes:
    return b"MThd" + struct.pack(">IHHh", 6, kind, len(tracks), ticks) + b"".join(tracks)


END = (0, 0xFF, 0x2F, 0)
BROKEN = {
    "nothing": (b"", "no MIDI file"),
    "text": (b"this is no music at all", "no MIDI file"),
    "cut": (midi(0, 480, track(0, 0x90, 60, 64, *END))[:-6], "no MIDI file"),
    "running status": (midi(0, 480, track(0, 60, 64, *END)), "no MIDI file"),
    "SMPTE": (midi(1, -6360, track(*END)), "SMPTE"),
    "no division": (midi(1, 0, track(*END)), "SMPTE"),
    "format 2": (midi(2, 480, track(*END)), "format 2"),
    "tempo 0": (
        midi(0, 480, track(0, 0xFF, 0x51, 3, 0, 0, 0, 0, 0x90, 60, 64, 96, 0x80, 60, 0, *END)),
        "tempo of 0",
    ),
    "nine sharps": (midi(0, 480, track(0, 0xFF, 0x59, 2, 9, 5, *END)), "9 sharps"),
    "offset": (midi(0, 480, track(0, 0xFF, 0x54, 5, *(255,) * 5, *END)), "no MIDI file"),
    "one note": (midi(0, 480, track(0, 0x90, 60, 64, 96, 0x80, 60, 0, *END)), "plays 0 parts"),
    "too large": (bytes(1_000_001), "1 MB"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_played_is_refused_with_a_reason(name: str, tmp_path: Path):
    content, why = BROKEN[name]
    path = tmp_path / "x.mid"
    path.write_bytes(content)
    with pytest.raises(MidiError, match=why):
        read_composition(path)


def test_too_few_and_too_many_parts_and_an_hour_are_refused(
    song: Callable[..., Path], tmp_path: Path
):
    with pytest.raises(MidiError, match="plays 2 parts; expected 3 to 64"):
        read_composition(song(tmp_path / "a.mid", (0, 33), has_drums=False))
    with pytest.raises(MidiError, match="lasts 80 minutes; expected at most 60"):
        read_composition(song(tmp_path / "b.mid", beats=300, tempo=16_000_000))
    file = mido.MidiFile(type=1)
    for program in range(100):
        notes = [mido.Message("program_change", program=program, channel=program % 8)]
        for _ in range(4):
            notes += [
                mido.Message(kind, channel=program % 8, time=9) for kind in ("note_on", "note_off")
            ]
        file.tracks.append(
            mido.MidiTrack([mido.Message("note_on", velocity=0, time=program * 99), *notes])
        )
    file.save(tmp_path / "c.mid")
    with pytest.raises(MidiError, match=r"plays 100 parts"):
        read_composition(tmp_path / "c.mid")


def test_parts_are_channels_times_programs_in_seconds(song: Callable[..., Path], tmp_path: Path):
    composition = read_composition(song(tmp_path / "x.mid", (0, 33, 48), beats=8, tempo=600_000))
    assert [(p.channel, p.program, p.is_drums) for p in composition.parts] == [
        *((0, 0, False), (1, 33, False), (2, 48, False), (9, 0, True))
    ]
    first = composition.parts[0]
    assert first.name == "part 0"
    assert [round(note.start_s, 6) for note in first.notes] == [round(0.6 * i, 6) for i in range(8)]
    assert first.notes[0].end_s == pytest.approx(0.6)
    assert composition.duration_s == pytest.approx(4.8)


def test_a_change_of_program_makes_another_part_and_tempo_changes_count(tmp_path: Path):
    file = mido.MidiFile(type=0, ticks_per_beat=100)
    messages = []
    for program in (0, 24, 33):
        messages.append(mido.Message("program_change", program=program))
        for _ in range(4):
            messages += [
                mido.Message("note_on", note=60),
                mido.Message("note_off", note=60, time=50),
            ]
        messages.append(mido.MetaMessage("set_tempo", tempo=1_000_000))
    messages.insert(0, mido.MetaMessage("lyrics", text="\xe4\x80\xff"))
    messages.append(mido.Message("note_on", note=61))  # never ends
    file.tracks.append(mido.MidiTrack(messages))
    file.save(tmp_path / "x.mid")
    parts = read_composition(tmp_path / "x.mid").parts
    assert [part.program for part in parts] == [0, 24, 33]
    assert [part.notes[0].start_s for part in parts] == pytest.approx([0, 1, 3])
