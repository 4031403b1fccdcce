from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets_def.resources import StemsHome
from ml.shards import inspect
from pipelines.build import build_definitions

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
CORPORA = {
    "demo": {"kind": "demo", "root": "corpora/demo"},
    "demo-plain": {"kind": "demo", "root": "corpora/demo-plain"},
    "gtzan": {"kind": "beats", "root": "nowhere"},
}
STEMS = {"demo", "demo-plain"}
PREPARED = ("corpus_tracks", "label_embeddings", "stem_shards")
START = datetime(2026, 11, 20, tzinfo=UTC)


class Clock:
    """Evaluates the conditions as the daemon would, and materializes what was asked for."""

    def __init__(self, resource: StemsHome, instance: dg.DagsterInstance):
        self.definitions, self.instance = build_definitions(home=resource), instance
        self.cursor: Any = None
        self.now = START

    def asks(self, after: timedelta = timedelta(minutes=1)) -> dict[str, set[str | None]]:
        """Asset → partitions."""
        self.now += after
        result = dg.evaluate_automation_conditions(
            defs=self.definitions,
            instance=self.instance,
            cursor=self.cursor,
            evaluation_time=self.now,
        )
        self.cursor = result.cursor
        keys = [x.key for x in result.results if isinstance(x.key, dg.AssetKey)]
        found = {key.to_user_string(): set(result.get_requested_partitions(key)) for key in keys}
        return {name: partitions for name, partitions in found.items() if partitions}

    def looks(self, versions: dict[str, str]) -> None:
        """Observe corpora: each has a version of its files."""
        for name, version in versions.items():
            tags = {"dagster/data_version": version}
            event = dg.AssetObservation("corpus_files", partition=name, tags=tags)
            self.instance.report_runless_asset_event(event)

    def makes(self, asked: dict[str, set[str | None]]) -> None:
        """Materialize what was asked for."""
        for asset, partitions in asked.items():
            self.made(asset, *partitions)

    def makes_all_that_follows(self, asked: dict[str, set[str | None]]) -> set[str]:
        """Materialize what was asked for and what follows; returns the assets."""
        made = set(asked)
        while asked:
            self.makes(asked)
            asked = self.asks()
            made |= set(asked)
        return made

    def made(self, asset: str, *partitions: str | None) -> None:
        for partition in partitions or (None,):
            event = dg.AssetMaterialization(asset, partition=partition)
            self.instance.report_runless_asset_event(event)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("corpus", list(CORPORA))
        yield instance


@pytest.fixture
def clock(shared_home: Path, instance: dg.DagsterInstance) -> Clock:
    automation = {"cron": "0 2 * * *"}
    overrides = {"corpora": CORPORA, "automation": automation}
    resource = StemsHome(home=str(shared_home), overrides=overrides)
    return Clock(resource, instance)


def test_nothing_is_asked_for_before_the_tick(clock: Clock):
    for asset in ("corpus_tracks", "label_embeddings", "stem_shards"):
        clock.made(asset, *CORPORA)
    assert clock.asks() == {}
    assert clock.asks(timedelta(minutes=30)) == {}


def test_a_tick_makes_everything_in_its_order(clock: Clock):
    """Shards of what is trained on only, beats of where they are tracked, the champion last."""
    clock.asks()
    first = clock.asks(timedelta(hours=3))
    assert first["corpus_tracks"] == first["label_embeddings"] == STEMS
    assert first["stem_shards"] == {"demo"}
    assert "champion" not in first
    made: dict[str, set[str | None]] = {}
    asked = first
    for _ in range(10):
        # The champion is decided on what is embedded, not on what is about to be.
        assert not ({"champion", "report"} & asked.keys()) or "stem_embeddings" not in asked
        assert "champion" not in asked or made["stem_embeddings"] == STEMS
        for asset, partitions in asked.items():
            clock.made(asset, *partitions)
            made.setdefault(asset, set()).update(partitions)
        asked = clock.asks()
    assert asked == {}
    assert made["stem_shards"] == {"demo"}
    assert made["contrastive_encoder"] == made["stem_jepa"] == made["champion"] == {None}
    for asset in ("stem_embeddings", "retrieval_scores", "instrument_scores"):
        assert made[asset] == STEMS
    assert made["beat_features"] == {"demo"}
    assert made["beat_probe"] == made["beat_scores"] == {None}


