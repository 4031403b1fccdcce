"""Features for beat probes as files: ``beats/features/<model_id>/<corpus>/``.

``NNNNN.npy`` holds a track: (layer, step, feature) float16; the manifest lists the tracks. A build
that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ml import kinds
from ml.artifacts import (
    MANIFEST_NAME,
    Artifact,
    ArtifactError,
    DataLayout,
    find_current,
    fingerprint,
    finish,
    read_json,
    read_manifest,
    sync,
    write_json,
)
from ml.audio.files import mix_parts, read_stem
from ml.beats.features import BeatInput, FeatureConfig, step_count, track_features
from ml.device import keep_freed_memory, one_thread
from ml.locks import lock
from ml.processes import cores
from ml.progress import progress
from ml.tracks import CorpusError, Track

_BEGUN = "begun.json"


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What is read, and how."""

    corpus: str
    version: str
    """Of ``corpus_tracks``."""
    tracks: Sequence[Track]
    lengths_s: Mapping[str, float]
    """Duration of each track."""
    silent: int
    """Tracks that never sound; they have no features."""
    config: FeatureConfig

    def identity(self, used: BeatInput) -> dict[str, Any]:
        return {
            "corpus": self.corpus,
            "corpus_tracks": self.version,
            "model_id": used.model_id,
            "layers": used.layers,
            "edge_share": self.config.edge_share,
            "precision": self.config.precision,
        }


def build_beat_features(
    name: str, inputs: Sequence[BeatInput], layout: DataLayout
) -> list[Artifact]:
    """Compute the features of all tracks of a corpus by each input, in one pass over the audio.

    Args:
        name: the corpus; its ``corpus_tracks`` must have been built. The audio of a track is the
            sum of its stems.
        inputs: in the order of the result.
        layout: where everything lies.

    Raises:
        ArtifactError: ``corpus_tracks`` was not built.
        AudioError: an audio file has gone since then.
        CorpusError: no track sounds.
    """
    keep_freed_memory()
    source = _open(name, layout, FeatureConfig())
    folders = {used.model_id: layout.beat_features(used.model_id, name) for used in inputs}
    current = {
        used.model_id: find_current(
            folders[used.model_id], source.identity(used), kinds.BEAT_FEATURES
        )
        for used in inputs
    }
    stale = [used for used in inputs if current[used.model_id] is None]
    with ExitStack() as locks:
        for used in stale:
            locks.enter_context(lock(folders[used.model_id] / ".lock"))
            _begin(folders[used.model_id], source.identity(used))
        if stale:
            _write_tracks(source, stale, folders)
        made = {used.model_id: _finish(source, used, folders[used.model_id]) for used in stale}
    return [current[used.model_id] or made[used.model_id] for used in inputs]


def read_features_manifest(layout: DataLayout, model_id: str, corpus: str) -> dict[str, Any]:
    """Read the manifest of the features of a corpus: ``tracks``, ``layers``, ``feature_dim``.

    Raises:
        ArtifactError: there are none, or they have a newer format.
    """
    return read_manifest(layout.beat_features(model_id, corpus), kinds.BEAT_FEATURES)


def features_file(place: int) -> str:
    """Name the file of the track at a place in the manifest's list."""
    return f"{place:05d}.npy"


def read_features(path: Path, row: int) -> np.ndarray:
    """Map one layer of a track from disk: (step, feature) float16.

    Args:
        path: the track's file.
        row: place of the layer in the manifest's ``layers``.

    Raises:
        ArtifactError: the file has gone or is damaged.
    """
    try:
        return np.load(path, mmap_mode="r")[row]
    except (OSError, ValueError, EOFError, IndexError) as error:
        raise ArtifactError(
            f"{path} is missing or damaged ({error}); delete {path.parent} and make it again "
            f"with: {kinds.BEAT_FEATURES.remedy(path.parent)}"
        ) from None


