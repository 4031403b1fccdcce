"""From a corpus to embeddings: one pass over the audio for all models (``default`` protocol).

A stem's gallery vector is the mean over its sounding chunks, then unit norm. A query's vector is
the mean over the sounding chunks of the mix *without* the stem, predicted for the stem's label,
then unit norm. Chunks are consecutive, the last one is aligned to the end. A stem that sounds in
no chunk is neither query nor gallery; a stem whose remaining mix sounds in none is gallery only.
Both are counted in the summary.

Every stem is decoded once, log-mels are shared by all models with the same frontend. Vectors are
held in memory until the corpus is done. Files: ``ml.retrieval.embedding_files``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ml.artifacts import (
    Artifact,
    ArtifactError,
    DataLayout,
    find_current,
    finish,
    lock,
    read_manifest,
)
from ml.audio.chunks import MIN_ACTIVE_S
from ml.corpora.corpus import CorpusError
from ml.device import Precision, keep_freed_memory
from ml.plain import jsonable
from ml.progress import progress
from ml.retrieval.conditions import CONDITIONINGS, Conditions, conditions_of
from ml.retrieval.embedding_files import (
    CHUNKS,
    FORMAT_VERSION,
    GALLERY,
    queries_name,
    query_table,
    read_embedding_manifest,
    stem_table,
    write_table,
)
from ml.retrieval.embedding_model import EmbeddingModel, check_label_encoder
from ml.retrieval.embedding_source import EmbeddingSource, open_source
from ml.retrieval.leakage import seen_tracks
from ml.retrieval.metrics import unit_rows
from ml.retrieval.mixes import read_tracks
from ml.retrieval.passes import EmbeddingPass


def embed_corpus(
    name: str,
    models: Sequence[EmbeddingModel],
    layout: DataLayout,
    label_vectors: Mapping[str, np.ndarray],
    *,
    conditioning: str = "fine",
    splits: Sequence[str] | None = None,
    device: str = "cpu",
    batch_chunks: int = 64,
    precision: Precision = "bf16",
) -> list[Artifact]:
    """Embeddings of a corpus by each model; what is up to date is not computed again.

    Args:
        name: the corpus; its ``corpus_tracks`` must have been built.
        models: in the order of the result.
        layout: where everything lies.
        label_vectors: (condition_dim,) per text: all labels of the corpus and ``"music"``; may be
            empty when no model takes conditions.
        conditioning: one of ``CONDITIONINGS``. Queries of other conditionings that were made
            before are kept.
        splits: which tracks; default: ``test`` where the corpus has such tracks, else all.
        device: where to compute.
        batch_chunks: chunks in a batch.
        precision: ``bf16`` computes the encoders in autocast.

    Returns:
        One artifact a model.

    Raises:
        CorpusError: no track in these splits.
        ArtifactError: an input is missing, or the labels come from another label encoder.
        AudioError: an audio file has gone since ``corpus_tracks`` was built.
        ValueError: an unknown conditioning, or a label without a vector.
    """
    if conditioning not in CONDITIONINGS:
        expected = ", ".join(CONDITIONINGS)
        raise ValueError(f"conditioning is {conditioning!r}; expected one of: {expected}")
    _check_encoders(name, models, layout, label_vectors)
    keep_freed_memory()
    source = open_source(name, layout, splits, precision=precision)
    made = {m.model_id: _made_before(source, m, layout) for m in models}
    stale = {m.model_id: m for m in models if conditioning not in made[m.model_id]}
    wanted = {conditioning}.union(*(made[model_id] for model_id in stale))
    names = tuple(c for c in CONDITIONINGS if c in wanted)
    built: dict[str, Artifact] = {}
    for group in _groups(list(stale.values())):
        stems = [stem for track in source.tracks for stem in track.stems]
        conditions = {c: conditions_of(stems, c, label_vectors) for c in names}
        run = EmbeddingPass(
            group,
            conditions,
            device=torch.device(device),
            batch_chunks=batch_chunks,
            precision=precision,
        )
        _run(run, source, group[0].rate_hz)
        built |= {m.model_id: _write(m, run, conditions, source, layout) for m in group}
    return [built.get(m.model_id) or _current(source, m, layout, made[m.model_id]) for m in models]


def _check_encoders(
    name: str,
    models: Sequence[EmbeddingModel],
    layout: DataLayout,
    label_vectors: Mapping[str, np.ndarray],
) -> None:
    manifest = None
    if layout.labels(name).is_dir():
        from ml.corpora.labels import FORMAT_VERSION as LABELS_VERSION

        made_by = f"stems labels build {name}"
        manifest = read_manifest(
            layout.labels(name), format_version=LABELS_VERSION, made_by=made_by
        )
    width = len(next(iter(label_vectors.values()), ()))
    for model in models:
        if manifest is not None:
            check_label_encoder(model, manifest["encoder"])
        if model.condition_dim not in (None, width):
            raise ArtifactError(
                f"label vectors have {width} dimensions, but model {model.name} "
                f"({model.model_id}) takes conditions of {model.condition_dim}; encode the labels "
                f"of {name} with the model's label encoder"
            )


def _identity(
    source: EmbeddingSource, model: EmbeddingModel, conditionings: Sequence[str]
) -> dict[str, Any]:
    return {**source.identity, "model_id": model.model_id, "conditionings": conditionings}


def _made_before(source: EmbeddingSource, model: EmbeddingModel, layout: DataLayout) -> list[str]:
    """Conditionings of the queries on disk, if these are otherwise what would be built."""
    try:
        manifest = read_embedding_manifest(layout, model.model_id, source.corpus)
    except ArtifactError:
        return []
    found = manifest["identity"]
    made = found.get("conditionings", [])
    same = found == jsonable(_identity(source, model, made))
    return made if same and manifest["format_version"] == FORMAT_VERSION else []


def _current(
    source: EmbeddingSource, model: EmbeddingModel, layout: DataLayout, made: Sequence[str]
) -> Artifact:
    folder = layout.embeddings(model.model_id, source.corpus)
    identity = _identity(source, model, made)
    current = find_current(folder, identity, format_version=FORMAT_VERSION)
    if current is None:
        raise ArtifactError(f"{folder} was changed by another process meanwhile; run this again")
    return current


def _groups(models: Sequence[EmbeddingModel]) -> list[list[EmbeddingModel]]:
    """Models that can share a pass: the same sample rate and chunk length."""
    groups: dict[tuple[int, float], list[EmbeddingModel]] = {}
    for model in models:
        groups.setdefault((model.rate_hz, model.chunk_s), []).append(model)
    return list(groups.values())


def _run(run: EmbeddingPass, source: EmbeddingSource, rate_hz: int) -> None:
    first_stem = 0
    audios = read_tracks(source.tracks, rate_hz)
    label = f"embedding {source.corpus}"
    for audio in progress(audios, total=len(source.tracks), label=label):
        run.add(audio, first_stem)
        first_stem += len(audio.stems)
    run.finish()


def _write(
    model: EmbeddingModel,
    run: EmbeddingPass,
    conditions: Mapping[str, Conditions],
    source: EmbeddingSource,
    layout: DataLayout,
) -> Artifact:
    folder = layout.embeddings(model.model_id, source.corpus)
    what = f"by {model.name} of {source.corpus}"
    rows, vectors = source.rows(), run.vectors[model.model_id]
    chunk_stems = np.asarray(run.chunk_stems, dtype=np.int64)
    if not len(chunk_stems):
        raise CorpusError(
            f"no stem of {source.corpus} sounds for {MIN_ACTIVE_S} s in any chunk; "
            f"look at its levels with: stems corpus inspect"
        )
    chunks = np.concatenate(vectors.chunks)  # (chunk, dim)
    sounding, place = np.unique(chunk_stems, return_inverse=True)
    sums = np.zeros((len(sounding), chunks.shape[1]))
    np.add.at(sums, place, chunks)
    gallery = unit_rows(sums / np.bincount(place)[:, None], f"gallery vectors {what}")
    asked = np.flatnonzero(run.query_counts)
    seen = seen_tracks(source.table, model.training_tracks, layout)
    chosen = {track.track_id for track in source.tracks}
    with lock(folder / ".lock"):
        write_table(stem_table([rows[i] for i in sounding], gallery), folder / GALLERY)
        start_s = np.asarray(run.chunk_start_s)
        unit_chunks = unit_rows(chunks, f"chunk vectors {what}")
        of_chunks = stem_table([rows[i] for i in chunk_stems], unit_chunks, start_s)
        write_table(of_chunks, folder / CHUNKS)
        for name, condition in conditions.items():
            predicted = vectors.query_sums[name][asked] / run.query_counts[asked, None]
            texts = [condition.texts[i] for i in asked]
            queries = unit_rows(predicted, f"{name} query vectors {what}")
            table = query_table([rows[i] for i in asked], texts, queries)
            write_table(table, folder / queries_name(name))
        return finish(
            folder,
            _identity(source, model, tuple(conditions)),
            format_version=FORMAT_VERSION,
            summary={
                "model": model.name,
                "tracks": len(source.tracks),
                "gallery": len(sounding),
                "queries": len(asked),
                "chunks": len(chunks),
                "silent_stems": len(rows) - len(sounding),
                "silent_mixes": len(sounding) - len(asked),
                "seen_tracks": len(chosen.intersection(seen)),
            },
            dim=model.dim,
            seen_tracks=sorted(chosen.intersection(seen)),
        )
