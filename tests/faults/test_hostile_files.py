"""Files that were changed at random: each is read, or refused by the error that its reader names.

A few of every kind here, 500 each under the marker ``soak``. The seed and the number of a file say
what was done to it.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import time
import wave
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import mido
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml.artifacts import MANIFEST_NAME, ArtifactError, read_manifest
from ml.corpora.midi.files import MidiError, read_composition
from ml.corpora.readers.manifest import ManifestCorpus
from ml.corpora.scan import scan_stem
from ml.kinds import MODEL
from ml.shards.index import read_index
from ml.shards.inspect import check_shards
from ml.shards.pairs import PairConfig
from ml.shards.reader import ShardPairs
from ml.tracks import CorpusError, Stem
from ml.yaml_file import YamlFileError, parse_yaml

pytestmark = pytest.mark.faults

LONGEST_S, MOST_BYTES = 10.0, 1 << 30
FEW, MANY = 8, 500
KINDS = ("WAV", "RF64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "m4a")
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def encoded(kind: str) -> bytes:
    """Half a second of noise in a format."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((11_025, 2)).astype(np.float32)
    file = io.BytesIO()
    if kind != "m4a":
        soundfile.write(file, noise, 22_050, format=kind)
        return file.getvalue()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=22_050, layout="stereo")
        for start in range(0, len(noise) - 1024, 1024):
            block = np.ascontiguousarray(noise[start : start + 1024].T)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate, frame.time_base, frame.pts = 22_050, Fraction(1, 22_050), start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def mutated(content: bytes, seed: int) -> bytes:
    """Change a few bytes, mostly of the header; cut, repeat or leave out a piece."""
    random = np.random.default_rng(seed)
    changed = bytearray(content)
    reach = len(changed) if seed % 4 == 0 else min(len(changed), 128)
    for place in random.integers(0, reach, random.integers(1, 9)):
        changed[place] = random.choice([0, 1, 0x7F, 0x80, 0xFF, int(random.integers(256))])
    begin, end = sorted(random.integers(0, len(changed), 2))
    match random.integers(6):
        case 0:
            del changed[begin:]
        case 1:
            del changed[begin:end]
        case 2:
            changed[begin:begin] = changed[begin:end]
    return bytes(changed)


def seeds(count: int) -> Iterator[int]:
    """Count; what is done with each number takes neither long nor much memory."""
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(count):
        begun_s = time.monotonic()
        yield seed
        assert time.monotonic() - begun_s < LONGEST_S, f"seed {seed} takes long"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - usage) * 1024
    assert grown < MOST_BYTES


def read_many(folder: Path, kind: str, count: int) -> None:
    content = encoded(kind)
    for seed in seeds(count):
        path = folder / f"{seed}.{kind.lower()}"
        path.write_bytes(mutated(content, seed))
        scan = scan_stem(Stem(stem_id="s", files=(path,), labels=()))
        assert scan.problem is None or str(path) in scan.problem, scan.problem
        path.unlink()


@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_names_damaged_audio_and_never_raises(tmp_path: Path, kind: str):
    read_many(tmp_path, kind, FEW)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_names_damaged_audio_many_times(tmp_path: Path, kind: str):
    read_many(tmp_path, kind, MANY)


def with_a_wrong_value(content: bytes, seed: int) -> bytes:
    """Change or leave out one value anywhere in JSON that stays JSON."""
    random = np.random.default_rng(seed)
    found = node = json.loads(content)
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = keys[random.integers(len(keys))]
        if node[key] and isinstance(node[key], dict | list) and random.integers(4):
            node = node[key]
            continue
        wrong = (None, -1, 1 << 70, "x", [], {}, True, 0.5, "../../x")
        if (choice := random.integers(len(wrong) + 1)) < len(wrong):
            node[key] = wrong[choice]
        elif key != "checksum":  # without one, it is from before there was one
            del node[key]
        return json.dumps(found).encode()


