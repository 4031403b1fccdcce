"""From a corpus to embeddings: one pass over the audio for all models (``default`` protocol).

A stem's gallery vector is the mean over its sounding chunks, then unit norm. A query's vector is
the mean over the sounding chunks of the mix *without* the stem, predicted for the stem's label,
then unit norm. Chunks are consecutive, the last one is aligned to the end. A stem that sounds in
no chunk is neither query nor gallery; a stem whose remaining mix sounds in none is gallery only.
Both are counted in the summary.

Every stem is decoded once, log-mels are shared by all models with the same frontend. A pass that
was stopped goes on where it was (``ml.retrieval.parts``). Parts may be computed elsewhere, by the
workers of an executor. Files: ``ml.retrieval.embedding_files``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.artifacts import (
    Artifact,
    ArtifactError,
    DataLayout,
    find_current,
    finish,
    read_manifest,
)
from ml.audio.chunks import MIN_ACTIVE_S
from ml.corpora.corpus import CorpusError
from ml.device import Precision, keep_freed_memory
from ml.models.clap_files import ClapFiles
from ml.plain import jsonable
from ml.processes import completed
from ml.retrieval.conditions import CONDITIONINGS, Conditions, conditions_of
from ml.retrieval.embedding_files import (
    CHUNKS,
    FORMAT_VERSION,
    GALLERY,
    StemRow,
    queries_name,
    read_embedding_manifest,
)
from ml.retrieval.embedding_model import EmbeddingModel, check_label_encoder
from ml.retrieval.embedding_source import EmbeddingSource, open_source
from ml.retrieval.leakage import seen_tracks
from ml.retrieval.mixes import TrackAudio
from ml.retrieval.part_jobs import ModelHome, PartJob, compute_part, embed_part
from ml.retrieval.parts import (
    Part,
    PartTables,
    begun_parts,
    gather_parts,
    join_parts,
    make_parts,
    remove_parts,
)


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
    executor: Executor | None = None,
    clap: ClapFiles | None = None,
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
        device: where to compute: ``cpu``, ``cuda``, or ``auto``: a GPU where there is one.
        batch_chunks: chunks in a batch.
        precision: ``bf16`` computes the encoders in autocast.
        executor: who computes the parts, with models that they load from the home
            (``ml.retrieval.part_jobs``); None: this process, with ``models`` themselves.
        clap: CLAP's files, for the executor's ``clap-audio``; None: those in the home.

    Returns:
        One artifact a model.

    Raises:
        CorpusError: no track in these splits.
        ArtifactError: an input is missing, or the labels come from another label encoder.
        AudioError: an audio file has gone since ``corpus_tracks`` was built.
        LockedError: another process embeds this corpus by one of the models.
        WorkersError: the executor's workers died or cannot be reached.
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
        run = _Run(
            models=group,
            source=source,
            rows=source.rows(),
            conditions={c: conditions_of(stems, c, label_vectors) for c in names},
            device=device,
            batch_chunks=batch_chunks,
            precision=precision,
            executor=executor,
            home=ModelHome(layout=layout, clap=clap),
        )
        built |= run.build(layout)
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


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What is computed for a group of models, and how."""

    models: Sequence[EmbeddingModel]
    source: EmbeddingSource
    rows: Sequence[StemRow]
    """Of all stems of the source."""
    conditions: Mapping[str, Conditions]
    """Per conditioning, for the same stems."""
    device: str
    batch_chunks: int
    precision: Precision
    executor: Executor | None
    home: ModelHome

    def build(self, layout: DataLayout) -> dict[str, Artifact]:
        """Make the parts that are missing, join them, and finish; by model_id."""
        source = self.source
        folders = {m.model_id: layout.embeddings(m.model_id, source.corpus) for m in self.models}
        identities = {m.model_id: _identity(source, m, tuple(self.conditions)) for m in self.models}
        with begun_parts(folders, identities, FORMAT_VERSION):
            label, rate_hz = f"embedding {source.corpus}", self.models[0].rate_hz
            if self.executor is None:
                make_parts(source, folders, self.embed, rate_hz=rate_hz, label=label)
            else:
                gather_parts(source, folders, self.embed_elsewhere, label=label)
            return {m.model_id: _finish(m, self, layout) for m in self.models}

    def embed(
        self, part: Part, model_ids: Sequence[str], audios: Iterator[TrackAudio]
    ) -> PartTables:
        """Tables of a part, made here."""
        models = [model for model in self.models if model.model_id in model_ids]
        return embed_part(self.job(part, model_ids), models, audios)

    def embed_elsewhere(
        self, parts: Sequence[tuple[Part, Sequence[str]]]
    ) -> Iterator[tuple[Part, PartTables]]:
        """Tables of parts, made by the executor."""
        assert self.executor is not None
        jobs = (self.job(part, model_ids) for part, model_ids in parts)
        yield from completed(self.executor, compute_part, jobs)

    def job(self, part: Part, model_ids: Sequence[str]) -> PartJob:
        """What is asked of a part."""
        return PartJob(
            corpus=self.source.corpus,
            part=part,
            model_ids=tuple(model_ids),
            rows=self.rows[part.stems],
            conditions={name: found.of(part.stems) for name, found in self.conditions.items()},
            device=self.device,
            batch_chunks=self.batch_chunks,
            precision=self.precision,
            home=self.home,
        )


def _finish(model: EmbeddingModel, run: _Run, layout: DataLayout) -> Artifact:
    source, names = run.source, tuple(run.conditions)
    folder = layout.embeddings(model.model_id, source.corpus)
    rows = join_parts(source, folder, (GALLERY, CHUNKS, *map(queries_name, names)))
    gallery, queries = rows[GALLERY], rows[queries_name(names[0])]
    if not gallery:
        raise CorpusError(
            f"no stem of {source.corpus} sounds for {MIN_ACTIVE_S} s in any chunk; "
            f"look at its levels with: stems corpus inspect"
        )
    seen = seen_tracks(source.table, model.training_tracks, layout)
    seen_here = sorted({track.track_id for track in source.tracks}.intersection(seen))
    artifact = finish(
        folder,
        _identity(source, model, names),
        format_version=FORMAT_VERSION,
        summary={
            "model": model.name,
            "tracks": len(source.tracks),
            "gallery": gallery,
            "queries": queries,
            "chunks": rows[CHUNKS],
            "silent_stems": len(run.rows) - gallery,
            "silent_mixes": gallery - queries,
            "seen_tracks": len(seen_here),
        },
        dim=model.dim,
        seen_tracks=seen_here,
    )
    remove_parts(folder)
    return artifact
