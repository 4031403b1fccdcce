"""Search in large tables: ingestion, indexing, queries; beside exact scans of the same vectors.

100,000 stems by default; ``STEMS_SEARCH_ROWS=1000000 make bench`` measures a million, which takes
about ten minutes and 8 GB of disk in the temporary folder. Vectors are clustered, 768 wide; queries
are other points of the clusters. The peers are LanceDB's exact scan of the table, and numpy's
product with all vectors in memory, which no search through the index needs to hold.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.benchmarks.measure import Measure, in_own_process, peak_memory_gb, seconds_of

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_VARIABLE = "STEMS_SEARCH_ROWS"
DIM, CLUSTERS, QUERIES, K = 768, 2000, 200, 10
_SPREAD = 0.7
"""Norm of what is added to a cluster's centre of norm 1."""
_BATCH_ROWS = 10_000
_EXACT_QUERIES = 20
_BYTES_A_ROW = 8000
"""Room on disk: the vectors, as many in the index, what a merge spills."""


def measure() -> Iterator[Measure]:
    """One table from empty to searched; each step in a process of its own."""
    rows = int(os.environ.get(ROWS_VARIABLE, "100000"))
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < rows * _BYTES_A_ROW:
        raise RuntimeError(
            f"{tempfile.gettempdir()} has {free / 1e9:.0f} GB free; expected "
            f"{rows * _BYTES_A_ROW / 1e9:.0f} GB for {rows:,} rows; set TMPDIR or {ROWS_VARIABLE}"
        )
    with tempfile.TemporaryDirectory() as folder:
        made, _ = in_own_process(make_table, f"{folder}/table", rows)
        searched, _ = in_own_process(search_table, f"{folder}/table", rows)
    size = f"{rows:,} x {DIM}"
    yield Measure(
        name=f"publishing stems, {size}",
        value=rows / made["merge_s"],
        unit="rows/s",
        asked=20_000,
        peer="LanceDB's add, without a key",
        peer_value=min(rows, 100_000) / made["add_s"],
        note=f"one merge in {made['merge_s']:.1f} s, memory {made['merge_gb']:.2f} GB; the time to "
        "make the vectors is taken off both",
    )
    tuning = searched["tuning"]
    yield Measure(
        name=f"search through the index, {size}",
        value=searched["p50_ms"],
        unit="ms",
        asked=25.0,
        lower_is_better=True,
        peer="LanceDB's exact scan",
        peer_value=searched["scan_ms"],
        note=f"median of {QUERIES} queries for {K} whole rows, p95 {searched['p95_ms']:.1f} ms; "
        f"numpy over vectors in memory {searched['numpy_ms']:.1f} ms; process peak "
        f"{searched['memory_gb']:.2f} GB before the scans; {tuning['partitions']} partitions, "
        f"{tuning['probes']} visited, indexed in {made['index_s']:.0f} s",
    )
    yield Measure(
        name=f"recall@{K} of that search",
        value=searched["recall"],
        unit="of the exact",
        asked=0.95,
    )


def make_table(uri: str, rows: int) -> dict[str, float]:
    """Publish and index; seconds and peak memory in GB."""
    import lancedb

    from ml.retrieval.tables.index import optimize_tables
    from ml.retrieval.tables.publish import STEM_TABLE, merge_corpus

    schema = next(_batches(1)).schema  # imports and centres are not part of making vectors
    generating_s = seconds_of(lambda: [None for _ in _batches(rows)])

    stems = _Stems(schema=schema, rows=rows)

    def merge() -> None:
        merge_corpus(uri, STEM_TABLE, stems, corpus="bench", model_id="bench")

    merge_s = seconds_of(merge) - generating_s
    merge_gb = peak_memory_gb()
    peer_rows = min(rows, 100_000)
    with tempfile.TemporaryDirectory(dir=Path(uri).parent) as peer:
        table = lancedb.connect(peer).create_table("peer", schema=schema)
        add_s = seconds_of(lambda: table.add(_reader(schema, peer_rows)))
    return {
        "merge_s": merge_s,
        "merge_gb": merge_gb,
        "add_s": add_s - generating_s * peer_rows / rows,
        "index_s": seconds_of(lambda: optimize_tables(uri)),
        "index_gb": peak_memory_gb(),
    }


