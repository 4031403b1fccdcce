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
(``ml.retrieval.embeddings.passes``); stem chunks are those of ``chunks.parquet``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import Artifact, DataLayout
from ml.device import Precision
from ml.parquet import read_table, write_table
from ml.retrieval.embeddings.files import CHUNKS, read_embedding_manifest, unit_rows, vectors_of
from ml.retrieval.embeddings.model import EmbeddingModel
from ml.retrieval.embeddings.passes import QueryChunks, query_chunks
from ml.retrieval.embeddings.source import open_source, seen_of_corpus
from ml.retrieval.evaluation.ranks import TIE_TOLERANCE
from ml.scores.files import Evaluated, evaluate_once, score_row
from ml.scores.intervals import TrackBootstrap

if TYPE_CHECKING:
    import pyarrow as pa

EVALUATION = "alignment"
OFFSETS = "offsets.parquet"
FIRST, RANK = "aligned_first", "aligned_rank"
MAX_OFFSET_CHUNKS = 16
"""Farther chunks are ranked but not plotted."""
_ON_GRID_S = 1e-3


@dataclass(frozen=True, kw_only=True)
class ChunkRanks:
    """How the chunks of one stem rank for the query chunks of the same stem."""

    ranks: np.ndarray
    """(query chunk, stem chunk) in percent: 0 first, 100 last; ties count against a chunk."""
    offsets: np.ndarray
    """(query chunk, stem chunk) chunks from the query's time to the stem chunk's."""


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

    def compute() -> Evaluated:
        asked = query_chunks(
            open_source(corpus, layout, manifests[models[0].name]["identity"].get("splits")),
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
            ranked = _rank_chunks(table, asked[model.model_id], model.chunk_s, seen, what)
            named = {"model": model.name, "conditioning": conditioning}
            header = {"evaluation": EVALUATION, "corpus": corpus, "n_gallery": len(ranked)}
            scores += [header | named | row for row in alignment_scores(ranked, resamples, seed)]
            offsets += [named | row for row in offset_rows(ranked, model.chunk_s, resamples, seed)]
        return Evaluated(
            scores=scores, summary=_summary(scores), write_more=partial(_write_offsets, offsets)
        )

    return evaluate_once(layout, EVALUATION, corpus, identity, compute)


def read_offsets(layout: DataLayout, corpus: str) -> list[dict[str, Any]]:
    """Read ``offsets.parquet``: ``model, conditioning, offset_s, value, low, high, chunks``.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    return read_table(layout.scores(EVALUATION, corpus) / OFFSETS).to_pylist()


def chunk_ranks(
    queries: np.ndarray, query_starts: np.ndarray, chunks: np.ndarray, chunk_starts: np.ndarray
) -> ChunkRanks | None:
    """Rank the chunks of a stem for the chunks of its query.

    Args:
        queries: (query chunk, dim), unit norm.
        query_starts: (query chunk,) where, in whole chunks.
        chunks: (stem chunk, dim), unit norm.
        chunk_starts: (stem chunk,) where, in whole chunks.

    Returns:
        The query chunks whose own time is among the stem's; None when there are none, or the stem
        has fewer than two chunks.
    """
    has_own = np.isin(query_starts, chunk_starts)
    if len(chunks) < 2 or not has_own.any():
        return None
    cosines = queries[has_own] @ chunks.T  # (query chunk, stem chunk)
    others = len(chunks) - 1
    before = (cosines[:, None, :] >= cosines[:, :, None] - TIE_TOLERANCE).sum(axis=2) - 1
    return ChunkRanks(
        ranks=100.0 * before / others,
        offsets=chunk_starts[None, :] - query_starts[has_own, None],
    )


def alignment_scores(
    ranked: Sequence[tuple[str, ChunkRanks]], resamples: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Score ``aligned_first`` and ``aligned_rank`` over all query chunks.

    Args:
        ranked: the track and the ranks of each stem.
        resamples: draws of the bootstrap over tracks.
        seed: of the draws.
    """
    own = [ranks.ranks[ranks.offsets == 0] for _, ranks in ranked]
    tracks = np.repeat([track for track, _ in ranked], [len(values) for values in own])
    sizes = [len(ranks.ranks[0]) for _, ranks in ranked]
    values = np.concatenate(own)
    chance = np.repeat(100.0 / np.array(sizes), [len(values) for values in own])
    bootstrap = TrackBootstrap(tracks, resamples=resamples, seed=seed)
    for metric, each, level in (
        (FIRST, 100.0 * (values == 0), float(chance.mean())),
        (RANK, values, 50.0),
    ):
        interval = bootstrap.interval(each)
        yield score_row({}, metric, interval, n_queries=len(values), chance=level)


def offset_rows(
    ranked: Sequence[tuple[str, ChunkRanks]], chunk_s: float, resamples: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Average the ranks of the chunks at each distance in time, with intervals over tracks.

    Args:
        ranked: the track and the ranks of each stem.
        chunk_s: length of a chunk in seconds.
        resamples: draws of the bootstrap over tracks.
        seed: of the draws.
    """
    ranks = np.concatenate([each.ranks.ravel() for _, each in ranked])
    offsets = np.concatenate([each.offsets.ravel() for _, each in ranked])
    tracks = np.repeat([track for track, _ in ranked], [each.ranks.size for _, each in ranked])
    for offset in np.unique(offsets[np.abs(offsets) <= MAX_OFFSET_CHUNKS]):
        chosen = offsets == offset
        bootstrap = TrackBootstrap(tracks[chosen], resamples=resamples, seed=seed)
        interval = bootstrap.interval(ranks[chosen])
        yield {
            "offset_s": float(offset * chunk_s),
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
            "chunks": int(chosen.sum()),
        }


def _rank_chunks(
    table: pa.Table, asked: QueryChunks, chunk_s: float, seen: Collection[str], what: str
) -> list[tuple[str, ChunkRanks]]:
    """Rank the chunks of each stem where that can be done; gives its track too."""
    starts, on_grid = _grid(table["start_s"].to_numpy(), chunk_s)
    query_starts, query_on_grid = _grid(asked.start_s, chunk_s)
    stem_ids, track_ids = table["stem_id"].to_pylist(), table["track_id"].to_pylist()
    tracks = dict(zip(stem_ids, track_ids, strict=True))
    chunks_of, queries_of = _rows_by(stem_ids, on_grid), _rows_by(asked.stem_ids, query_on_grid)
    vectors, asked_vectors = vectors_of(table), unit_rows(asked.vectors, what)
    ranked: list[tuple[str, ChunkRanks]] = []
    for stem_id, rows in chunks_of.items():
        query_rows = queries_of.get(stem_id, [])
        if tracks[stem_id] in seen or not query_rows:
            continue
        ranks = chunk_ranks(
            asked_vectors[query_rows], query_starts[query_rows], vectors[rows], starts[rows]
        )
        if ranks is not None:
            ranked.append((tracks[stem_id], ranks))
    if not ranked:
        raise ValueError(
            f"{what}: no stem of an unseen track sounds in two chunks of {chunk_s} s while its mix "
            f"sounds too, so there is nothing to align; evaluate a corpus of longer tracks"
        )
    return ranked


def _rows_by(stem_ids: Iterable[str], chosen: np.ndarray) -> dict[str, list[int]]:
    """Map each stem to its rows among the chosen ones."""
    rows: dict[str, list[int]] = {}
    for row, (stem_id, is_chosen) in enumerate(zip(stem_ids, chosen, strict=True)):
        if is_chosen:
            rows.setdefault(stem_id, []).append(row)
    return rows


def _grid(start_s: np.ndarray, chunk_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Count starts in whole chunks, and say which of them lie on that grid."""
    places = np.round(start_s / chunk_s).astype(np.int64)
    return places, np.abs(start_s - places * chunk_s) < _ON_GRID_S


def _write_offsets(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    import pyarrow as pa

    write_table(pa.Table.from_pylist(list(rows)), folder / OFFSETS)


def _summary(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pick counts and figures of each model, for people."""
    counts = {"stems": scores[0]["n_gallery"], "query_chunks": scores[0]["n_queries"]}
    return {**counts, **{f"{row['model']} {row['metric']}": row["value"] for row in scores}}
