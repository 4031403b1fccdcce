"""A query of a home's own stems to begin with: a song without one of them, and the command.

A file of its own, since it writes a mix where a query only reads one.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ml.settings import Settings

if TYPE_CHECKING:
    from ml.tracks import Stem, Track

_RATE_HZ = 16_000


def example_query(settings: Settings, corpus: str) -> str | None:
    """Make a mix, and the command that asks for the stem that it lacks.

    The mix is the first song with a labelled stem, without that stem; of the test songs where the
    corpus has such songs. None where it has no such song.

    Args:
        settings: of the home; the mix lies in its ``examples``.
        corpus: its ``corpus_tracks`` must have been built.
    """
    from ml.corpora.table import read_corpus_tracks, tracks_of_table

    tracks = tracks_of_table(read_corpus_tracks(settings.layout, corpus))
    tracks = [track for track in tracks if track.split == "test"] or tracks
    asked = ((t, stem) for t in tracks for stem in t.stems if stem.labels and len(t.stems) > 1)
    if (found := next(asked, None)) is None:
        return None
    mix = _mix_without(*found, settings.layout.home / "examples")
    home, instrument = str(settings.home), found[1].label
    return shlex.join([_program(), "--home", home, "query", str(mix), "--instrument", instrument])


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
