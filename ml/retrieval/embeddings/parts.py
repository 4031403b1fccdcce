"""Embeddings of a corpus in parts, so that a pass that was stopped goes on where it was.

A *part* is a run of whole tracks, about an hour of stems: its vectors are held in memory while it
is made, and no more than it is lost when the process is killed. ``parts/NNNNNN/`` in the folder of
the embeddings holds the files that the whole will have, with the rows of its tracks;
``parts/begun.json`` says what they are parts of. Batches end where a part ends: the rows are the
same bits whether or not a pass was stopped in between. When all are made they are joined, in order.

A *job* is one part and what is asked of it. This process computes it, or the worker of an executor,
whose tables come back and are written here. Models are not sent with a job: a worker loads them by
their id from the home, each once. The home must lie at the same path for all workers, as the
corpora must (a shared mount).
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ml.artifacts import (
    MANIFEST_NAME,
    ArtifactError,
    DataLayout,
    fingerprint,
    read_json,
    write_folder_aside,
    write_json,
)
from ml.device import Precision, choose_device, keep_freed_memory
from ml.kinds import ArtifactKind
from ml.labels.clap_files import ClapFiles
from ml.locks import lock
from ml.models.stem_jepa import StemJepa
from ml.parquet import join_tables, write_table
from ml.progress import progress
from ml.retrieval.embeddings.baselines import open_model
from ml.retrieval.embeddings.files import (
    CHUNKS,
    ENCODER_GALLERY,
    GALLERY,
    MEANS,
    StemRow,
    queries_name,
    query_table,
    stem_table,
    unit_rows,
)
from ml.retrieval.embeddings.model import Conditions, EmbeddingModel
from ml.retrieval.embeddings.passes import EmbeddingPass, WholeFilePass, whole_file_mels
from ml.retrieval.embeddings.source import EmbeddingSource, TrackAudio, read_tracks
from ml.tracks import Track

if TYPE_CHECKING:
    import pyarrow as pa

PARTS = "parts"
PART_S = 3600.0
"""Seconds of stems in a part; the last track may reach beyond."""
MODELS_KEPT = 8
"""How many models a worker keeps in memory; the least recently used goes first."""
_BEGUN = "begun.json"

PartTables = Mapping[str, Mapping[str, "pa.Table"]]
"""model_id → file name → table."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A run of tracks of a source."""

    number: int
    tracks: Sequence[Track]
    stems: slice
    """Their stems among all those of the source."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptions:
    """How stems are embedded, here or by a worker."""

    protocol: Literal["default", "predecessor"] = "default"
    """See ``ml.retrieval.embeddings.build``."""
    device: str
    """``auto``, ``cpu`` or ``cuda``, of whoever computes."""
    batch_chunks: int
    precision: Precision
    layout: DataLayout
    """Where a worker finds the models."""
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
    options: EmbeddingOptions


def parts_of(source: EmbeddingSource) -> list[Part]:
    """Cut a source into parts: a pure function of its tracks and their lengths."""
    length_s = dict(zip(source.table["stem_id"], source.table["duration_s"], strict=True))
    lengths_s = (sum(length_s[stem.stem_id] for stem in track.stems) for track in source.tracks)
    begins_s = itertools.accumulate(lengths_s, initial=0.0)
    places = [int(begin_s // PART_S) for begin_s in begins_s]
    parts, first = [], 0
    for _, group in itertools.groupby(
        zip(places[:-1], source.tracks, strict=True), key=lambda placed: placed[0]
    ):
        tracks = [track for _, track in group]
        stop = first + sum(len(track.stems) for track in tracks)
        parts.append(Part(number=len(parts), tracks=tracks, stems=slice(first, stop)))
        first = stop
    return parts


# Parts on disk.


@contextlib.contextmanager
def begun_parts(
    folders: Mapping[str, Path], identities: Mapping[str, Any], kind: ArtifactKind
) -> Iterator[None]:
    """Hold the locks of folders of embeddings, with parts of these identities and no others.

    Args:
        folders: model_id → folder.
        identities: model_id → what the whole will be made from.
        kind: of the embeddings.

    Raises:
        LockedError: another process embeds the same.
    """
    with contextlib.ExitStack() as locks:
        for model_id, folder in folders.items():
            locks.enter_context(lock(folder / ".lock"))
            _begin(folder, identities[model_id], kind.format_version)
        yield


def _begin(folder: Path, identity: Mapping[str, Any], format_version: int) -> None:
    parts = folder / PARTS
    version = fingerprint({"of": identity, "format_version": format_version, "part_s": PART_S})
    try:
        is_same = read_json(parts / _BEGUN) == version
    except ArtifactError:
        is_same = False
    if not is_same:
        (parts / _BEGUN).unlink(missing_ok=True)
        shutil.rmtree(parts, ignore_errors=True)
        write_json(parts / _BEGUN, version)


def missing_parts(
    source: EmbeddingSource, folders: Mapping[str, Path]
) -> list[tuple[Part, list[str]]]:
    """List the parts that are not there for all models, with the model_ids that lack them."""
    wanted = [
        (part, [m for m, folder in folders.items() if not _path(folder, part).is_dir()])
        for part in parts_of(source)
    ]
    return [(part, model_ids) for part, model_ids in wanted if model_ids]


def write_part(part: Part, folders: Mapping[str, Path], tables: PartTables) -> None:
    """Write the tables of a part into the folder of each model."""
    for model_id, files in tables.items():
        with write_folder_aside(_path(folders[model_id], part)) as aside:
            for name, table in files.items():
                write_table(table, aside / name)


def join_parts(source: EmbeddingSource, folder: Path) -> dict[str, int]:
    """Write the files that the parts hold as whole ones; returns how many rows each has.

    From here until the caller writes a new one there is no manifest: what is on disk is neither
    the old embeddings nor all of the new ones.
    """
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    paths = [_path(folder, part) for part in parts_of(source)]
    names = sorted(path.name for path in paths[0].iterdir())
    return {name: join_tables([path / name for path in paths], folder / name) for name in names}


def remove_parts(folder: Path) -> None:
    """Remove what is no longer needed once the manifest is written."""
    aside = folder / f".{PARTS}.tmp"  # if killed now, ``stems gc`` removes what is left
    shutil.rmtree(aside, ignore_errors=True)
    (folder / PARTS).rename(aside)
    shutil.rmtree(aside)


def _path(folder: Path, part: Part) -> Path:
    return folder / PARTS / f"{part.number:06d}"


# The work.


def compute_parts(
    jobs: Sequence[PartJob],
    models: Sequence[EmbeddingModel],
    source: EmbeddingSource,
    *,
    label: str,
) -> Iterator[tuple[Part, PartTables]]:
    """Embed parts one after another in this process, the next tracks decoded meanwhile.

    Args:
        jobs: the parts of a source that are missing.
        models: at least those of the jobs.
        source: what the parts are of.
        label: of the progress.
    """
    tracks = [track for job in jobs for track in job.part.tracks]
    audios = progress(
        read_tracks(tracks, models[0].rate_hz),
        total=len(source.tracks),
        done=len(source.tracks) - len(tracks),
        label=label,
    )
    for job in jobs:
        asked = [model for model in models if model.model_id in job.model_ids]
        yield job.part, _embed(job, asked, itertools.islice(audios, len(job.part.tracks)))
    next(audios, None)  # so that the progress ends


def compute_part(job: PartJob) -> tuple[Part, PartTables]:
    """Load the models of a job, read its tracks, embed them: the work of a worker.

    Raises:
        ArtifactError: the home has no such model any more, or not here.
        AudioError: an audio file is missing here, or has gone.
    """
    keep_freed_memory()
    layout, clap = job.options.layout, job.options.clap
    models = [worker_model(model_id, layout, clap) for model_id in job.model_ids]
    return job.part, _embed(job, models, read_tracks(job.part.tracks, models[0].rate_hz))


@lru_cache(maxsize=MODELS_KEPT)
def worker_model(model_id: str, layout: DataLayout, clap: ClapFiles | None) -> EmbeddingModel:
    """Load a model by its id where a worker finds it, once a process.

    Raises:
        ArtifactError: it is not there, or is another one.
    """
    try:
        model = open_model(model_id, layout, clap)
    except ArtifactError as error:
        raise ArtifactError(
            f"a worker finds no checkpoint of the model {model_id} below {layout.runs}; expected "
            "the same home at the same path for all workers: share it with them (a mount), or "
            f"embed without a cluster (compute.dask_scheduler: null). {error}"
        ) from None
    if model.model_id != model_id:
        raise ArtifactError(
            f"a worker finds the model {model.model_id}, expected {model_id}; put the same files "
            "at the same paths for all workers"
        )
    return model


def _embed(
    job: PartJob, models: Sequence[EmbeddingModel], audios: Iterator[TrackAudio]
) -> PartTables:
    """Embed the tracks of a part, which come in order, with the models of a job."""
    if job.options.protocol == "predecessor":
        return _embed_whole_files(job, [m for m in models if isinstance(m, StemJepa)], audios)
    run = EmbeddingPass(
        models,
        job.conditions,
        device=choose_device(job.options.device),
        batch_chunks=job.options.batch_chunks,
        precision=job.options.precision,
    )
    first_stem = 0
    for audio in audios:
        for i in range(len(audio.stems)):
            chunks = list(audio.stem_chunks(i, models[0].chunk_s))
            run.add_stem(first_stem + i, chunks)
            if chunks and job.conditions:  # what never sounds is no target
                run.add_mix(first_stem + i, audio.mix_chunks(i, models[0].chunk_s))
        first_stem += len(audio.stems)
    run.finish()
    return {model.model_id: _chunk_tables(model, run, job) for model in models}


def _chunk_tables(model: EmbeddingModel, run: EmbeddingPass, job: PartJob) -> dict[str, pa.Table]:
    what = f"by {model.name} of part {job.part.number} of {job.corpus}"
    chunks = run.gallery(model)
    sounding, gallery = chunks.stem_vectors(f"gallery vectors {what}")
    vectors = unit_rows(chunks.vectors, f"chunk vectors {what}")
    tables = {
        GALLERY: stem_table([job.rows[i] for i in sounding], gallery),
        CHUNKS: stem_table([job.rows[i] for i in chunks.stems], vectors, chunks.start_s),
    }
    for name, conditions in job.conditions.items():
        asked, queries = run.queries(model, name).stem_vectors(f"{name} query vectors {what}")
        texts = [conditions.texts[i] for i in asked]
        tables[queries_name(name)] = query_table([job.rows[i] for i in asked], texts, queries)
    return tables


def _embed_whole_files(
    job: PartJob, models: Sequence[StemJepa], audios: Iterator[TrackAudio]
) -> PartTables:
    device = choose_device(job.options.device)
    passes = [
        WholeFilePass(
            model,
            job.conditions,
            device=device,
            batch_chunks=job.options.batch_chunks,
            precision=job.options.precision,
        )
        for model in models
    ]
    frontends = {model.log_mel.fingerprint(): model.log_mel for model in models}
    first_stem = 0
    for audio in audios:
        mels = {key: whole_file_mels(mel, audio, device) for key, mel in frontends.items()}
        for run in passes:
            run.add(*mels[run.model.log_mel.fingerprint()], first_stem)
        first_stem += len(audio.stems)
    return {run.model.model_id: _whole_file_tables(run, job.rows) for run in passes}


def _whole_file_tables(run: WholeFilePass, rows: Sequence[StemRow]) -> dict[str, pa.Table]:
    galleries = {GALLERY: run.gallery, ENCODER_GALLERY: run.encoder_gallery}
    dim = run.model.config.encoder.dim
    tables: dict[str, pa.Table] = {}
    for file, batches in galleries.items():
        if batches:
            vectors = np.concatenate(batches)
            tables[file] = stem_table(rows, _layer_norm(vectors, file))
            tables[MEANS + file] = stem_table(rows, _means(vectors, dim))
    none = run.gallery[0][:0]  # where no track has two stems
    for name, batches in run.queries.items():
        file, vectors = queries_name(name), np.concatenate([none, *batches])
        texts = [run.conditions[name].texts[i] for i in run.query_stems]
        asked = [rows[i] for i in run.query_stems]
        tables[file] = query_table(asked, texts, _layer_norm(vectors, file))
        tables[MEANS + file] = query_table(asked, texts, _means(vectors, dim))
    return tables


def _means(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Average frequency rows side by side: (row, freq_patch · dim) to (row, dim)."""
    return vectors.reshape(len(vectors), -1, dim).mean(axis=1)


def _layer_norm(vectors: np.ndarray, name: str) -> np.ndarray:
    """Apply LayerNorm without affine and eps, then unit norm: (row, dim) float32."""
    return unit_rows(vectors - vectors.mean(axis=1, keepdims=True), f"vectors for {name}")
