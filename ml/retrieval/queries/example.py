"""A query of a home's own stems to begin with: a song without one of them, and the command.

A file of its own, since it writes a mix where a query only reads one.
"""

from __future__ import annotations

import random
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml.settings import Settings

if TYPE_CHECKING:
    from ml.tracks import Stem, Track

_RATE_HZ = 16_000


@dataclass(frozen=True, kw_only=True)
class Example:
    """A song without one of its stems, and what asks for that stem."""

    mix: Path
    instrument: str
    asked: str
    """Key of the stem that the mix lacks: ``<corpus>/<stem_id>``."""
    command: str


def example_query(settings: Settings, corpus: str) -> Example | None:
    """Make a mix that lacks a stem, and the command that asks for it.

    Song and stem are drawn by ``demo.seed``, not picked, among songs with a labelled stem; of the
    test songs where the corpus has such songs. None where it has no such song.

    Args:
        settings: of the home; the mix lies in its ``examples``.
        corpus: its ``corpus_tracks`` must have been built.
    """
    from ml.corpora.table import read_corpus_tracks, tracks_of_table

    tracks = tracks_of_table(read_corpus_tracks(settings.layout, corpus))
    tracks = [track for track in tracks if track.split == "test"] or tracks
    asked = [(t, stem) for t in tracks for stem in t.stems if stem.labels and len(t.stems) > 1]
    if not asked:
        return None
    track, stem = random.Random(settings.demo.seed).choice(asked)
    mix = _mix_without(track, stem, settings.layout.home / "examples")
    parts = ["--home", str(settings.home), "query", str(mix), "--instrument", stem.label]
    return Example(
        mix=mix,
        instrument=stem.label,
        asked=f"{corpus}/{stem.stem_id}",
        command=shlex.join([_program(), *parts]),
    )


def example_outcome(settings: Settings, example: Example) -> str:
    """Ask for the stem that an example's mix lacks, and say at which place it comes.

    Args:
        settings: of a home whose tables hold that stem.
        example: of ``example_query``.
    """
    from ml.retrieval.queries.retriever import open_retriever

    retriever = open_retriever(settings, has_files=False)
    stems = len(retriever.tables)
    found = retriever.query(example.mix, example.instrument, k=stems)
    place = next((stem.rank for stem in found if stem.key == example.asked), None)
    if place is None:
        return f"The stem that was left out is not among the {stems} stems of the tables."
    return (
        f"The stem that was left out comes {place} of {stems}; at random it would come "
        f"{(stems + 1) // 2} on average."
    )


def _program() -> str:
    """Name the command as it can be called from the working directory."""
    stems = Path(sys.executable).with_name("stems")
    program = str(stems) if stems.exists() else shutil.which("stems") or "stems"
    if Path(program).is_relative_to(Path.cwd()):
        program = str(Path(program).relative_to(Path.cwd()))
    return program


def _mix_without(track: Track, asked: Stem, folder: Path) -> Path:
    """Write the sum of a track's other stems, at ``_RATE_HZ``."""
    import soundfile

    from ml.artifacts import write_aside
    from ml.audio.files import mix_parts, read_stem

    others = [read_stem(s, _RATE_HZ) for s in track.stems if s.stem_id != asked.stem_id]
    name = f"{track.track_id}-without-{asked.label}.wav"
    path = folder / "".join("-" if letter in " /" else letter for letter in name)
    with write_aside(path) as aside:
        soundfile.write(aside, mix_parts(others), _RATE_HZ, format="WAV", subtype="FLOAT")
    return path
