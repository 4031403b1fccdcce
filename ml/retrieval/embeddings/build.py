"""From a corpus to embeddings: one pass over the audio for all models (``default`` protocol).

A stem's gallery vector is the mean over its sounding chunks, then unit norm. A query's vector is
the mean over the sounding chunks of the mix *without* the stem, predicted for the stem's label,
then unit norm. Chunks are consecutive, the last one is aligned to the end. A stem that sounds in
no chunk is neither query nor gallery; a stem whose remaining mix sounds in none is gallery only.
Both are counted in the summary.

Every stem is decoded once, log-mels are shared by all models with the same frontend. A pass that
was stopped goes on where it was (``ml.retrieval.embeddings.parts``). Parts may be computed
elsewhere, by the
workers of an executor. Files: ``ml.retrieval.embeddings.files``.

[predecessor] The ``predecessor`` protocol: whole files as Stem-JEPA's MUSDB18 script embeds them.

The published figures of Table I come from it (DESIGN section 6). The log-mel is taken of the whole
file and cut into consecutive chunks of the training length (800 frames at 8 s), silent ones too;
the last is padded with 0, the mean after standardisation, to a multiple of the patch. An embedding
is the mean over time of the patches with the frequency rows side by side (5 · dim), then LayerNorm
without affine. Stems are embedded by the target encoder and by the encoder: two galleries. Queries
are the encoder's patches of the float sum of the other stems, through the predictor.

LayerNorm makes all vectors equally long, so the Euclidean distance ranks as the cosine does, and
``ml.retrieval.evaluation.ranks`` serves both protocols; files hold the vectors at unit norm.
Differs: LayerNorm's eps (1e-5, nothing beside variances near 1) is left out, so that they are
exactly equally long. A stem that never sounds is not among the usable stems of ``corpus_tracks``
and is left out and counted. Stems are padded to their track's longest, in MUSDB18 they are equal.
A pass that was stopped goes on where it was (``ml.retrieval.embeddings.parts``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ml import kinds
from ml.artifacts import Artifact, ArtifactError, DataLayout, find_current, finish, read_manifest
from ml.audio.chunks import MIN_ACTIVE_S
from ml.device import Precision, keep_freed_memory
from ml.labels.clap_files import ClapFiles
from ml.models.stem_jepa import StemJepa
from ml.plain import jsonable
from ml.processes import completed
from ml.retrieval.embeddings.files import (
    CHUNKS,
    ENCODER_GALLERY,
    FOLDER,
    GALLERY,
    StemRow,
    predecessor_folder,
    queries_name,
    query_table,
    read_embedding_manifest,
    stem_table,
    unit_rows,
)
from ml.retrieval.embeddings.model import (
    CONDITIONINGS,
    Conditions,
    EmbeddingModel,
    check_label_encoder,
    conditions_of,
)
from ml.retrieval.embeddings.parts import (
    ModelHome,
    Part,
    PartJob,
    PartTables,
    begun_parts,
    compute_part,
    embed_part,
    gather_parts,
    join_parts,
    make_parts,
    remove_parts,
)
from ml.retrieval.embeddings.seen import seen_tracks
from ml.retrieval.embeddings.source import EmbeddingSource, TrackAudio, open_source
from ml.retrieval.embeddings.whole_files import WholeFilePass, whole_file_mels
from ml.tracks import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

    from ml.retrieval.embeddings.model import EmbeddingModel


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
            (``ml.retrieval.embeddings.parts``); None: this process, with ``models`` themselves.
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
        manifest = read_manifest(layout.labels(name), kinds.LABEL_EMBEDDINGS)
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
    return made if same and manifest["format_version"] == kinds.EMBEDDINGS.format_version else []


def _current(
    source: EmbeddingSource, model: EmbeddingModel, layout: DataLayout, made: Sequence[str]
) -> Artifact:
    folder = layout.embeddings(model.model_id, source.corpus)
    identity = _identity(source, model, made)
    current = find_current(folder, identity, kinds.EMBEDDINGS)
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
        with begun_parts(folders, identities, kinds.EMBEDDINGS):
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
        kinds.EMBEDDINGS,
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


def embed_predecessor(
    name: str,
    models: Sequence[StemJepa],
    layout: DataLayout,
    label_vectors: Mapping[str, np.ndarray],
    *,
    conditionings: Sequence[str] = ("fine",),
    splits: Sequence[str] | None = None,
    device: str = "cpu",
    batch_chunks: int = 64,
    precision: Precision = "bf16",
) -> list[Artifact]:
    """Embeddings of a corpus by each model; what is up to date is not computed again.

    Args:
        name: the corpus; its ``corpus_tracks`` must have been built.
        models: in the order of the result; all with one sample rate.
        layout: where everything lies.
        label_vectors: (condition_dim,) per text, as for
        ``ml.retrieval.embeddings.build.embed_corpus``, which
            checks that they come from the models' label encoder.
        conditionings: of the queries, from ``CONDITIONINGS``.
        splits: which tracks; default: ``test`` where the corpus has such tracks, else all.
        device: where to compute.
        batch_chunks: chunks in a batch.
        precision: ``bf16`` computes the encoders in autocast.

    Returns:
        One artifact a model.

    Raises:
        CorpusError: no track in these splits.
        ArtifactError: ``corpus_tracks`` was not built.
        AudioError: an audio file has gone since then.
        LockedError: another process does the same with one of the models.
        ValueError: models of different rates, an unknown conditioning, a label without a vector,
            or no track with two usable stems.
    """
    if unknown := sorted(set(conditionings) - set(CONDITIONINGS)):
        expected = ", ".join(CONDITIONINGS)
        raise ValueError(f"conditioning is {unknown[0]!r}; expected one of: {expected}")
    rates = {model.rate_hz for model in models}
    if len(rates) != 1:
        raise ValueError(f"models have sample rates {sorted(rates)} Hz; expected one rate")
    keep_freed_memory()
    source = open_source(name, layout, splits, precision=precision, protocol=FOLDER)
    wanted = {m.model_id: _wanted(source, m, layout, conditionings) for m in models}
    found = {m.model_id: _found(source, m, layout, wanted[m.model_id]) for m in models}
    stale = [model for model in models if found[model.model_id] is None]
    if stale:
        union = {c for model in stale for c in wanted[model.model_id]}
        stems = [stem for track in source.tracks for stem in track.stems]
        run = _PredecessorRun(
            models=stale,
            source=source,
            rows=source.rows(),
            conditions={
                c: conditions_of(stems, c, label_vectors) for c in CONDITIONINGS if c in union
            },
            device=device,
            batch_chunks=batch_chunks,
            precision=precision,
        )
        found |= run.build(layout)
    return [artifact for m in models if (artifact := found[m.model_id]) is not None]


def models_with_encoder(models: Sequence[EmbeddingModel]) -> list[StemJepa]:
    """Those of the models that this protocol is defined for.

    Raises:
        ValueError: there are none.
    """
    able = [model for model in models if isinstance(model, StemJepa)]
    if not able:
        names = ", ".join(model.name for model in models) or "no models"
        raise ValueError(
            f"the predecessor protocol is for trained encoders, and the models are: {names}; "
            f"name another with --models"
        )
    return able


def _predecessor_identity(
    source: EmbeddingSource, model: StemJepa, conditionings: Sequence[str]
) -> dict[str, Any]:
    return {**source.identity, "model_id": model.model_id, "conditionings": conditionings}


def _wanted(
    source: EmbeddingSource, model: StemJepa, layout: DataLayout, asked: Sequence[str]
) -> tuple[str, ...]:
    """The conditionings asked for and those on disk, if what is there is otherwise current."""
    try:
        folder = predecessor_folder(layout, model.model_id, source.corpus)
        manifest = read_manifest(folder, kinds.PREDECESSOR_EMBEDDINGS)
    except ArtifactError:
        return tuple(asked)
    made = manifest["identity"].get("conditionings", [])
    is_current = manifest["identity"] == jsonable(_predecessor_identity(source, model, made))
    return tuple(c for c in CONDITIONINGS if c in asked or (is_current and c in made))


def _found(
    source: EmbeddingSource, model: StemJepa, layout: DataLayout, conditionings: Sequence[str]
) -> Artifact | None:
    folder = predecessor_folder(layout, model.model_id, source.corpus)
    identity = _predecessor_identity(source, model, conditionings)
    return find_current(folder, identity, kinds.PREDECESSOR_EMBEDDINGS)


@dataclass(frozen=True, kw_only=True)
class _PredecessorRun:
    """What is computed, and how."""

    models: Sequence[StemJepa]
    source: EmbeddingSource
    rows: Sequence[StemRow]
    """Of all stems of the source."""
    conditions: Mapping[str, Conditions]
    """Per conditioning, for the same stems."""
    device: str
    batch_chunks: int
    precision: Precision

    def build(self, layout: DataLayout) -> dict[str, Artifact]:
        """Make the parts that are missing, join them, and finish; by model_id."""
        source, names = self.source, tuple(self.conditions)
        folders = {
            m.model_id: predecessor_folder(layout, m.model_id, source.corpus) for m in self.models
        }
        identities = {m.model_id: _predecessor_identity(source, m, names) for m in self.models}
        with begun_parts(folders, identities, kinds.PREDECESSOR_EMBEDDINGS):
            label = f"embedding whole files of {source.corpus}"
            make_parts(source, folders, self.embed, rate_hz=self.models[0].rate_hz, label=label)
            return {m.model_id: _predecessor_finish(m, self, layout) for m in self.models}

    def embed(
        self, part: Part, model_ids: Sequence[str], audios: Iterator[TrackAudio]
    ) -> dict[str, dict[str, pa.Table]]:
        """Tables of a part, by model_id and file name."""
        conditions = {name: found.of(part.stems) for name, found in self.conditions.items()}
        passes = {
            m.model_id: WholeFilePass(
                m,
                conditions,
                device=self.device,
                batch_chunks=self.batch_chunks,
                precision=self.precision,
            )
            for m in self.models
            if m.model_id in model_ids
        }
        frontends = {whole.log_mel.fingerprint(): whole.log_mel for whole in passes.values()}
        first_stem = 0
        for audio in audios:
            mels = {k: whole_file_mels(mel, audio, self.device) for k, mel in frontends.items()}
            for whole in passes.values():
                whole.add(mels[whole.log_mel.fingerprint()], first_stem)
            first_stem += len(audio.stems)
        rows = self.rows[part.stems]
        return {model_id: _tables(whole, rows) for model_id, whole in passes.items()}


def _tables(whole: WholeFilePass, rows: Sequence[StemRow]) -> dict[str, pa.Table]:
    galleries = {GALLERY: whole.gallery, ENCODER_GALLERY: whole.encoder_gallery}
    tables = {
        file: stem_table(rows, _layer_norm(vectors, file))
        for file, vectors in galleries.items()
        if vectors
    }
    asked = whole.query_stems
    none = whole.gallery[0][:0]  # where no track has two stems
    for name, vectors in whole.queries.items():
        file = queries_name(name)
        texts = [whole.conditions[name].texts[i] for i in asked]
        queries = _layer_norm([none, *vectors], file)
        tables[file] = query_table([rows[i] for i in asked], texts, queries)
    return tables


def _predecessor_finish(model: StemJepa, run: _PredecessorRun, layout: DataLayout) -> Artifact:
    source, names = run.source, tuple(run.conditions)
    folder = predecessor_folder(layout, model.model_id, source.corpus)
    galleries = [GALLERY] if model.target_encoder is None else [GALLERY, ENCODER_GALLERY]
    rows = join_parts(source, folder, [*galleries, *map(queries_name, names)])
    queries = rows[queries_name(names[0])]
    if not queries:
        raise ValueError(
            f"no track of {source.corpus} has two usable stems in these splits, so there is no "
            f"mix to find a stem for; evaluate other splits or another corpus"
        )
    chosen = {track.track_id for track in source.tracks}
    seen = sorted(chosen.intersection(seen_tracks(source.table, model.training_tracks, layout)))
    listed = source.table["track_id"].is_in(list(chosen)).sum()
    artifact = finish(
        folder,
        _predecessor_identity(source, model, names),
        kinds.PREDECESSOR_EMBEDDINGS,
        summary={
            "model": model.name,
            "tracks": len(source.tracks),
            "gallery": rows[GALLERY],
            "queries": queries,
            "silent_stems": int(listed) - rows[GALLERY],
            "seen_tracks": len(seen),
        },
        seen_tracks=seen,
        has_encoder_gallery=ENCODER_GALLERY in rows,
    )
    remove_parts(folder)
    return artifact


def _layer_norm(batches: Sequence[np.ndarray], name: str) -> np.ndarray:
    """LayerNorm without affine and eps, then unit norm: (row, dim) float32."""
    vectors = np.concatenate(batches)
    return unit_rows(vectors - vectors.mean(axis=1, keepdims=True), f"vectors for {name}")
