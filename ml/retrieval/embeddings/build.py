"""From a corpus to embeddings: one pass over the audio for all models, by either protocol.

``default``: a stem's gallery vector is the mean over its sounding chunks, then unit norm. A query's
vector is the mean over the sounding chunks of the mix *without* the stem, predicted for the stem's
label, then unit norm. Chunks are consecutive, the last one is aligned to the end. A stem that
sounds in no chunk is neither query nor gallery; a stem whose remaining mix sounds in none is
gallery only. Both are counted in the summary.

``predecessor``: whole files as Stem-JEPA's MUSDB18 script embeds them. The log-mel is taken of the
whole file and cut into consecutive chunks of the training length (800 frames at 8 s), silent ones
too; the last is padded with 0, the mean after standardisation, to a multiple of the patch. An
embedding is the mean over time of the patches with the frequency rows side by side (5 · dim), then
LayerNorm without affine. Stems are embedded by the target encoder and by the encoder: two
galleries. Queries are the encoder's patches of the float sum of the other stems, through the
predictor. LayerNorm makes all vectors equally long, so the Euclidean distance ranks as the cosine
does, and ``ml.retrieval.evaluation.ranks`` serves both protocols; files hold the vectors at unit
norm.
Differs: LayerNorm's eps (1e-5, nothing beside variances near 1) is left out, so that they are
exactly equally long. ``paper``, as Riou et al. describe it (section III-A), is made in the same
pass: the mean over all patches of the same chunks, compared by Euclidean distance. Which of the two
gave the figures of Table I nobody says: its row of Stem-JEPA on MUSDB18 is the one that Stem-JEPA
published, so it is the script's; the others are taken to be as described. A stem that never sounds
is not among the usable stems of ``corpus_tracks`` and is left out and counted. Stems are padded to
their track's longest, in MUSDB18 they are equal.

Every stem is decoded once, log-mels are shared by all models with the same frontend. Work goes in
parts (``ml.retrieval.embeddings.parts``), which outlive a kill and may be computed elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml import kinds
from ml.artifacts import Artifact, ArtifactError, DataLayout, find_current, finish, read_manifest
from ml.audio.activity import MIN_ACTIVE_S
from ml.device import Precision, keep_freed_memory
from ml.kinds import ArtifactKind
from ml.labels.clap_files import ClapFiles
from ml.models.stem_jepa import StemJepa
from ml.processes import completed
from ml.progress import progress
from ml.retrieval.embeddings.files import (
    CHUNKS,
    ENCODER_GALLERY,
    GALLERY,
    PREDECESSOR,
    predecessor_folder,
    queries_name,
)
from ml.retrieval.embeddings.model import (
    Conditions,
    EmbeddingModel,
    check_label_encoder,
    conditions_of,
)
from ml.retrieval.embeddings.parts import (
    EmbeddingOptions,
    PartJob,
    begun_parts,
    compute_part,
    compute_parts,
    join_parts,
    missing_parts,
    parts_of,
    remove_parts,
    write_part,
)
from ml.retrieval.embeddings.passes import models_by_shape
from ml.retrieval.embeddings.source import EmbeddingSource, Splits, open_source, seen_tracks
from ml.tracks import CONDITIONINGS, CorpusError


def embed_corpus(
    name: str,
    models: Sequence[EmbeddingModel],
    layout: DataLayout,
    label_vectors: Mapping[str, np.ndarray],
    *,
    conditioning: str | None = "fine",
    splits: Splits = None,
    device: str = "cpu",
    batch_chunks: int = 64,
    precision: Precision = "bf16",
    executor: Executor | None = None,
    clap: ClapFiles | None = None,
) -> list[Artifact]:
    """Embed a corpus by each model; what is up to date is not computed again.

    Args:
        name: the corpus; its ``corpus_tracks`` must have been built.
        models: in the order of the result.
        layout: where everything lies.
        label_vectors: (condition_dim,) per text: all labels of the corpus and ``"music"``; may be
            empty when no model takes conditions.
        conditioning: one of ``CONDITIONINGS``; None: stems alone, no queries, in about half the
            time. Queries of other conditionings that were made before are kept.
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
    conditionings = [] if conditioning is None else [conditioning]
    _check_conditionings(conditionings)
    _check_label_encoders(name, models, layout, label_vectors)
    build = _Build(
        source=open_source(name, layout, splits, precision=precision),
        label_vectors=label_vectors,
        options=EmbeddingOptions(
            device=device,
            batch_chunks=batch_chunks,
            precision=precision,
            layout=layout,
            clap=clap,
        ),
        executor=executor,
    )
    return build.artifacts(models, conditionings)


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
    """Embed a corpus by the ``predecessor`` protocol; what is up to date is not computed again.

    Arguments, result and errors are those of ``embed_corpus``, which checks that the vectors come
    from the models' label encoder; with several ``conditionings`` at once.

    Raises:
        ValueError: models of different rates, or no track with two usable stems.
    """
    _check_conditionings(conditionings)
    rates = {model.rate_hz for model in models}
    if len(rates) != 1:
        raise ValueError(f"models have sample rates {sorted(rates)} Hz; expected one rate")
    build = _Build(
        source=open_source(name, layout, splits, precision=precision, protocol=PREDECESSOR),
        label_vectors=label_vectors,
        options=EmbeddingOptions(
            protocol="predecessor",
            device=device,
            batch_chunks=batch_chunks,
            precision=precision,
            layout=layout,
        ),
    )
    return build.artifacts(models, conditionings)


