"""Beats and features of a corpus, brought together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml.artifacts import DataLayout, fingerprint
from ml.beats.annotations import BeatSet, BeatTrack, read_demo_beats
from ml.beats.feature_files import features_file, read_features_manifest
from ml.beats.probe import FPS, PROBES, STEP_S
from ml.beats.probe_tracks import ProbeTrack
from ml.corpora.corpus import CorpusError

KINDS = ("demo", "beats")
"""Kinds of corpora whose beats are known."""


def open_beat_set(name: str, kind: str, root: Path, options: Mapping[str, Any]) -> BeatSet:
    """The beats of a corpus of the settings.

    Raises:
        CorpusError: beats of such a corpus are not known, or they cannot be read.
    """
    if kind == "demo":
        return read_demo_beats(root)
    if kind == "beats":
        from ml.beats.corpus import BeatCorpus

        return BeatCorpus(root, **options).beat_set
    raise CorpusError(
        f"corpus {name} is of kind {kind}, whose beats are not known; expected a corpus of kind "
        f"{' or '.join(KINDS)}"
    )


def beats_version(found: BeatSet) -> str:
    """Fingerprint of all beats of a set, and of who is trained on what."""
    return fingerprint(
        [[track.track_id, track.fold, track.split, track.beats.tolist()] for track in found.tracks]
    )


def probe_tracks(
    corpus: str, found: BeatSet, layout: DataLayout, model_id: str
) -> list[ProbeTrack]:
    """The tracks of a corpus that have beats and features, in the order of the features.

    Raises:
        ArtifactError: the features were not made.
        ValueError: their steps are not those of the probes.
    """
    manifest = read_features_manifest(layout, model_id, corpus)
    if not math.isclose(manifest["step_s"], STEP_S):
        raise ValueError(
            f"features of {corpus} by {model_id} have steps of {manifest['step_s']} s; the probes "
            f"expect {STEP_S} s: patches of 16 frames of 10 ms"
        )
    annotated = {track.track_id: track for track in found.tracks}
    folder = layout.beat_features(model_id, corpus)
    return [
        ProbeTrack(
            corpus=corpus,
            track_id=row["track_id"],
            group=_group(annotated[row["track_id"]]),
            beats=annotated[row["track_id"]].beats,
            features=folder / features_file(place),
            steps=row["steps"],
            frames=min(row["steps"] * PROBES, math.ceil(row["duration_s"] * FPS)),
        )
        for place, row in enumerate(manifest["tracks"])
        if row["track_id"] in annotated
    ]


def _group(track: BeatTrack) -> str | int | None:
    return track.split if track.fold is None else track.fold