def read_damaged_shards(folder: Path, count: int) -> None:
    """Train on shards with a damaged index, tar or manifest, and check them.

    A changed index is refused; a changed tar is refused, or named by the check: of uncompressed
    audio, which has no checksum of its own, a chunk is read as it is.
    """
    config = PairConfig(chunk_s=2.0, min_active_s=0.3)
    (tar,), (index,) = folder.glob("train*.tar"), folder.glob("train*.json")
    for path in (index, folder / MANIFEST_NAME, tar):
        whole = path.read_bytes()
        for seed in seeds(count):
            damage = mutated if seed % 3 == 0 or path is tar else with_a_wrong_value
            path.write_bytes(changed := damage(whole, seed))
            is_read, problems = False, ()
            with contextlib.suppress(ArtifactError):
                next(ShardPairs([folder], config=config, batch_size=4, seed=0).batches(0))
                is_read = True
            with contextlib.suppress(ArtifactError):
                problems = check_shards(folder).problems
            if path in (index, tar) and changed != whole:
                assert tar.stem in "".join(problems), f"the check passes {path}, seed {seed}"
                assert path is tar or not is_read, f"{path} is believed, seed {seed}"
        path.write_bytes(whole)
    assert check_shards(folder).problems == ()


def test_damaged_shards_are_named(home: Path):
    read_damaged_shards(home / "shards" / "demo", FEW)


@pytest.mark.soak
def test_damaged_shards_are_named_many_times(home: Path):
    read_damaged_shards(home / "shards" / "demo", MANY)


def midi() -> bytes:
    """Three parts of a few notes."""
    file = mido.MidiFile()
    for channel in range(3):
        track = mido.MidiTrack()
        track.append(mido.Message("program_change", program=30 * channel, channel=channel))
        for note in range(60, 72):
            track.append(mido.Message("note_on", note=note, velocity=80, time=0, channel=channel))
            track.append(mido.Message("note_off", note=note, time=240, channel=channel))
        file.tracks.append(track)
    written = io.BytesIO()
    file.save(file=written)
    return written.getvalue()


MANIFEST = b'{"format_version": 1, "model_id": "0123456789abcdef", "name": "film", "shards": []}'
CSV = b"track_id,stem_id,audio,labels,split,start_s\none,a,a.wav,drums > kick,train,0\n"
YAML = b"corpora:\n  a: {kind: folder, root: a}\ntraining: {overrides: {steps: 3}}\n"


def read_csv(path: Path) -> None:
    ManifestCorpus(path)


def read_yaml(path: Path) -> None:
    parse_yaml(path.read_bytes(), path)


def read_model(path: Path) -> None:
    read_manifest(path.parent, MODEL)


READERS: dict[str, tuple[bytes, str, Callable[[Path], object], type[Exception]]] = {
    "MIDI": (midi(), "a.mid", read_composition, MidiError),
    "CSV": (CSV, "corpus.csv", read_csv, CorpusError),
    "YAML": (YAML, "config.yaml", read_yaml, YamlFileError),
    "manifest": (MANIFEST, "manifest.json", read_model, ArtifactError),
    "index": (MANIFEST, "a.index.json", read_index, ArtifactError),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_reader_refuses_by_its_own_error(tmp_path: Path, kind: str):
    content, name, read, error = READERS[kind]

    @QUICK
    @given(
        st.one_of(
            st.binary(max_size=300),
            st.text(max_size=300).map(str.encode),
            st.integers(0, 1 << 30).map(lambda seed: mutated(content, seed)),
        )
    )
    def law(data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        with contextlib.suppress(error):
            read(tmp_path / name)

    law()


def test_the_undamaged_are_read(tmp_path: Path):
    for kind in KINDS:
        path = tmp_path / f"a.{kind.lower()}"
        path.write_bytes(encoded(kind))
        assert scan_stem(Stem(stem_id="s", files=(path,), labels=())).problem is None, kind
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getnframes() == 11_025
    for content, name, read, _ in READERS.values():
        if name not in ("a.index.json",):
            (tmp_path / name).write_bytes(content)
            read(tmp_path / name)
