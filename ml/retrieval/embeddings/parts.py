"""Embeddings of a corpus in parts, so that a pass that was stopped goes on where it was.

A part is a run of whole tracks, about an hour of stems: its vectors are held in memory while it is
made, and no more than it is lost when the process is killed. ``parts/NNNNNN/`` in the folder of the
embeddings holds the files that the whole will have, with the rows of its tracks;
``parts/begun.json`` says what they are parts of. Batches end where a part ends: the rows are the
same bits whether or not a pass was stopped in between. When all are made they are joined, in order.

[part_jobs] One part of a corpus through some models: what a unit of embedding is, here or in a
worker.

A job holds what is asked of the tracks of its part; models are not sent with it. A worker loads
them by their id from the home, each once: the home must lie at the same path for all workers, as
the corpora must (a shared mount). What it makes goes back as tables, which whoever asked writes.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from ml.parquet import join_tables, write_table
from ml.progress import progress
from ml.retrieval.embeddings.files import (
    CHUNKS,
    GALLERY,
    StemRow,
    queries_name,
    query_table,
    stem_table,
    unit_rows,
)
from ml.retrieval.embeddings.model import Conditions
from ml.retrieval.embeddings.passes import EmbeddingPass
from ml.retrieval.embeddings.source import EmbeddingSource, TrackAudio, read_tracks
from ml.tracks import Track
from ml.training.models import find_checkpoint

if TYPE_CHECKING:
    import pyarrow as pa

    from ml.retrieval.embeddings.model import EmbeddingModel


PARTS = "parts"


PART_S = 3600.0
"""Seconds of stems in a part; the last track may reach beyond."""


_BEGUN = "begun.json"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A run of tracks of a source."""

    number: int
    tracks: Sequence[Track]
    stems: slice
    """Their stems among all those of the source."""


PartTables = Mapping[str, Mapping[str, "pa.Table"]]
"""model_id → file name → table."""


EmbedPart = Callable[[Part, Sequence[str], Iterator[TrackAudio]], PartTables]
"""A part, the model_ids that it is asked of and the audio of its tracks → its tables."""


EmbedParts = Callable[[Sequence[tuple[Part, Sequence[str]]]], Iterable[tuple[Part, PartTables]]]
"""Parts, each with the model_ids that it is asked of → the same parts in any order, with their
tables."""


def parts_of(source: EmbeddingSource) -> list[Part]:
    """The parts of a source: a pure function of its tracks and their lengths."""
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


def make_parts(
    source: EmbeddingSource,
    folders: Mapping[str, Path],
    embed: EmbedPart,
    *,
    rate_hz: int,
    label: str,
) -> None:
    """Make the parts that are missing, in one pass over the tracks that these need.

    Args:
        source: what is embedded.
        folders: model_id → folder of its embeddings, locked and begun.
        embed: makes one.
        rate_hz: sample rate of the audio.
        label: of the progress.
    """
    missing = _missing(source, folders)
    tracks = [track for part, _ in missing for track in part.tracks]
    audios = progress(
        read_tracks(tracks, rate_hz),
        total=len(source.tracks),
        done=len(source.tracks) - len(tracks),
        label=label,
    )
    for part, model_ids in missing:
        made = embed(part, model_ids, itertools.islice(audios, len(part.tracks)))
        _keep(part, folders, made)
    next(audios, None)  # so that the progress ends


def gather_parts(
    source: EmbeddingSource, folders: Mapping[str, Path], embed: EmbedParts, *, label: str
) -> None:
    """Have the parts that are missing made elsewhere, and write each as it comes.

    Args:
        source: what is embedded.
        folders: model_id → folder of its embeddings, locked and begun.
        embed: has them made.
        label: of the progress.
    """
    missing = _missing(source, folders)
    total = len(parts_of(source))
    done = total - len(missing)
    for part, made in progress(embed(missing), total=total, done=done, label=f"{label}, parts"):
        _keep(part, folders, made)


def _missing(
    source: EmbeddingSource, folders: Mapping[str, Path]
) -> list[tuple[Part, Sequence[str]]]:
    """Parts that are not there for all models, with the model_ids that they are missing for."""
    wanted = [
        (part, [m for m, folder in folders.items() if not _path(folder, part).is_dir()])
        for part in parts_of(source)
    ]
    return [(part, model_ids) for part, model_ids in wanted if model_ids]


def _keep(part: Part, folders: Mapping[str, Path], made: PartTables) -> None:
    for model_id, tables in made.items():
        with write_folder_aside(_path(folders[model_id], part)) as aside:
            for name, table in tables.items():
                write_table(table, aside / name)


def join_parts(source: EmbeddingSource, folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Write the files of these names from all parts; returns how many rows each has.

    From here until the caller writes a new one there is no manifest: what is on disk is neither
    the old embeddings nor all of the new ones.
    """
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    paths = [_path(folder, part) for part in parts_of(source)]
    return {name: join_tables([path / name for path in paths], folder / name) for name in names}


def remove_parts(folder: Path) -> None:
    """Remove what is no longer needed once the manifest is written."""
    aside = folder / f".{PARTS}.tmp"  # if killed now, ``stems gc`` removes what is left
    shutil.rmtree(aside, ignore_errors=True)
    (folder / PARTS).rename(aside)
    shutil.rmtree(aside)


def _path(folder: Path, part: Part) -> Path:
    return folder / PARTS / f"{part.number:06d}"


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
    from ml.labels.clap_files import clap_files
    from ml.models.stem_jepa import load_model
    from ml.retrieval.embeddings.baselines import SPECTRUM, SpectrumModel
    from ml.retrieval.embeddings.clap_audio import CLAP_AUDIO, ClapAudioModel

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
    try:
        return find_checkpoint(layout, model_id)
    except ArtifactError as error:
        raise ArtifactError(
            f"a worker finds no checkpoint of the model {model_id} below {layout.runs}; expected "
            "the same home at the same path for all workers: share it with them (a mount), or "
            f"embed without a cluster (compute.dask_scheduler: null). {error}"
        ) from None
