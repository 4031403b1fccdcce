"""The beats of a corpus, and its tracks that have beats and features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ml.artifacts import DataLayout, fingerprint
from ml.beats.feature_files import features_file, read_features_manifest
from ml.beats.probe import FPS, ProbeTrack, probes_per_step
from ml.corpora.demo.build import DemoCorpus
from ml.corpora.readers.beats import (
    BeatAnnotationError,
    BeatCorpus,
    BeatSet,
    BeatTrack,
    checked_beats,
)
from ml.tracks import CorpusError

KINDS = ("demo", "beats")
"""Kinds of corpora whose beats are known."""


def open_beat_set(name: str, kind: str, root: Path, options: Mapping[str, Any]) -> BeatSet:
    """Read the beats of a corpus of the settings.

    Raises:
        CorpusError: beats of such a corpus are not known, or they cannot be read.
    """
    if kind == "demo":
        return read_demo_beats(root)
    if kind == "beats":
        return BeatCorpus(root, **options).beat_set
    raise CorpusError(
        f"corpus {name} is of kind {kind}, whose beats are not known; expected a corpus of kind "
        f"{' or '.join(KINDS)}"
    )


def beats_version(beat_set: BeatSet) -> str:
    """Fingerprint all beats of a set, and the folds and splits of its tracks."""
    return fingerprint(
        [
            [track.track_id, track.fold, track.split, track.beats.tolist()]
            for track in beat_set.tracks
        ]
    )


def probe_tracks(
    corpus: str, beat_set: BeatSet, layout: DataLayout, model_id: str
) -> list[ProbeTrack]:
    """List the tracks of a corpus that have beats and features, in the order of the features.

    Raises:
        ArtifactError: the features were not made.
        ValueError: their steps are no multiple of what a probe stands for.
    """
    manifest = read_features_manifest(layout, model_id, corpus)
    try:
        probes = probes_per_step(manifest["step_s"])
    except ValueError as error:
        raise ValueError(f"features of {corpus} by {model_id}: {error}") from None
    annotated = {track.track_id: track for track in beat_set.tracks}
    folder = layout.beat_features(model_id, corpus)
    return [
        ProbeTrack(
            corpus=corpus,
            track_id=track.track_id,
            group=track.split if track.fold is None else track.fold,
            beats=track.beats,
            features=folder / features_file(place),
            steps=row["steps"],
            probes=probes,
            frames=min(row["steps"] * probes, math.ceil(row["duration_s"] * FPS)),
        )
        for place, row in enumerate(manifest["tracks"])
        if (track := annotated.get(row["track_id"])) is not None
    ]


def read_demo_beats(root: str | Path) -> BeatSet:
    """Read the songs of a demo corpus with the beats they were composed on.

    Args:
        root: the corpus's folder; its name is the set's.

    Raises:
        CorpusError: no finished demo corpus, or a song of it is damaged.
    """
    corpus = DemoCorpus(root)
    tracks = tuple(
        BeatTrack(
            track_id=track.track_id,
            beats=_beats_of_song(corpus, track.track_id),
            stems=track.stems,
            split=track.split,
        )
        for track in corpus.tracks()
    )
    return BeatSet(name=corpus.root.name, tracks=tracks)


def _beats_of_song(corpus: DemoCorpus, track_id: str) -> np.ndarray:
    times = corpus.song(track_id).get("beats_s", [])
    if not times:
        raise BeatAnnotationError(
            f"song {track_id} of {corpus.root} holds no beats_s; make the corpus again with: "
            "stems demo"
        )
    return checked_beats(times, [f"beat {i} of song {track_id}" for i in range(len(times))])
