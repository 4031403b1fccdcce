"""Which stems of a corpus are embedded, and which of its tracks a model has seen in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml.artifacts import DataLayout, read_manifest
from ml.audio.chunks import MIN_ACTIVE_S
from ml.corpora.corpus import CorpusError, Track
from ml.retrieval.embedding_files import StemRow
from ml.retrieval.mixes import ACTIVITY

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, kw_only=True)
class EmbeddingSource:
    """The part of a corpus to embed."""

    corpus: str
    """Its name."""
    table: pl.DataFrame
    """All of ``corpus_tracks``."""
    tracks: Sequence[Track]
    """The tracks of the chosen splits, with their usable stems."""
    identity: Mapping[str, Any]
    """What decides these, and the rules of silence."""

    def rows(self) -> list[StemRow]:
        """One per stem, in the order of the tracks."""
        length = dict(zip(self.table["stem_id"], self.table["duration_s"], strict=True))
        return [
            StemRow(
                stem_id=stem.stem_id,
                track_id=track.track_id,
                corpus=self.corpus,
                split=track.split,
                label=stem.label,
                category=stem.category,
                labels=stem.labels,
                duration_s=length[stem.stem_id],
                audio="\n".join(path.as_posix() for path in stem.files),
            )
            for track in self.tracks
            for stem in track.stems
        ]


def open_source(
    name: str, layout: DataLayout, splits: Sequence[str] | None, **identity: Any
) -> EmbeddingSource:
    """The tracks of a corpus to embed.

    Args:
        name: the corpus.
        layout: where its ``corpus_tracks`` lies.
        splits: which tracks; default: ``test`` where the corpus has such tracks, else all.
        identity: what else decides the embeddings, whatever the model.

    Raises:
        ArtifactError: ``corpus_tracks`` was not built.
        CorpusError: no usable track in these splits.
    """
    from ml.corpora.table import FORMAT_VERSION as TRACKS_VERSION
    from ml.corpora.table import read_corpus_tracks, tracks_of_table

    manifest = read_manifest(
        layout.tracks(name), format_version=TRACKS_VERSION, made_by=f"stems corpus build {name}"
    )
    table = read_corpus_tracks(layout, name)
    tracks = [track for track in tracks_of_table(table) if track.stems]
    found = {track.split for track in tracks}
    chosen = splits or (["test"] if "test" in found else None)
    if chosen is not None:
        tracks = [track for track in tracks if track.split in chosen]
    if not tracks:
        raise CorpusError(
            f"corpus {name} has no usable track in the splits {', '.join(chosen or ['(all)'])}; "
            f"it has: {', '.join(sorted(str(s) for s in found)) or 'no tracks'}"
        )
    identity |= {
        "corpus": name,
        "corpus_tracks": manifest["fingerprint"],
        "splits": chosen,
        "activity": ACTIVITY,
        "min_active_s": MIN_ACTIVE_S,
    }
    return EmbeddingSource(corpus=name, table=table, tracks=tracks, identity=identity)
