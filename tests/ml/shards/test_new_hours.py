from __future__ import annotations

from pathlib import Path

import pytest

from ml.artifacts import ArtifactError, read_json
from ml.corpora.table import read_corpus_tracks
from ml.settings import load_settings
from ml.shards.index import read_shards_manifest
from ml.shards.new_hours import new_training_hours
from ml.training.models import read_models


def test_what_a_model_was_trained_on_is_not_new(shared_home: Path):
    layout = load_settings(shared_home).layout
    trained_on = read_json(read_models(layout)["film"] / "manifest.json")["training_tracks"]
    assert trained_on
    assert new_training_hours(layout, ["demo"], trained_on) == 0
    first = trained_on[0]["track_id"]
    table = read_corpus_tracks(layout, "demo")
    hours = max(table.filter(table["track_id"] == first)["duration_s"].to_list()) / 3600
    assert new_training_hours(layout, ["demo"], trained_on[1:]) == pytest.approx(hours)


def test_without_a_model_every_training_track_is_new(shared_home: Path):
    layout = load_settings(shared_home).layout
    shards = read_shards_manifest(layout.shards("demo"))["shards"]
    used = {track for shard in shards if shard["split"] == "train" for track in shard["tracks"]}
    lengths = {}
    for row in read_corpus_tracks(layout, "demo").iter_rows(named=True):
        if row["track_id"] in used:
            lengths[row["track_id"]] = max(lengths.get(row["track_id"], 0), row["duration_s"])
    assert new_training_hours(layout, ["demo"], []) == pytest.approx(sum(lengths.values()) / 3600)


def test_a_corpus_without_shards_is_an_error(shared_home: Path):
    layout = load_settings(shared_home).layout
    with pytest.raises(ArtifactError, match="stems shards build demo-plain"):
        new_training_hours(layout, ["demo-plain"], [])