def search_table(uri: str, rows: int) -> dict[str, Any]:
    """Search as queries do, then exactly; milliseconds, recall, memory in GB."""
    from ml.retrieval.tables.database import open_table
    from ml.retrieval.tables.index import nearest, read_tuning
    from ml.retrieval.tables.publish import STEM_TABLE
    from ml.retrieval.tables.search import StemTables

    queries = _points(np.random.default_rng(1), QUERIES + 20)[0]
    tables = StemTables(uri)
    for query in queries[QUERIES:]:  # a first query opens the index
        tables.search(query, K)
    times, found = [], []
    for query in queries[:QUERIES]:
        started = time.perf_counter()
        hits = tables.search(query, K)
        times.append(1e3 * (time.perf_counter() - started))
        found.append([hit.row["key"] for hit in hits])
    memory_gb = peak_memory_gb()
    table = open_table(uri, STEM_TABLE)
    scan_s = [
        seconds_of(lambda query=query: nearest(table, query, K, probes=None))
        for query in queries[:_EXACT_QUERIES]
    ]
    exact, numpy_ms = _exact(rows, queries[:QUERIES])
    tuning = read_tuning(table)
    hits = [len(set(keys) & wanted) for keys, wanted in zip(found, exact, strict=True)]
    return {
        "p50_ms": median(times),
        "p95_ms": float(np.percentile(times, 95)),
        "scan_ms": 1e3 * median(scan_s),
        "numpy_ms": numpy_ms,
        "recall": sum(hits) / (K * QUERIES),
        "memory_gb": memory_gb,
        "tuning": asdict(tuning) if tuning else {"partitions": 0, "probes": 0, "recall": 1.0},
    }


def _exact(rows: int, queries: np.ndarray) -> tuple[list[set[str]], float]:
    """Keys of the exact first ten of each query, and numpy's time for one query in ms."""
    vectors = np.empty((rows, DIM), dtype=np.float32)
    for i, batch in enumerate(_batches(rows)):
        values = batch["vector"].flatten().to_numpy().reshape(-1, DIM)
        vectors[i * _BATCH_ROWS :][: len(values)] = values

    def best(query: np.ndarray) -> np.ndarray:
        return np.argpartition(-(vectors @ query), K)[:K]

    times = [seconds_of(lambda query=query: best(query)) for query in queries[:_EXACT_QUERIES]]
    keys = [{f"bench/{i // 8}/{i}" for i in best(query)} for query in queries]
    return keys, 1e3 * median(times)


@dataclass(frozen=True, kw_only=True)
class _Stems:
    """So many stems, a batch in memory at a time."""

    schema: pa.Schema
    rows: int

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        return _batches(self.rows)


def _reader(schema: pa.Schema, rows: int) -> pa.RecordBatchReader:
    import pyarrow as pa

    return pa.RecordBatchReader.from_batches(schema, _batches(rows))


def _batches(rows: int) -> Iterator[pa.RecordBatch]:
    """Stems of one corpus, eight a track; their label tells something of their cluster."""
    import pyarrow as pa

    from ml.retrieval.embeddings.files import stem_schema, vector_column

    random, schema = np.random.default_rng(2), stem_schema(DIM)
    for first in range(0, rows, _BATCH_ROWS):
        ids = np.arange(first, min(rows, first + _BATCH_ROWS))
        vectors, clusters = _points(random, len(ids))
        labels = [f"label {cluster % 38}" for cluster in clusters]
        columns = {
            "stem_id": [f"{i // 8}/{i}" for i in ids],
            "track_id": [str(i // 8) for i in ids],
            "corpus": ["bench"] * len(ids),
            "split": ["train"] * len(ids),
            "label": labels,
            "category": [f"category {cluster % 11}" for cluster in clusters],
            "labels": [[label] for label in labels],
            "duration_s": np.full(len(ids), 240.0),
            "audio": [f"/audio/{i}.flac" for i in ids],
            "vector": vector_column(vectors),
        }
        yield pa.record_batch([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def _points(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, dim) unit norm, and the cluster of each."""
    clusters = random.integers(CLUSTERS, size=count)
    noise = random.standard_normal((count, DIM), dtype=np.float32)
    points = _centres()[clusters] + np.float32(_SPREAD / np.sqrt(DIM)) * noise
    return points / np.linalg.norm(points, axis=1, keepdims=True), clusters


@cache
def _centres() -> np.ndarray:
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, DIM), dtype=np.float32)
    return centres / np.linalg.norm(centres, axis=1, keepdims=True)