def test_beats_are_left_out_where_none_are_tracked(shared_home: Path, instance: dg.DagsterInstance):
    overrides = {"corpora": CORPORA, "beats": {"corpora": []}}
    clock = Clock(StemsHome(home=str(shared_home), overrides=overrides), instance)
    clock.asks()
    asked = clock.asks(timedelta(days=8))
    made = set(asked)
    for _ in range(10):
        for asset, partitions in asked.items():
            clock.made(asset, *partitions)
        asked = clock.asks()
        made |= set(asked)
    assert "report" in made
    assert not {name for name in made if name.startswith("beat")}


def test_the_champion_is_decided_though_a_corpus_failed(clock: Clock):
    """Of two corpora one is never embedded: the candidate is judged, and lacks one."""
    clock.asks()
    clock.asks(timedelta(hours=3))
    for asset in ("corpus_tracks", "label_embeddings", "stem_shards"):
        clock.made(asset, "demo")
    asked: dict[str, set[str | None]] = {}
    clock.made("contrastive_encoder")
    clock.made("stem_jepa")
    clock.made("stem_embeddings", "demo")
    for _ in range(3):
        asked |= clock.asks()
    assert asked["champion"] == {None}
    assert asked.get("stem_embeddings", set()) <= {"demo"}


@pytest.fixture
def new_music(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """How many hours lie in the shards that no model was trained on: ``new_music["hours"]``."""
    new = {"hours": 0.0}
    monkeypatch.setattr(inspect, "new_training_hours", lambda *_: new["hours"])
    return new


@pytest.fixture
def trained(clock: Clock) -> Clock:
    """Everything was made once; nothing follows any more."""
    for asset in (*PREPARED, "stem_embeddings", "retrieval_scores", "instrument_scores"):
        clock.made(asset, *CORPORA)
    clock.made("beat_features", "demo")
    for asset in ("contrastive_encoder", "stem_jepa", "champion", "report", "beat_probe"):
        clock.made(asset)
    clock.made("beat_scores")
    clock.looks(dict.fromkeys(STEMS, "first"))
    assert clock.asks() == {}
    return clock


def test_little_that_is_new_is_embedded_but_not_trained_on(
    trained: Clock, new_music: dict[str, float]
):
    new_music["hours"] = 0.5
    trained.looks({"demo": "second"})
    asked = trained.asks()
    assert asked == {asset: {"demo"} for asset in PREPARED}
    trained.makes(asked)
    asked = trained.asks()
    assert asked["stem_embeddings"] == {"demo"}
    made = trained.makes_all_that_follows(asked)
    assert {"champion", "report"} <= made
    assert not {"contrastive_encoder", "stem_jepa"} & made


def test_enough_that_is_new_is_trained_on_before_anything_is_embedded(
    trained: Clock, new_music: dict[str, float]
):
    """Small additions add up; then every corpus is embedded with the new models."""
    new_music["hours"] = 1.5
    trained.looks({"demo": "second"})
    trained.makes(trained.asks())
    asked = trained.asks()
    assert asked == {"contrastive_encoder": {None}, "stem_jepa": {None}}
    new_music["hours"] = 0.0
    trained.makes(asked)
    assert trained.asks()["stem_embeddings"] == STEMS


def test_after_a_training_that_failed_nothing_follows(trained: Clock, new_music: dict[str, float]):
    """Nor is it begun again and again; the next change does."""
    new_music["hours"] = 1.5
    trained.looks({"demo": "second"})
    trained.makes(trained.asks())
    assert set(trained.asks()) == {"contrastive_encoder", "stem_jepa"}
    assert not {"contrastive_encoder", "stem_jepa"} & set(trained.asks())
    trained.looks({"demo": "third"})
    trained.makes(trained.asks())
    assert "contrastive_encoder" in trained.asks()


def test_a_corpus_that_is_not_trained_on_begins_no_training(
    trained: Clock, new_music: dict[str, float]
):
    trained.looks({"demo-plain": "second"})
    asked = trained.asks()
    assert asked == {asset: {"demo-plain"} for asset in PREPARED if asset != "stem_shards"}
    new_music["hours"] = 1.5
    made = trained.makes_all_that_follows(asked)
    assert "stem_embeddings" in made
    assert "contrastive_encoder" not in made
