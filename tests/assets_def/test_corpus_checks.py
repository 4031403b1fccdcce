import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import soundfile

from assets_def.checks import corpus_changes
from assets_def.resources import StemsHome
from ml.artifacts import read_json
from ml.shards.index import index_path, read_shards_manifest
from pipelines.execute import execute_in_home
from pipelines.home import install_home, open_instance
from pipelines.jobs import prepare_steps

RATE_HZ = 16000
AS_BUILT = {"shards": {"payload": "pcm16"}}
"""How the shards of ``home`` were built."""


def test_a_damaged_shard_stops_the_run(home: Path, run_checks: Any):
    resource = StemsHome(home=str(home), overrides=AS_BUILT, workers=1)
    found = run_checks(resource, "prepare_corpus", "stem_shards")
    assert {name: passed for name, (passed, _) in found.items()} == {
        "shards_have_their_checksums": True,
        "no_silent_targets": True,
        "no_track_in_two_splits": True,
    }
    folder = resource.layout.shards("demo")
    shard = folder / read_shards_manifest(folder)["shards"][0]["name"]
    with shard.open("r+b") as file:
        file.seek(5000)
        file.write(b"x")
    found = run_checks(resource, "prepare_corpus", "stem_shards")
    passed, numbers = found["shards_have_their_checksums"]
    assert (passed, numbers["problems"]) == (False, 1)
    assert "SHA-256" in numbers["first_problem"]


def test_a_stem_that_never_sounds_where_its_index_says_so_stops_the_run(
    home: Path, run_checks: Any
):
    resource = StemsHome(home=str(home), overrides=AS_BUILT, workers=1)
    folder = resource.layout.shards("demo")
    path = index_path(folder, read_shards_manifest(folder)["shards"][0]["name"])
    index = read_json(path)
    del index["checksum"]  # an index without one is believed
    index["segments"][0]["stems"][0]["intervals"] = []
    path.write_text(json.dumps(index))
    found = run_checks(resource, "prepare_corpus", "stem_shards")
    passed, numbers = found["no_silent_targets"]
    assert (passed, numbers["silent_stems"]) == (False, 1)


def test_a_label_without_a_vector_stops_the_run(home: Path, run_checks: Any):
    import polars as pl

    from ml.corpora.label_embeddings import TABLE_NAME

    resource = StemsHome(home=str(home), overrides=AS_BUILT, workers=1)
    passed, numbers = run_checks(resource, "prepare_corpus", "label_embeddings")[
        "labels_have_vectors"
    ]
    assert passed
    assert numbers["texts"] > 3
    assert 90 < numbers["labelled_stems_percent"] <= 100
    path = resource.layout.labels("demo") / TABLE_NAME
    vectors = pl.read_parquet(path)
    lost = vectors["text"][1]
    vectors.with_columns(pl.col("text").replace({lost: "something else"})).write_parquet(path)
    passed, numbers = run_checks(resource, "prepare_corpus", "label_embeddings")[
        "labels_have_vectors"
    ]
    assert (passed, numbers["without_vector"]) == (False, 1)
    assert numbers["first_without_vector"] == lost


def test_changes_of_a_corpus_by_hand():
    before = {"hours": 10.0, "median_level_db": -20.0, "labels": {"piano": 3, "drums": 1}}
    now = {"hours": 15.0, "median_level_db": -26.0, "labels": {"piano": 2, "voice": 2}}
    assert corpus_changes(before, now) == {
        "hours_change": 0.5,
        "level_change_db": -6.0,
        "label_change": 0.5,  # a quarter from piano, a quarter from drums, to voice
    }
    assert set(corpus_changes(before, before).values()) == {0.0}


def test_a_recording_in_two_splits_stops_the_run(tmp_path: Path):
    """The same audio under another name in another split: leakage that ids do not show."""
    rng = np.random.default_rng(0)
    rows = ["track_id,audio,labels,split"]
    for track, split in (("one", "train"), ("two", "train"), ("one-again", "test")):
        for label in ("piano", "drums"):
            source = track.removesuffix("-again")
            path = tmp_path / f"{source}-{label}.wav"
            if not path.exists():
                soundfile.write(path, rng.uniform(-0.3, 0.3, 9 * RATE_HZ), RATE_HZ)
            rows.append(f"{track},{path.name},{label},{split}")
    (tmp_path / "corpus.csv").write_text("\n".join(rows) + "\n")
    mine = {"mine": {"kind": "manifest", "root": str(tmp_path / "corpus.csv")}}
    home = StemsHome(home=str(tmp_path / "home"), overrides={"corpora": mine}, workers=1)
    install_home(home.settings())
    (outcome,) = execute_in_home(home, prepare_steps(["mine"], trained_on=["mine"]))
    assert outcome.status == "failed"
    assert "no_track_in_two_splits" in outcome.problem


def write_songs(folder: Path, *, songs: int, level: float) -> None:
    rng = np.random.default_rng(0)
    for song in range(songs):
        (folder / f"song{song}").mkdir(parents=True, exist_ok=True)
        for label in ("piano", "drums"):
            path = folder / f"song{song}" / f"{label}.wav"
            soundfile.write(path, rng.uniform(-level, level, 2 * RATE_HZ), RATE_HZ)


def test_drift_is_told_against_the_last_other_build(tmp_path: Path):
    """It warns and stops nothing, and goes on warning until the corpus is another one again."""
    mine = {"mine": {"kind": "folder", "root": str(tmp_path / "songs")}}
    home = StemsHome(home=str(tmp_path / "home"), overrides={"corpora": mine}, workers=1)
    install_home(home.settings())
    found = []
    for songs, level in ((3, 0.3), (3, 0.3), (3, 0.01), (3, 0.01), (4, 0.01)):
        write_songs(tmp_path / "songs", songs=songs, level=level)
        (outcome,) = execute_in_home(home, prepare_steps(["mine"], trained_on=[]))
        assert outcome.status == "done"
        found.append(_last_drift(home))
    assert [passed for passed, _ in found] == [True, True, False, False, False]
    assert found[2][1]["level_change_db"] == pytest.approx(20 * np.log10(0.01 / 0.3), abs=0.1)
    assert found[3][1]["level_change_db"] == found[2][1]["level_change_db"]
    assert found[4][1]["hours_change"] == pytest.approx(1 / 3, abs=0.01)
    assert found[4][1]["label_change"] == 0


def _last_drift(home: StemsHome) -> tuple[bool, Mapping[str, Any]]:
    key = dg.AssetCheckKey(dg.AssetKey("corpus_tracks"), "corpus_has_not_drifted")
    with open_instance(home.settings()) as instance:
        (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert record.event is not None
    assert record.event.dagster_event is not None
    found = record.event.dagster_event.asset_check_evaluation_data
    return found.passed, {name: value.value for name, value in found.metadata.items()}