def _open(name: str, layout: DataLayout, config: FeatureConfig) -> _Source:
    from ml.corpora.table import read_corpus_tracks, tracks_of_table

    manifest = read_manifest(layout.tracks(name), kinds.CORPUS_TRACKS)
    table = read_corpus_tracks(layout, name)
    tracks = tracks_of_table(table)
    if not tracks:
        raise CorpusError(
            f"no track of corpus {name} sounds; look at it with: stems corpus inspect {name}"
        )
    lengths_s: dict[str, float] = {}
    columns = ("track_id", "start_s", "duration_s")
    for track_id, start_s, duration_s in table.select(columns).iter_rows():
        end_s = start_s + (duration_s or 0.0)
        lengths_s[track_id] = max(lengths_s.get(track_id, 0.0), end_s)
    return _Source(
        corpus=name,
        version=manifest["fingerprint"],
        tracks=tracks,
        lengths_s=lengths_s,
        silent=len(lengths_s) - len(tracks),
        config=config,
    )


def _begin(folder: Path, identity: Mapping[str, Any]) -> None:
    """Keep what an earlier build of the same identity wrote, and nothing else."""
    begun, version = folder / _BEGUN, fingerprint(identity)
    if begun.is_file() and read_json(begun) == version:
        return
    for path in (folder / MANIFEST_NAME, begun, *folder.glob("*.npy"), *folder.glob("*.part")):
        path.unlink(missing_ok=True)
    write_json(begun, version)


def _write_tracks(
    source: _Source, inputs: Sequence[BeatInput], folders: Mapping[str, Path]
) -> None:
    label = f"beat features of {source.corpus}"

    def write(place: int) -> None:
        track = source.tracks[place]
        paths = {model_id: folder / features_file(place) for model_id, folder in folders.items()}
        missing = [used for used in inputs if not paths[used.model_id].is_file()]
        for rate_hz in {used.rate_hz for used in missing}:
            waveform = mix_parts([read_stem(stem, rate_hz=rate_hz) for stem in track.stems])
            same_rate = [used for used in missing if used.rate_hz == rate_hz]
            _write_track(same_rate, waveform, paths, source.config)

    # A track a core: the batches of one track are too small to be shared between cores.
    with (
        one_thread(),
        ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        try:
            done = pool.map(write, range(len(source.tracks)))
            for _ in progress(done, total=len(source.tracks), label=label):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_track(
    inputs: Sequence[BeatInput],
    waveform: np.ndarray,
    paths: Mapping[str, Path],
    config: FeatureConfig,
) -> None:
    arrays = {}
    for used in inputs:
        shape = len(used.layers), step_count(used, len(waveform)), used.feature_dim
        arrays[used.model_id] = np.lib.format.open_memmap(
            _aside(paths[used.model_id]), mode="w+", dtype=np.float16, shape=shape
        )
    for used, steps, layers in track_features(inputs, waveform, config):
        for row, layer in enumerate(used.layers):
            arrays[used.model_id][row, steps] = layers[layer].numpy()
    for used in inputs:
        # Synced when all are there: waiting at each track takes longer than encoding it.
        _aside(paths[used.model_id]).replace(paths[used.model_id])


def _aside(path: Path) -> Path:
    return path.with_suffix(".part")


def _finish(source: _Source, used: BeatInput, folder: Path) -> Artifact:
    listed = []
    for place, track in enumerate(source.tracks):
        sync(folder / features_file(place))
        steps = read_features(folder / features_file(place), 0).shape[0]
        duration_s = source.lengths_s[track.track_id]
        listed.append({"track_id": track.track_id, "duration_s": duration_s, "steps": steps})
    steps = sum(row["steps"] for row in listed)
    artifact = finish(
        folder,
        source.identity(used),
        kinds.BEAT_FEATURES,
        summary={
            "model": used.name,
            "tracks": len(listed),
            "silent_tracks": source.silent,
            "steps": steps,
            "hours": round(steps * used.step_s / 3600, 3),
            "megabytes": round(steps * used.feature_dim * 2 * len(used.layers) / 1e6, 1),
        },
        layers=list(used.layers),
        feature_dim=used.feature_dim,
        step_s=used.step_s,
        tracks=listed,
    )
    (folder / _BEGUN).unlink()
    return artifact
