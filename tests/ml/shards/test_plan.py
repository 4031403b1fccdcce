from dataclasses import replace
from pathlib import Path

import pytest

from ml.audio.activity import ActivityConfig
from ml.settings import load_settings
from ml.shards.plan import (
    Assignment,
    PlannedTrack,
    ShardConfig,
    ShardTask,
    choose_split,
    plan_shards,
    shard_config,
)
from ml.tracks import Split, Stem, Track


def planned(track_id, *, split: Split = "train", duration_s=30.0, content="a"):
    stems = tuple(Stem(stem_id=f"{track_id}/{i}", files=(Path("x"),)) for i in range(2))
    track = Track(track_id=track_id, stems=stems)
    return PlannedTrack(
        corpus="c", track=track, split=split, duration_s=duration_s, content_hashes=(content, "b")
    )


def groups(tasks):
    return [(task.split, task.number, [x.track.track_id for x in task.tracks]) for task in tasks]


CONFIG = ShardConfig(segment_s=10.0, shard_segments=6)


def test_whole_tracks_in_order_and_splits_apart():
    tracks = [planned(f"t{i}", split="valid" if i == 2 else "train") for i in range(6)]
    assert groups(plan_shards(tracks, CONFIG)) == [
        ("train", 0, ["t0", "t1"]),
        ("train", 1, ["t3", "t4"]),
        ("train", 2, ["t5"]),
        ("valid", 0, ["t2"]),
    ]


def test_a_track_longer_than_a_shard_gets_its_own():
    tracks = [planned("a"), planned("long", duration_s=500.0), planned("b")]
    assert [ids for _, _, ids in groups(plan_shards(tracks, CONFIG))] == [["a"], ["long"], ["b"]]


def test_earlier_assignments_stay_and_new_tracks_get_new_numbers():
    previous = [
        Assignment(split="train", number=0, track_ids=("a", "gone")),
        Assignment(split="train", number=1, track_ids=("all", "left")),
        Assignment(split="train", number=2, track_ids=("b",)),
    ]
    tracks = [planned("new"), planned("b"), planned("a")]
    assert groups(plan_shards(tracks, CONFIG, previous)) == [
        ("train", 0, ["a"]),
        ("train", 2, ["b"]),
        ("train", 3, ["new"]),
    ]


def test_a_task_changes_with_content_config_and_label_encoder():
    def key(track=None, config=CONFIG, encoder="e"):
        (task,) = plan_shards([track or planned("a")], config)
        return task.fingerprint(config, encoder)

    assert key() == key()
    others = {
        key(planned("a", content="changed")),
        key(planned("a2")),
        key(config=ShardConfig(segment_s=10.0, shard_segments=6, payload="pcm16")),
        key(encoder="f"),
    }
    assert len(others | {key()}) == 5


def test_the_audio_of_a_task_does_not_depend_on_labels_encoder_or_place():
    def keys(track, number=0):
        task = ShardTask(split="train", number=number, tracks=(track,))
        return task.fingerprint(CONFIG, "e"), task.audio_fingerprint(CONFIG)

    plain = planned("a")
    stems = tuple(replace(stem, labels=("bass",)) for stem in plain.track.stems)
    labelled = replace(plain, track=replace(plain.track, stems=stems))
    assert keys(plain)[0] != keys(labelled)[0]
    assert keys(plain)[0] != keys(plain, number=1)[0]
    assert keys(plain)[1] == keys(labelled)[1] == keys(plain, number=1)[1]
    late = replace(plain, track=replace(plain.track, stems=(replace(stems[0], start_s=1.0),) * 2))
    others = [keys(x)[1] for x in (planned("a", content="changed"), planned("b"), late)]
    assert len({*others, keys(plain)[1]}) == 4


def test_split_shares_hold_and_depend_on_the_name_alone():
    config = ShardConfig(valid_share=0.2, test_share=0.1)
    found = [choose_split("c", f"track {i}", config) for i in range(4000)]
    assert found.count("test") / 4000 == pytest.approx(0.1, abs=0.02)
    assert found.count("valid") / 4000 == pytest.approx(0.2, abs=0.02)
    assert choose_split("c", "track 7", config) == found[7]


def test_wrong_config_is_named():
    with pytest.raises(ValueError, match="payload is 'mp3'"):
        ShardConfig(payload="mp3")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at most 1 together"):
        ShardConfig(valid_share=0.7, test_share=0.7)


def test_the_silence_rule_of_the_settings_is_the_one_of_the_shards(tmp_path):
    settings = load_settings(tmp_path)
    assert shard_config(settings.shards) == ShardConfig()
    (tmp_path / "config.yaml").write_text(
        "shards: {payload: pcm16, activity: {on_db: -40, off_db: -45, min_active_s: 0.5}}\n"
    )
    activity = ActivityConfig(on_db=-40.0, off_db=-45.0, min_active_s=0.5)
    found = shard_config(load_settings(tmp_path).shards)
    assert found == ShardConfig(payload="pcm16", activity=activity)
    (tmp_path / "config.yaml").write_text("shards: {activity: {on_db: -70}}\n")
    with pytest.raises(ValueError, match="is above on_db"):
        shard_config(load_settings(tmp_path).shards)
