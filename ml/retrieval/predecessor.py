"""The ``predecessor`` protocol: whole files as Stem-JEPA's MUSDB18 script embeds them.

The published figures of Table I come from it (DESIGN section 6). The log-mel is taken of the whole
file and cut into consecutive chunks of the training length (800 frames at 8 s), silent ones too;
the last is padded with 0, the mean after standardisation, to a multiple of the patch. An embedding
is the mean over time of the patches with the frequency rows side by side (5 · dim), then LayerNorm
without affine. Stems are embedded by the target encoder and by the encoder: two galleries. Queries
are the encoder's patches of the float sum of the other stems, through the predictor.

LayerNorm makes all vectors equally long, so the Euclidean distance ranks as the cosine does, and
``ml.retrieval.metrics`` serves both protocols; files hold the vectors at unit norm.
Differs: LayerNorm's eps (1e-5, nothing beside variances near 1) is left out, so that they are
exactly equally long. A stem that never sounds is not among the usable stems of ``corpus_tracks``
and is left out and counted. Stems are padded to their track's longest, in MUSDB18 they are equal.
A pass that was stopped goes on where it was (``ml.retrieval.parts``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import (
    Artifact,
    ArtifactError,
    DataLayout,
    find_current,
    finish,
    read_manifest,
)
from ml.device import Precision, keep_freed_memory
from ml.models.stem_jepa import StemJepa
from ml.plain import jsonable
from ml.retrieval.conditions import CONDITIONINGS, Conditions, conditions_of
from ml.retrieval.embedding_files import (
    GALLERY,
    StemRow,
    queries_name,
    query_table,
    stem_table,
)
from ml.retrieval.embedding_source import EmbeddingSource, open_source
from ml.retrieval.leakage import seen_tracks
from ml.retrieval.metrics import unit_rows
from ml.retrieval.mixes import TrackAudio
from ml.retrieval.parts import Part, begun_parts, join_parts, make_parts, remove_parts
from ml.retrieval.predecessor_files import (
    ENCODER_GALLERY,
    FOLDER,
    FORMAT_VERSION,
    MADE_BY,
    predecessor_folder,
)
from ml.retrieval.predecessor_pass import WholeFilePass, whole_file_mels

if TYPE_CHECKING:
    import pyarrow as pa

    from ml.retrieval.embedding_model import EmbeddingModel


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
        label_vectors: (condition_dim,) per text, as for ``ml.retrieval.embed.embed_corpus``, which
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
        run = _Run(
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


def _identity(
    source: EmbeddingSource, model: StemJepa, conditionings: Sequence[str]
) -> dict[str, Any]:
    return {**source.identity, "model_id": model.model_id, "conditionings": conditionings}


def _wanted(
    source: EmbeddingSource, model: StemJepa, layout: DataLayout, asked: Sequence[str]
) -> tuple[str, ...]:
    """The conditionings asked for and those on disk, if what is there is otherwise current."""
    try:
        folder = predecessor_folder(layout, model.model_id, source.corpus)
        manifest = read_manifest(folder, format_version=FORMAT_VERSION, made_by=MADE_BY)
    except ArtifactError:
        return tuple(asked)
    made = manifest["identity"].get("conditionings", [])
    is_current = manifest["identity"] == jsonable(_identity(source, model, made))
    return tuple(c for c in CONDITIONINGS if c in asked or (is_current and c in made))


def _found(
    source: EmbeddingSource, model: StemJepa, layout: DataLayout, conditionings: Sequence[str]
) -> Artifact | None:
    folder = predecessor_folder(layout, model.model_id, source.corpus)
    identity = _identity(source, model, conditionings)
    return find_current(folder, identity, format_version=FORMAT_VERSION)


@dataclass(frozen=True, kw_only=True)
class _Run:
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
        identities = {m.model_id: _identity(source, m, names) for m in self.models}
        with begun_parts(folders, identities, FORMAT_VERSION):
            label = f"embedding whole files of {source.corpus}"
            make_parts(source, folders, self.embed, rate_hz=self.models[0].rate_hz, label=label)
            return {m.model_id: _finish(m, self, layout) for m in self.models}

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


def _finish(model: StemJepa, run: _Run, layout: DataLayout) -> Artifact:
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
        _identity(source, model, names),
        format_version=FORMAT_VERSION,
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
