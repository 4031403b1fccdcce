"""Models that come and go, at tiny size: who becomes champion, who does not, and why.

Everything runs as in a home, only that this process plays the daemon: it evaluates the sensors and
executes what they ask for.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets_def.resources import StemsHome
from ml.artifacts import read_json
from ml.corpora.demo.build import build_demo_corpora
from ml.corpora.demo.songs import DemoConfig
from ml.retrieval.champion.promotion import roll_back
from ml.training.models import current_champion, point_models, read_champion, read_models
from pipelines.build import build_definitions
from pipelines.execute import Outcome, execute_in_home
from pipelines.home import install_home, open_instance
from pipelines.jobs import Step, evaluate_step

CORPORA = ("demo", "demo-plain")
DECIDE = Step(job="write_report", assets=("champion",))
CONFIG = """
corpora:
  demo: {kind: demo, root: corpora/demo}
  demo-plain: {kind: demo, root: corpora/demo-plain}
shards: {payload: pcm16}
evaluation: {bootstrap_resamples: 200}
promotion:
  corpora: [demo]
  metric: normalized_rank_mean
  tolerance: 2.0
  requires_mix: false  # 150 steps do not teach a model to listen
automation: {min_new_hours: 0.0001, settled_after_s: 0}
"""
SONGS = DemoConfig(train_songs=8, heldout_songs=30, train_s=8.0, heldout_s=8.0, valid_share=0.25)
"""With few held-out songs intervals of a difference are too wide for any refusal."""
LEARNING = {"steps": 150}
NOT_LEARNING = {"steps": 1}
SMALL = {
    "batch_size": 6,
    "model.encoder.layers": 1,
    "model.chunk_s": 2.0,
    "pairs.chunk_s": 2.0,
    "optimizer.learning_rate": 1e-3,
}
"""With these, mean normalised ranks are about 31 % after 150 steps, 50 % (chance) after one."""


def resource_of(home: Path, overrides: dict[str, int], seed: int = 0) -> StemsHome:
    training = {
        "presets": ["film-nce"],
        "overrides": {**SMALL, **overrides},
        "seed": seed,
        "phase_1": "contrastive",  # the first one: seeds and steps are those of phase 2 alone
    }
    return StemsHome(home=str(home), overrides={"training": training}, workers=1)


def current_id(resource: StemsHome) -> str:
    return read_json(read_models(resource.layout)["film-nce"] / "manifest.json")["model_id"]


def retrain(resource: StemsHome) -> tuple[list[Outcome], dict[str, Any]]:
    """Phase 2, embed and score every corpus, decide; what the champion's run says."""
    train = Step(job="train_model", assets=("stem_jepa",))
    steps = [train, *(evaluate_step(name) for name in CORPORA), DECIDE]
    return execute_in_home(resource, steps), said_of_champion(resource)


def said_of_champion(resource: StemsHome) -> dict[str, Any]:
    with open_instance(resource.settings()) as instance:
        (record,) = instance.fetch_materializations(dg.AssetKey("champion"), limit=1).records
    assert record.asset_materialization is not None
    return {key: value.value for key, value in record.asset_materialization.metadata.items()}


class Daemon:
    """Does in this process what ``dagster dev`` does, on a repository and an instance."""

    def __init__(self, resource: StemsHome, instance: dg.DagsterInstance):
        self.repository = build_definitions(home=resource).get_repository_def()
        self.instance, self.resource = instance, resource
        self.cursor: str | None = None
        self.runs_of("retraining")  # the first evaluation sees no change

    def runs_of(self, sensor: str) -> Sequence[dg.RunRequest]:
        """Evaluate a sensor; returns what it asks for."""
        context = dg.build_sensor_context(
            instance=self.instance,
            instance_ref=self.instance.get_ref(),
            cursor=self.cursor if sensor == "retraining" else None,
            repository_def=self.repository,
            resources={"home": self.resource},
        )
        with context:
            data = self.repository.get_sensor_def(sensor).evaluate_tick(context)
        if sensor == "retraining":
            self.cursor = data.cursor
        return data.run_requests or []

    def look(self) -> None:
        """Observe the files of all corpora."""
        (request,) = self.runs_of("changed_corpora")
        job = self.repository.get_job(request.job_name or "observe_corpora")
        assert job.execute_in_process(instance=self.instance).success

    def follow(self) -> Iterator[tuple[str | None, set[str]]]:
        """Execute what follows, until nothing does; yields corpus and assets of each run."""
        while requests := self.runs_of("retraining"):
            for request in requests:
                assets = list(request.asset_selection or ())
                self.repository.get_job("__ASSET_JOB").execute_in_process(
                    instance=self.instance,
                    partition_key=request.partition_key,
                    asset_selection=assets,
                    raise_on_error=False,
                )
                yield request.partition_key, {asset.to_user_string() for asset in assets}


@pytest.mark.slow
def test_new_songs_make_the_first_champion(home: Path):
    (home / "runs").rename(home / "others")
    (home / "config.yaml").write_text(CONFIG)
    resource = resource_of(home, NOT_LEARNING)
    install_home(resource.settings())
    champion = first_champion_by_the_sensor(resource)
    (other,) = (home / "others").glob("film-nce-*")
    a_model_without_a_gallery_is_not_promoted(resource, other, champion)


