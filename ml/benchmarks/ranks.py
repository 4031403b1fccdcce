"""Exact ranks and whole evaluations: beside the bare blocked matrix product of the same run.

Ranks of 100,000 queries take five times those of 20,000, measured here: blocks of queries are
independent, and the gallery is the same.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ml import kinds
from ml.artifacts import DataLayout, finish
from ml.benchmarks.measure import Measure, in_own_process, seconds_of
from ml.parquet import write_table
from ml.retrieval.embeddings import files
from ml.retrieval.evaluation.evaluate import evaluate_retrieval
from ml.retrieval.evaluation.ranks import target_ranks

QUERIES, GALLERY_ROWS, DIM = 20_000, 100_000, 768
_QUERY_BLOCK, _GALLERY_BLOCK = 1024, 4096
_MODELS = ("film", "pretrained", "clap", "class", "contrastive", "untrained", "spectrum")
"""The rows of Table I with what needs no learning; differences to the last two are drawn too."""


def measure() -> Iterator[Measure]:
    """Measure ranks in a large gallery, then evaluations the size of MUSDB18 and MoisesDB."""
    yield from _ranks()
    for name, tracks, stems, asked_s in (("MUSDB18", 150, 600, 2.0), ("MoisesDB", 240, 2585, 10.0)):
        yield _evaluation(name, tracks, stems, asked_s)


def _ranks() -> Iterator[Measure]:
    (bare_s, ranks_s), memory_gb = in_own_process(compare_with_product, QUERIES, GALLERY_ROWS)
    size = f"{QUERIES:,} x {GALLERY_ROWS:,} x {DIM}"
    yield Measure(
        name=f"exact ranks, {size}",
        value=ranks_s / bare_s,
        unit="times the bare product",
        asked=1.3,
        lower_is_better=True,
        note=f"{ranks_s:.1f} s beside {bare_s:.1f} s; 100,000 queries: five times as long",
    )
    yield Measure(
        name=f"memory of exact ranks, {size}",
        value=memory_gb,
        unit="GB",
        asked=4.0,
        lower_is_better=True,
        note="peak of the process, vectors and their normalised copies included; "
        "100,000 queries: 0.5 GB more",
    )


def compare_with_product(queries: int, gallery_rows: int) -> tuple[float, float]:
    """Measure seconds of the bare product and of the ranks."""
    random = np.random.default_rng(0)
    gallery = random.standard_normal((gallery_rows, DIM), dtype=np.float32)
    noise = random.standard_normal((queries, DIM), dtype=np.float32)
    asked = gallery[:queries] + np.float32(12) * noise  # the median rank: 1 % of the gallery
    del noise
    # Half of the product before, half after: other work on the machine then counts for both.
    bare_s = _seconds_of_product(asked[: queries // 2], gallery)
    ranks_s = seconds_of(lambda: target_ranks(asked, gallery, np.arange(queries)))
    bare_s += _seconds_of_product(asked[queries // 2 :], gallery)
    return bare_s, ranks_s


def _seconds_of_product(queries: np.ndarray, gallery: np.ndarray) -> float:
    """Compute every similarity, block by block, and throw it away."""
    block = np.empty((_QUERY_BLOCK, _GALLERY_BLOCK), dtype=np.float32)
    started = time.perf_counter()
    for first in range(0, len(queries), _QUERY_BLOCK):
        some = queries[first : first + _QUERY_BLOCK]
        for start in range(0, len(gallery), _GALLERY_BLOCK):
            part = gallery[start : start + _GALLERY_BLOCK]
            np.matmul(some, part.T, out=block[: len(some), : len(part)])
    return time.perf_counter() - started


def _evaluation(name: str, tracks: int, stems: int, asked_s: float) -> Measure:
    with tempfile.TemporaryDirectory() as folder:
        layout = DataLayout(home=Path(folder))
        for model in _MODELS:
            _write_embeddings(layout, name, model, tracks, stems)
        models = {model: model for model in _MODELS}
        seconds = seconds_of(lambda: evaluate_retrieval(name, layout, models))
    return Measure(
        name=f"evaluation the size of {name}, from embeddings",
        value=seconds,
        unit="s",
        asked=asked_s,
        lower_is_better=True,
        note=f"{stems:,} stems of {tracks} tracks, {DIM} dimensions, {len(_MODELS)} models, "
        "intervals and paired differences of 1000 draws",
    )


def _write_embeddings(layout: DataLayout, corpus: str, model: str, tracks: int, stems: int) -> None:
    """Write random vectors as a model's embeddings; queries lie near their targets."""
    random = np.random.default_rng(len(model))
    folder = layout.embeddings(model, corpus)
    rows = [
        files.StemRow(
            stem_id=f"{i % tracks}/{i}",
            track_id=str(i % tracks),
            corpus=corpus,
            split="test",
            label=f"label {i % 38}",
            category=f"label {i % 11}",
            labels=(f"label {i % 11}", f"label {i % 38}"),
            duration_s=240.0,
            audio="",
        )
        for i in range(stems)
    ]
    gallery = random.standard_normal((stems, DIM), dtype=np.float32)
    queries = gallery + np.float32(4) * random.standard_normal((stems, DIM), dtype=np.float32)
    write_table(files.stem_table(rows, gallery), folder / files.GALLERY)
    table = files.query_table(rows, [row.label for row in rows], queries)
    write_table(table, folder / files.queries_name("fine"))
    identity = {"conditionings": ["fine"], "model_id": model}
    finish(folder, identity, kinds.EMBEDDINGS, summary={}, dim=DIM, seen_tracks=[])
