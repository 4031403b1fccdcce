"""MIDI files and soundfonts of our own making."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from ctypes.util import find_library
from pathlib import Path

import mido
import numpy as np
import pytest

TICKS = 480
RATE_HZ = 22_050


def write_song(
    path: Path,
    programs: Iterable[int] = (0, 33, 48),
    *,
    beats: int = 40,
    tempo: int = 500_000,
    has_drums: bool = True,
    pitch: int = 60,
) -> Path:
    """Format 1: a track a program, one note a beat, and drums."""
    file = mido.MidiFile(type=1, ticks_per_beat=TICKS)
    first = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=tempo)])
    file.tracks.append(first)
    channels = [*enumerate(programs), *([(9, 0)] if has_drums else [])]
    for channel, program in channels:
        track = mido.MidiTrack([mido.MetaMessage("track_name", name=f"part {channel}")])
        track.append(mido.Message("program_change", channel=channel, program=program))
        for beat in range(beats):
            note = (36, 38)[beat % 2] if channel == 9 else pitch + 3 * channel + beat % 5
            loud = 40 + beat % 80
            track.append(mido.Message("note_on", channel=channel, note=note, velocity=loud))
            track.append(mido.Message("note_off", channel=channel, note=note, time=TICKS))
        file.tracks.append(track)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save(path)
    return path


@pytest.fixture
def song() -> Callable[..., Path]:
    """``write_song``."""
    return write_song


@pytest.fixture(scope="session")
def soundfonts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two soundfonts: sines for all of General MIDI, and squares for keys alone."""
    if find_library("fluidsynth") is None:
        pytest.skip("FluidSynth is not installed: apt-get install fluidsynth")
    folder = tmp_path_factory.mktemp("soundfonts")
    cycle = np.sin(2 * np.pi * np.arange(100) / 100)
    programs = [(0, program) for program in range(128)]
    kinds = {"sine": (cycle, [*programs, (128, 0)]), "square": (np.sign(cycle), programs[:16])}
    return [
        _write_soundfont(folder / f"{name}.sf2", wave, presets)
        for name, (wave, presets) in kinds.items()
    ]


def _write_soundfont(path: Path, cycle: np.ndarray, presets: list[tuple[int, int]]) -> Path:
    """One looped sample (SoundFont 2.01), which all presets (bank, program) play."""
    wave = np.rint(12_000 * np.tile(cycle, 20)).astype("<i2")
    samples = wave.tobytes() + bytes(92)
    headers = b"".join(
        struct.pack("<20sHHHIII", f"p{bank}-{program}".encode(), program, bank, i, 0, 0, 0)
        for i, (bank, program) in enumerate([*presets, (0, 255)])
    )
    bags = b"".join(struct.pack("<HH", i, 0) for i in range(len(presets) + 1))
    plays = b"".join(struct.pack("<HH", 41, 0) for _ in presets) + bytes(4)
    sample = struct.pack(
        "<20sIIIIIBbHH", b"wave", 0, len(wave), 500, 1500, RATE_HZ, 57, 0, 0, 1
    ) + struct.pack("<20sIIIIIBbHH", b"EOS", *(0,) * 9)
    data = {
        b"phdr": headers,
        b"pbag": bags,
        b"pmod": bytes(10),
        b"pgen": plays,
        b"inst": struct.pack("<20sH", b"wave", 0) + struct.pack("<20sH", b"EOI", 1),
        b"ibag": struct.pack("<HHHH", 0, 0, 2, 0),
        b"imod": bytes(10),
        b"igen": struct.pack("<HHHH", 54, 1, 53, 0) + bytes(4),
        b"shdr": sample,
    }
    info = {b"ifil": struct.pack("<HH", 2, 1), b"isng": b"EMU8000\0", b"INAM": b"test\0\0"}
    lists = [_list(b"INFO", info), _list(b"sdta", {b"smpl": samples}), _list(b"pdta", data)]
    path.write_bytes(_chunk(b"RIFF", b"sfbk" + b"".join(lists)))
    return path


def _list(kind: bytes, chunks: dict[bytes, bytes]) -> bytes:
    return _chunk(b"LIST", kind + b"".join(_chunk(name, data) for name, data in chunks.items()))


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data
