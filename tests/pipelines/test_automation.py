from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets_def.resources import StemsHome
from pipelines.build import build_definitions

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
CORPORA = {
    "demo": {"kind": "demo", "root": "corpora/demo"},
    "demo-plain": {"kind": "demo", "root": "corpora/demo-plain"},
    "gtzan": {"kind": "beats", "root": "nowhere"},
}
STEMS = {"demo", "demo-plain"}
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