@pytest.mark.soak
def test_models_come_and_go(home: Path):
    """Decisions of ``tests/ml/retrieval/champion/test_promotion.py``, as runs in a home."""
    shutil.rmtree(home / "runs")
    shutil.rmtree(home / "corpora" / "demo")
    build_demo_corpora(home / "more", SONGS, workers=1)
    (home / "more" / "demo").rename(home / "corpora" / "demo")  # the other corpus stays small
    (home / "config.yaml").write_text(CONFIG)
    resource = resource_of(home, LEARNING)
    install_home(resource.settings())
    first = first_champion_by_the_sensor(resource)
    worse_is_not_promoted(resource_of(home, NOT_LEARNING), first)
    second = no_worse_is_promoted(resource_of(home, LEARNING, seed=1), first)
    rolled_back_is_not_promoted_again(resource_of(home, LEARNING, seed=1), first, second)
    a_corpus_that_fails_leaves_the_champion(resource_of(home, NOT_LEARNING, seed=2), first)


def first_champion_by_the_sensor(resource: StemsHome) -> str:
    """New songs are scanned, trained on, evaluated, heard; without a champion A is promoted."""
    with open_instance(resource.settings()) as instance:
        daemon = Daemon(resource, instance)
        daemon.look()
        made = list(daemon.follow())
        assert list(daemon.follow()) == []
    scanned = {"corpus_tracks", "label_embeddings"}
    scored = {"stem_embeddings", "retrieval_scores", "instrument_scores"}
    assert made[:3] == [
        ("demo", {*scanned, "stem_shards"}),
        ("demo-plain", scanned),
        (None, {"contrastive_encoder", "stem_jepa"}),
    ]
    assert [(name, assets - {"beat_features"}) for name, assets in made[3:5]] == [
        ("demo", scored),
        ("demo-plain", scored),
    ]
    assert ["beat_features" in assets for _, assets in made].count(True) == 1
    after = [assets for name, assets in made[5:]]
    assert {asset for assets in after for asset in assets} == {
        *("beat_probe", "beat_scores"),
        *("champion", "report"),
    }
    assert "report" in after[-1]
    said = said_of_champion(resource)
    assert said["promoted"] is True
    assert "no champion before" in said["reason"]
    champion = read_champion(resource.layout)
    assert champion.model_id == current_id(resource)
    assert champion.mlflow_version == "1"
    return champion.model_id


def a_model_without_a_gallery_is_not_promoted(
    resource: StemsHome, other: Path, champion: str
) -> None:
    run = other.rename(resource.layout.runs / other.name)
    point_models(resource.layout, "film-nce", run)
    (outcome,) = execute_in_home(resource, [DECIDE])
    assert outcome.status == "done"  # a refusal is no failure
    said = said_of_champion(resource)
    assert said["promoted"] is False, said["reason"]
    assert "gallery incomplete" in said["reason"]
    assert said["model_id"] == read_champion(resource.layout).model_id == champion


def worse_is_not_promoted(resource: StemsHome, champion: str) -> None:
    outcomes, said = retrain(resource)
    assert {outcome.status for outcome in outcomes} == {"done"}  # a refusal is no failure
    assert current_id(resource) != champion
    assert said["promoted"] is False, said["reason"]
    assert "worse: normalized_rank_mean on demo" in said["reason"]
    assert said["model_id"] == read_champion(resource.layout).model_id == champion
    assert "| demo | normalized_rank_mean |" in said["comparison"]


def no_worse_is_promoted(resource: StemsHome, before: str) -> str:
    _, said = retrain(resource)
    assert said["promoted"] is True, said["reason"]
    champion = read_champion(resource.layout)
    assert (champion.model_id, champion.previous) == (current_id(resource), before)
    return champion.model_id


def rolled_back_is_not_promoted_again(resource: StemsHome, first: str, second: str) -> None:
    done = roll_back(resource.settings())
    assert (done.withdrawn.model_id, done.champion.model_id) == (second, first)
    assert done.gaps == []  # the champion before was embedded with the new models
    (outcome,) = execute_in_home(resource, [DECIDE])
    assert outcome.status == "done"
    said = said_of_champion(resource)
    assert said["promoted"] is False, said["reason"]
    assert "rolled back" in said["reason"]
    assert read_champion(resource.layout).mlflow_version == "1"


def a_corpus_that_fails_leaves_the_champion(resource: StemsHome, champion: str) -> None:
    """Its partition fails, the other goes on, and the candidate lacks a part of the gallery."""
    songs = Path(resource.home) / "corpora" / "demo-plain" / "songs"
    songs.rename(songs.with_name("elsewhere"))
    outcomes, said = retrain(resource)
    assert [outcome.status for outcome in outcomes] == ["done", "done", "failed", "done"]
    assert said["promoted"] is False, said["reason"]
    assert "gallery incomplete: demo-plain is not embedded with it" in said["reason"]
    now = current_champion(resource.layout)
    assert now is not None
    assert now.model_id == champion
