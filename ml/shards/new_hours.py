"""How much music lies in the shards that a model was not trained on: is a training worth it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml.artifacts import DataLayout
from ml.shards.index import read_shards_manifest


def new_training_hours(
    layout: DataLayout, corpora: Sequence[str], training_tracks: Sequence[Mapping[str, Any]]
) -> float:
    """Hours of tracks that training would use now and that a model has not seen.

    Args:
        layout: where shards and ``corpus_tracks`` lie.
        corpora: what is trained on.
        training_tracks: of the model, from its manifest; empty: no model, everything is new.

    Returns:
        Hours, each track counted once, at its longest stem.

    Raises:
        ArtifactError: a corpus has no shards or no ``corpus_tracks``.
    """
    from ml.corpora.table import read_corpus_tracks

    known = {(track["corpus"], track["track_id"]) for track in training_tracks}
    seconds = 0.0
    for corpus in corpora:
        shards = read_shards_manifest(layout.shards(corpus))["shards"]
        used = {t for shard in shards if shard["split"] == "train" for t in shard["tracks"]}
        new = {track for track in used if (corpus, track) not in known}
        lengths: dict[str, float] = {}
        table = read_corpus_tracks(layout, corpus)
        for track, duration_s in table.select("track_id", "duration_s").iter_rows():
            if track in new:
                lengths[track] = max(lengths.get(track, 0.0), duration_s or 0.0)
        seconds += sum(lengths.values())
    return seconds / 3600
