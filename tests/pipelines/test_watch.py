import os
from pathlib import Path

import dagster as dg
import pytest

from assets_def.resources import StemsHome
from ml.corpora import file_state
from pipelines.build import build_definitions
from pipelines.watch import CorpusWatch

CONFIG = """
corpora:
  songs: {kind: folder, root: songs}
  others: {kind: folder, root: others}
  gtzan: {kind: beats, root: nowhere}
training: {corpora: [songs]}
beats: {corpora: [songs]}
"""


@pytest.fixture
def resource(tmp_path: Path) -> StemsHome:
    for name in ("songs", "others"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").touch()
    (tmp_path / "config.yaml").write_text(CONFIG)
    return StemsHome(home=str(tmp_path))


def asked(watch: CorpusWatch, resource: StemsHome, budget_s: float = 60.0) -> list[str]:
    return list(watch.look(resource.settings(), budget_s))


def test_a_corpus_is_asked_for_once_it_stays_as_it_is(resource: StemsHome, tmp_path: Path):
    watch = CorpusWatch()
    assert asked(watch, resource) == []  # it may still be being copied
    assert asked(watch, resource) == ["songs", "others"]
    assert asked(watch, resource) == []
    for number in range(3):
        (tmp_path / "songs" / f"{number}.wav").touch()
        assert asked(watch, resource) == []
    assert asked(watch, resource) == ["songs"]
    assert asked(watch, resource) == []


def test_a_change_that_is_taken_back_is_not_asked_for(resource: StemsHome, tmp_path: Path):
    watch = CorpusWatch()
    for _ in range(2):
        asked(watch, resource)
    (tmp_path / "songs" / "b.wav").touch()
    assert asked(watch, resource) == []
    (tmp_path / "songs" / "b.wav").unlink()
    assert asked(watch, resource) == []
    assert asked(watch, resource) == []


def test_what_is_remembered_is_small_and_survives(resource: StemsHome, tmp_path: Path):
    watch = CorpusWatch()
    asked(watch, resource)
    watch = CorpusWatch.from_cursor(watch.to_cursor())
    assert asked(watch, resource) == ["songs", "others"]
    assert len(watch.to_cursor()) < 500
    (tmp_path / "config.yaml").write_text(CONFIG.replace("others:", "renamed:"))
    asked(watch, resource)
    assert set(watch.seen) | set(watch.asked) == {"songs", "renamed"}
    for cursor in (None, "", "{}", "not JSON", '{"of": "another version"}', "[1]"):
        assert CorpusWatch.from_cursor(cursor) == CorpusWatch()


def test_out_of_time_it_goes_on_at_the_next_look(
    resource: StemsHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(file_state, "_LOOK_EVERY", 1)
    for number in range(3):
        (tmp_path / "songs" / f"{number}.wav").touch()
    whole = CorpusWatch()
    asked(whole, resource)
    watch, looks = CorpusWatch(), 0
    while not looks or watch.left:
        asked(watch, resource, budget_s=0.0)
        watch = CorpusWatch.from_cursor(watch.to_cursor())
        looks += 1
    assert looks > 4
    assert watch.seen == whole.seen


def test_a_corpus_that_is_gone_keeps_no_other_from_being_looked_at(
    resource: StemsHome, tmp_path: Path
):
    watch = CorpusWatch()
    (tmp_path / "songs" / "a.wav").unlink()
    (tmp_path / "songs").rmdir()
    asked(watch, resource)
    assert asked(watch, resource) == ["others"]


def test_sensor_asks_once_for_each_state(resource: StemsHome, tmp_path: Path):
    repository = build_definitions(home=resource).get_repository_def()
    sensor = repository.get_sensor_def("changed_corpora")
    cursor, requests = None, []
    with dg.instance_for_test() as instance:  # partitions are asked of one with a folder
        instance.add_dynamic_partitions("corpus", ["songs", "gtzan"])
        for look in range(6):
            if look == 3:
                os.utime(tmp_path / "songs" / "a.wav", ns=(1, 1))
            context = dg.build_sensor_context(
                instance=instance,
                instance_ref=instance.get_ref(),
                cursor=cursor,
                repository_def=repository,
                resources={"home": resource},
            )
            with context:
                data = sensor.evaluate_tick(context)
            cursor = data.cursor
            requests.append([(r.partition_key, r.run_key) for r in data.run_requests or []])
            if look == 1:
                added = data.dynamic_partitions_requests or []
                assert [request.partition_keys for request in added] == [["others"]]
                assets = {r.partition_key: r.asset_selection for r in data.run_requests or []}
                keys = {k: {a.to_user_string() for a in v or ()} for k, v in assets.items()}
                assert keys["songs"] == {"corpus_tracks", "label_embeddings", "stem_shards"}
                assert keys["others"] == {"corpus_tracks", "label_embeddings"}
    assert [len(found) for found in requests] == [0, 2, 0, 0, 1, 0]
    assert requests[4][0][0] == "songs"
    keys = [key for found in requests for _, key in found]
    assert len(set(keys)) == len(keys) == 3
