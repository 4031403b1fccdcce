"""Labels for stems that have none, as CLAP hears them; a person confirms them, never this module.

The CSV that comes out is a manifest of the whole corpus (``ml.corpora.readers.manifest``), with ids
as they are. Unlabelled stems have an empty ``labels`` and, behind the columns that the reader
knows, ``suggestion_1``, ``similarity_1`` and so on; a suggestion is written as ``labels`` wants it.
Who agrees copies it there and adds the CSV as a corpus.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ml.artifacts import DataLayout, write_aside
from ml.audio.files import read_stem
from ml.corpora.readers.manifest import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from ml.corpora.table import read_corpus_tracks, tracks_of_table
from ml.labels.clap_files import ClapFiles
from ml.labels.taxonomy import CATEGORIES
from ml.progress import progress
from ml.retrieval.embeddings.baselines import ClapAudioModel
from ml.retrieval.embeddings.passes import EmbeddingPass
from ml.retrieval.embeddings.source import sounding_chunks
from ml.tracks import CorpusError, Stem

_BATCH_CHUNKS = 16


def suggest_labels(
    name: str,
    layout: DataLayout,
    files: ClapFiles,
    out: Path,
    *,
    top: int = 3,
    device: str = "cpu",
) -> dict[str, int]:
    """Write a CSV that lists a corpus, with proposals for stems without labels.

    Args:
        name: the corpus; its ``corpus_tracks`` must have been built.
        layout: where it lies.
        files: of CLAP.
        out: the CSV; replaced if it is there.
        top: how many proposals a stem gets.
        device: where to compute.

    Returns:
        How many ``stems`` there are, ``unlabelled`` ones, of these ``suggested`` and ``silent``.

    Raises:
        ArtifactError: ``corpus_tracks`` or a file of CLAP is missing.
        AudioError: an audio file has gone since the corpus was scanned.
        CorpusError: a stem is a stream of a container, which a CSV cannot list.
        ValueError: ``top`` is out of range.
    """
    instruments = {text: f"{c} > {text}" for c, texts in CATEGORIES.items() for text in texts}
    if not 1 <= top <= len(instruments):
        raise ValueError(f"top = {top}; expected 1…{len(instruments)} (instruments)")
    files.require()
    table = read_corpus_tracks(layout, name)
    rows = list(table.iter_rows(named=True))
    if streams := [row["stem_id"] for row in rows if row["stream"] is not None]:
        raise CorpusError(
            f"{len(streams)} stems of {name} are streams of a container, {streams[0]} the first, "
            f"and a CSV lists files; label this corpus where it comes from"
        )
    unknown = [s for t in tracks_of_table(table) for s in t.stems if not s.labels]
    proposals = _propose(unknown, ClapAudioModel(files), instruments, top, torch.device(device))
    _write(out, rows, proposals, top)
    unlabelled = sum(not row["labels"] for row in rows)
    return {
        "stems": len(rows),
        "unlabelled": unlabelled,
        "suggested": len(proposals),
        "silent": unlabelled - len(proposals),
    }


def _propose(
    stems: Sequence[Stem],
    model: ClapAudioModel,
    instruments: Mapping[str, str],
    top: int,
    device: torch.device,
) -> dict[str, list[tuple[str, float]]]:
    """Find the best (labels, cosine) of each stem, best first; silent stems are left out."""
    if not stems:
        return {}
    texts = list(instruments)
    labels = model.encode_labels(texts)  # (instrument, dim)
    proposals: dict[str, list[tuple[str, float]]] = {}
    for stem in progress(stems, total=len(stems), label="listening"):
        waveform = read_stem(stem, rate_hz=model.rate_hz)
        run = EmbeddingPass([model], device=device, batch_chunks=_BATCH_CHUNKS, precision="fp32")
        run.add_stem(0, sounding_chunks(waveform, model.rate_hz, model.chunk_s))
        run.finish()
        for vector in run.gallery(model).stem_vectors("the stem")[1]:  # none: it never sounds
            cosines = labels @ vector
            best = np.argsort(-cosines, kind="stable")[:top]
            proposals[stem.stem_id] = [(instruments[texts[i]], float(cosines[i])) for i in best]
    return proposals


def _write(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    proposals: Mapping[str, Sequence[tuple[str, float]]],
    top: int,
) -> None:
    """One line a file, as the manifest reader wants it, unlabelled stems with their proposals."""
    proposed = [f"{what}_{n}" for n in range(1, top + 1) for what in ("suggestion", "similarity")]
    with write_aside(out) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, *proposed])
        writer.writeheader()
        for row in rows:
            best = proposals.get(row["stem_id"], ())
            values = [value for text, cosine in best for value in (text, f"{cosine:.3f}")]
            extra = dict(zip(proposed, values, strict=False))
            for audio in row["files"]:
                writer.writerow(_manifest_row(row, audio) | extra)


def _manifest_row(row: Mapping[str, Any], audio: str) -> dict[str, Any]:
    return {
        "track_id": row["track_id"],
        "audio": audio,
        "labels": " > ".join(row["labels"]),
        "split": row["split"] or "",
        "stem_id": row["stem_id"].removeprefix(f"{row['track_id']}/"),
        "start_s": row["start_s"],
        "artist": row["artist"] or "",
        "title": row["title"] or "",
    }