def models_with_encoder(models: Sequence[EmbeddingModel]) -> list[StemJepa]:
    """Choose the models that the ``predecessor`` protocol is defined for.

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


def _check_conditionings(conditionings: Sequence[str]) -> None:
    if unknown := sorted(set(conditionings) - set(CONDITIONINGS)):
        expected = ", ".join(CONDITIONINGS)
        raise ValueError(f"conditioning is {unknown[0]!r}; expected one of: {expected}")


def _check_label_encoders(
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


@dataclass(frozen=True, kw_only=True)
class _Build:
    """What is embedded, how, and by whom."""

    source: EmbeddingSource
    label_vectors: Mapping[str, np.ndarray]
    options: EmbeddingOptions
    executor: Executor | None = None

    def artifacts(
        self, models: Sequence[EmbeddingModel], conditionings: Sequence[str]
    ) -> list[Artifact]:
        """Return the embeddings of each model; where queries lack, all are made anew."""
        keep_freed_memory()
        on_disk = {m.model_id: self._on_disk(m) for m in models}
        current = {i for i, (old, made) in on_disk.items() if old and {*conditionings} <= {*made}}
        stale = [m for m in models if m.model_id not in current]
        wanted = set(conditionings).union(*(on_disk[m.model_id][1] for m in stale))
        names = tuple(c for c in CONDITIONINGS if c in wanted)
        artifacts = {model_id: old for model_id, (old, _) in on_disk.items() if old}
        for group in models_by_shape(stale):
            artifacts |= self._build(group, names)
        return [artifacts[m.model_id] for m in models]

    @property
    def kind(self) -> ArtifactKind:
        """Kind of the artifacts."""
        return kinds.EMBEDDINGS if self._is_default else kinds.PREDECESSOR_EMBEDDINGS

    @property
    def _is_default(self) -> bool:
        return self.options.protocol == "default"

    def _folder(self, model: EmbeddingModel) -> Path:
        if self._is_default:
            return self.options.layout.embeddings(model.model_id, self.source.corpus)
        return predecessor_folder(self.options.layout, model.model_id, self.source.corpus)

    def _identity(self, model: EmbeddingModel, names: Sequence[str]) -> dict[str, Any]:
        more = {"part_shares": model.part_shares} if len(model.part_shares) > 1 else {}
        return {**self.source.identity, "model_id": model.model_id, "conditionings": names, **more}

    def _on_disk(self, model: EmbeddingModel) -> tuple[Artifact | None, Sequence[str]]:
        """Find embeddings that are current but for queries that may lack, and those they have."""
        try:
            manifest = read_manifest(self._folder(model), self.kind)
        except ArtifactError:
            return None, ()
        made = manifest["identity"].get("conditionings", [])
        artifact = find_current(self._folder(model), self._identity(model, made), self.kind)
        return artifact, made if artifact else ()

    def _build(
        self, models: Sequence[EmbeddingModel], conditionings: Sequence[str]
    ) -> dict[str, Artifact]:
        """Make the parts that are missing, join them, and finish; by model_id."""
        folders = {m.model_id: self._folder(m) for m in models}
        identities = {m.model_id: self._identity(m, conditionings) for m in models}
        stems = [stem for track in self.source.tracks for stem in track.stems]
        conditions = {c: conditions_of(stems, c, self.label_vectors) for c in conditionings}
        label = f"embedding {'' if self._is_default else 'whole files of '}{self.source.corpus}"
        with begun_parts(folders, identities, self.kind):
            jobs = self._jobs(folders, conditions)
            if self.executor is None:
                made = compute_parts(jobs, models, self.source, label=label)
            else:
                made = progress(
                    completed(self.executor, compute_part, jobs),
                    total=len(parts_of(self.source)),
                    done=len(parts_of(self.source)) - len(jobs),
                    label=f"{label}, parts",
                )
            for part, tables in made:
                write_part(part, folders, tables)
            return {m.model_id: self._finish(m, conditionings) for m in models}

    def _jobs(
        self, folders: Mapping[str, Path], conditions: Mapping[str, Conditions]
    ) -> list[PartJob]:
        """Describe the parts that are missing."""
        rows = self.source.rows()
        return [
            PartJob(
                corpus=self.source.corpus,
                part=part,
                model_ids=tuple(model_ids),
                rows=rows[part.stems],
                conditions={name: each.of(part.stems) for name, each in conditions.items()},
                options=self.options,
            )
            for part, model_ids in missing_parts(self.source, folders)
        ]

    def _finish(self, model: EmbeddingModel, conditionings: Sequence[str]) -> Artifact:
        """Join the parts of a model and write the manifest."""
        source, folder = self.source, self._folder(model)
        rows = join_parts(source, folder)
        counts = self._counts(rows, [rows[queries_name(name)] for name in conditionings[:1]])
        chosen = {track.track_id for track in source.tracks}
        seen = chosen.intersection(
            seen_tracks(source.table, model.training_tracks, self.options.layout)
        )
        more: dict[str, Any] = {"dim": model.dim, "part_shares": model.part_shares}
        if not self._is_default:
            more = {"has_encoder_gallery": ENCODER_GALLERY in rows}
        artifact = finish(
            folder,
            self._identity(model, conditionings),
            self.kind,
            summary={
                "model": model.name,
                "tracks": len(source.tracks),
                **counts,
                "seen_tracks": len(seen),
            },
            seen_tracks=sorted(seen),
            songs=source.songs(),
            **more,
        )
        remove_parts(folder)
        return artifact

    def _counts(self, rows: Mapping[str, int], asked: Sequence[int]) -> dict[str, int]:
        """Count what was embedded and what was left out; refuse when nothing was."""
        corpus, gallery, queries = self.source.corpus, rows[GALLERY], sum(asked)
        counts = {"gallery": gallery, "queries": queries}
        if self._is_default:
            if not gallery:
                raise CorpusError(
                    f"no stem of {corpus} sounds for {MIN_ACTIVE_S} s in any chunk; "
                    f"look at its levels with: stems corpus inspect"
                )
            stems = sum(len(track.stems) for track in self.source.tracks)
            silent_mixes = gallery - queries if asked else 0
            silent = {"silent_stems": stems - gallery, "silent_mixes": silent_mixes}
            return counts | {"chunks": rows[CHUNKS]} | silent
        if not queries:
            raise ValueError(
                f"no track of {corpus} has two usable stems in these splits, so there is no "
                f"mix to find a stem for; evaluate other splits or another corpus"
            )
        chosen = [track.track_id for track in self.source.tracks]
        listed = int(self.source.table["track_id"].is_in(chosen).sum())
        return counts | {"silent_stems": listed - gallery}
