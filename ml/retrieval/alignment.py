"""Where a stem fits: does the chunk of the same time rank above the stem's other chunks?

The predecessor (Stem-JEPA, arXiv:2408.02514, section 5) reports that embeddings carry temporal
alignment. Here: each chunk of a query (the mix without the stem, predicted for its label) ranks the
sounding chunks of *its own* stem. Only chunks on the grid of the chunk length take part (the last
one of a track, aligned to its end, overlaps the one before), only query chunks whose own time
sounds in the stem, and only stems with two such chunks or more.

Scores (evaluation ``alignment``, percent): ``aligned_first``, the share of query chunks whose own
time comes first (chance: mean of 1/n), and ``aligned_rank``, the mean of (rank − 1)/(n − 1): 0 is
always first, chance is 50. Differs from the normalised rank of Table I, whose chance depends on n.
Ties count against a chunk. Loops that repeat exactly cannot be told apart, and count so too.

``offsets.parquet`` has the mean rank of the chunks at each distance in time (0 is the same time).
A curve that is lowest at 0 and flat elsewhere says "here"; one that rises slowly says only "in this
part of the song". Query chunks are not stored with the embeddings and are computed here
(``ml.retrieval.alignment_pass``); stem chunks are those of ``chunks.parquet``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import Artifact, DataLayout, find_current, finish
from ml.device import Precision
from ml.locks import lock
from ml.retrieval.alignment_pass import QueryChunks, query_chunks
from ml.retrieval.chunk_ranks import ChunkRanks, alignment_scores, chunk_ranks, offset_rows
from ml.retrieval.embedding_files import (
    CHUNKS,
    read_embedding_manifest,
    read_table,
    vectors_of,
    write_table,
)
from ml.retrieval.embedding_model import EmbeddingModel
from ml.retrieval.embedding_source import open_source
from ml.retrieval.leakage import seen_of_corpus
from ml.retrieval.metrics import unit_rows
from ml.retrieval.score_files import FORMAT_VERSION, write_scores

if TYPE_CHECKING:
    import pyarrow as pa

EVALUATION = "alignment"
OFFSETS = "offsets.parquet"
MADE_BY = "stems evaluate alignment --corpus"
_ON_GRID_S = 1e-3


def evaluate_alignment(
    corpus: str,
    layout: DataLayout,
    models: Sequence[EmbeddingModel],
    label_vectors: Mapping[str, np.ndarray],
    *,
    conditioning: str = "fine",
    device: str = "cpu",
    batch_chunks: int = 64,
    precision: Precision = "bf16",
    resamples: int = 1000,
    seed: int = 0,
) -> Artifact:
    """Score how well models tell the time at which a stem fits.

    Args:
        corpus: its name; all models must have embedded it.
        layout: where everything lies.
        models: in the order of the table.
        label_vectors: (condition_dim,) per text; may be empty when no model takes conditions.
        conditioning: what queries are conditioned with.
        device: where to compute.
        batch_chunks: chunks in a batch.
        precision: ``bf16`` computes the encoders in autocast.
        resamples: draws of the bootstrap over tracks.
        seed: of the draws.

    Returns:
        The artifact with ``scores.parquet`` and ``offsets.parquet``.

    Raises:
        ArtifactError: a model has no embeddings of the corpus, or they are damaged.
        AudioError: an audio file has gone.
        ValueError: no models, or no stem has two chunks.
    """
    if not models:
        raise ValueError("there are no models to evaluate; train one first: stems train")
    manifests = {m.name: read_embedding_manifest(layout, m.model_id, corpus) for m in models}
    identity = {
        "corpus": corpus,
        "models": [(model.name, model.model_id) for model in models],
        "embeddings": {name: manifest["fingerprint"] for name, manifest in manifests.items()},
        "conditioning": conditioning,
        "precision": precision,
        "resamples": resamples,
        "seed": seed,
    }
    folder = layout.scores(EVALUATION, corpus)
    found = find_current(folder, identity, format_version=FORMAT_VERSION)
    if found is not None:
        return found
    splits = manifests[models[0].name]["identity"].get("splits")
    asked = query_chunks(
        open_source(corpus, layout, splits),
        models,
        label_vectors,
        conditioning,
        device=device,
        batch_chunks=batch_chunks,
        precision=precision,
    )
    seen = seen_of_corpus(corpus, layout, [model.training_tracks for model in models])
    seen |= {track for manifest in manifests.values() for track in manifest["seen_tracks"]}
    scores, offsets = [], []
    for model in models:
        table = read_table(layout.embeddings(model.model_id, corpus) / CHUNKS)
        what = f"query chunks by {model.name} of {corpus}"
        found = _rank_chunks(table, asked[model.model_id], model.chunk_s, seen, what)
        named = {"model": model.name, "conditioning": conditioning}
        header = {"evaluation": EVALUATION, "corpus": corpus, "n_gallery": len(found)}
        scores += [header | named | row for row in alignment_scores(found, resamples, seed)]
        offsets += [named | row for row in offset_rows(found, model.chunk_s, resamples, seed)]
    with lock(folder / ".lock"):
        write_scores(scores, folder)
        _write_offsets(offsets, folder / OFFSETS)
        return finish(folder, identity, format_version=FORMAT_VERSION, summary=_summary(scores))


def read_offsets(layout: DataLayout, corpus: str) -> list[dict[str, Any]]:
    """Rows of ``offsets.parquet``: ``model, conditioning, offset_s, value, low, high, chunks``.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    return read_table(layout.scores(EVALUATION, corpus) / OFFSETS).to_pylist()


