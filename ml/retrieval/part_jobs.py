"""One part of a corpus through some models: what a unit of embedding is, here or in a worker.

A job holds what is asked of the tracks of its part; models are not sent with it. A worker loads
them by their id from the home, each once: the home must lie at the same path for all workers, as
the corpora must (a shared mount). What it makes goes back as tables, which whoever asked writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ml.artifacts import ArtifactError, DataLayout
from ml.device import Precision, choose_device, keep_freed_memory
from ml.models.clap_files import ClapFiles
from ml.retrieval.conditions import Conditions
from ml.retrieval.embedding_files import (
    CHUNKS,
    GALLERY,
    StemRow,
    queries_name,
    query_table,
    stem_table,
)
from ml.retrieval.metrics import unit_rows
from ml.retrieval.mixes import TrackAudio, read_tracks
from ml.retrieval.parts import Part, PartTables
from ml.retrieval.passes import EmbeddingPass

if TYPE_CHECKING:
    import pyarrow as pa

    from ml.retrieval.embedding_model import EmbeddingModel

MODELS_KEPT = 8
"""How many models a worker keeps in memory; the least recently used goes first."""


@dataclass(frozen=True, kw_only=True)
class ModelHome:
    """Where a worker finds models."""

    layout: DataLayout
    clap: ClapFiles | None = None
    """None: those in the home."""


@dataclass(frozen=True, kw_only=True)
class PartJob:
    """A part, and what is asked of it."""

    corpus: str
    """Its name."""
    part: Part
    model_ids: Sequence[str]
    """Which models; all of one sample rate and chunk length."""
    rows: Sequence[StemRow]
    """Of the stems of the part."""
    conditions: Mapping[str, Conditions]
    """Per conditioning, for the same stems."""
    device: str
    """``auto``, ``cpu`` or ``cuda``, of whoever computes."""
    batch_chunks: int
    precision: Precision
    home: ModelHome


def compute_part(job: PartJob) -> tuple[Part, PartTables]:
    """Load the models of a job, read its tracks, embed them: the work of a worker.

    Raises:
        ArtifactError: the home has no such model any more, or not here.
        AudioError: an audio file is missing here, or has gone.
    """
    keep_freed_memory()
    models = [_load(model_id, job.home) for model_id in job.model_ids]
    return job.part, embed_part(job, models, read_tracks(job.part.tracks, models[0].rate_hz))


def embed_part(
    job: PartJob, models: Sequence[EmbeddingModel], audios: Iterator[TrackAudio]
) -> PartTables:
    """Embed the tracks of a part.

    Args:
        job: what is asked.
        models: those of the job.
        audios: its tracks, in order.
    """
    run = EmbeddingPass(
        models,
        job.conditions,
        device=choose_device(job.device),
        batch_chunks=job.batch_chunks,
        precision=job.precision,
    )
    first_stem = 0
    for audio in audios:
        run.add(audio, first_stem)
        first_stem += len(audio.stems)
    run.finish()
    return {model.model_id: _tables(model, run, job) for model in models}


def _tables(model: EmbeddingModel, run: EmbeddingPass, job: PartJob) -> dict[str, pa.Table]:
    what = f"by {model.name} of part {job.part.number} of {job.corpus}"
    vectors = run.vectors[model.model_id]
    chunk_stems = np.asarray(run.chunk_stems, dtype=np.int64)
    chunks = np.concatenate([np.zeros((0, model.dim), np.float32), *vectors.chunks])
    sounding, place = np.unique(chunk_stems, return_inverse=True)
    sums = np.zeros((len(sounding), model.dim))
    np.add.at(sums, place, chunks)
    gallery = unit_rows(sums / np.bincount(place)[:, None], f"gallery vectors {what}")
    unit_chunks = unit_rows(chunks, f"chunk vectors {what}")
    start_s = np.asarray(run.chunk_start_s)
    tables = {
        GALLERY: stem_table([job.rows[i] for i in sounding], gallery),
        CHUNKS: stem_table([job.rows[i] for i in chunk_stems], unit_chunks, start_s),
    }
    asked = np.flatnonzero(run.query_counts)
    for name, condition in job.conditions.items():
        predicted = vectors.query_sums[name][asked] / run.query_counts[asked, None]
        queries = unit_rows(predicted, f"{name} query vectors {what}")
        texts = [condition.texts[i] for i in asked]
        tables[queries_name(name)] = query_table([job.rows[i] for i in asked], texts, queries)
    return tables


@lru_cache(maxsize=MODELS_KEPT)
def _load(model_id: str, home: ModelHome) -> EmbeddingModel:
    from ml.models.clap_files import clap_files
    from ml.models.stem_jepa import load_model
    from ml.retrieval.baselines import SPECTRUM, SpectrumModel
    from ml.retrieval.clap_audio import CLAP_AUDIO, ClapAudioModel

    model: EmbeddingModel
    if model_id.startswith(f"{CLAP_AUDIO}-"):
        model = ClapAudioModel(home.clap or clap_files(home.layout.clap))
    else:
        checkpoint = load_model(_checkpoint(home.layout, model_id.removeprefix(f"{SPECTRUM}-")))
        model = SpectrumModel(checkpoint) if model_id.startswith(SPECTRUM) else checkpoint
    if model.model_id != model_id:
        raise ArtifactError(
            f"a worker finds the model {model.model_id}, expected {model_id}; put the same files "
            "at the same paths for all workers"
        )
    return model


def _checkpoint(layout: DataLayout, model_id: str) -> Path:
    from ml.retrieval.champion import checkpoint_path, current_champion
    from ml.retrieval.compared_models import find_compared

    champion = current_champion(layout)
    if champion is not None and champion.model_id == model_id:
        return checkpoint_path(layout, champion)
    try:
        found = find_compared(layout, model_id, "").checkpoint
    except ArtifactError:
        found = None
    if found is None:
        raise ArtifactError(
            f"a worker finds no checkpoint of the model {model_id} below {layout.runs}; expected "
            "the same home at the same path for all workers: share it with them (a mount), or "
            "embed without a cluster (compute.dask_scheduler: null)"
        )
    return found