def _rank_chunks(
    table: pa.Table, asked: QueryChunks, chunk_s: float, seen: Collection[str], what: str
) -> list[tuple[str, ChunkRanks]]:
    """Track and ranks of each stem that can be ranked."""
    starts, on_grid = _grid(table["start_s"].to_numpy(), chunk_s)
    query_starts, query_on_grid = _grid(asked.start_s, chunk_s)
    stem_ids, track_ids = table["stem_id"].to_pylist(), table["track_id"].to_pylist()
    tracks = dict(zip(stem_ids, track_ids, strict=True))
    chunks_of, queries_of = _rows_by(stem_ids, on_grid), _rows_by(asked.stem_ids, query_on_grid)
    vectors, asked_vectors = vectors_of(table), unit_rows(asked.vectors, what)
    found: list[tuple[str, ChunkRanks]] = []
    for stem_id, rows in chunks_of.items():
        query_rows = queries_of.get(stem_id, [])
        if tracks[stem_id] in seen or not query_rows:
            continue
        ranks = chunk_ranks(
            asked_vectors[query_rows], query_starts[query_rows], vectors[rows], starts[rows]
        )
        if ranks is not None:
            found.append((tracks[stem_id], ranks))
    if not found:
        raise ValueError(
            f"{what}: no stem of an unseen track sounds in two chunks of {chunk_s} s while its mix "
            f"sounds too, so there is nothing to align; evaluate a corpus of longer tracks"
        )
    return found


def _rows_by(stem_ids: Iterable[str], chosen: np.ndarray) -> dict[str, list[int]]:
    """Stem → its rows among the chosen ones."""
    rows: dict[str, list[int]] = {}
    for row, (stem_id, is_chosen) in enumerate(zip(stem_ids, chosen, strict=True)):
        if is_chosen:
            rows.setdefault(stem_id, []).append(row)
    return rows


def _grid(start_s: np.ndarray, chunk_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Starts in whole chunks, and which of them lie on that grid."""
    places = np.round(start_s / chunk_s).astype(np.int64)
    return places, np.abs(start_s - places * chunk_s) < _ON_GRID_S


def _write_offsets(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa

    write_table(pa.Table.from_pylist(list(rows)), path)


def _summary(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts and figures of each model, for people."""
    counts = {"stems": scores[0]["n_gallery"], "query_chunks": scores[0]["n_queries"]}
    return {**counts, **{f"{row['model']} {row['metric']}": row["value"] for row in scores}}
