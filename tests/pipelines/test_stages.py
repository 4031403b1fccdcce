import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import dagster as dg
import pytest

from assets_def.resources import StemsHome
from pipelines.build import build_definitions
from pipelines.stages import (
    CHAIN_TAG,
    CONCLUDE,
    EVALUATE,
    HEAR,
    PREPARE,
    STAGE_TAG,
    TRACK,
    TRAIN,
    begun_chains,
    next_requests,
)

DONE, FAILED, RUNNING = (
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.STARTED,
)
JOBS = {
    PREPARE: "prepare_corpus",
    TRAIN: "train_model",
    EVALUATE: "evaluate_retrieval",
    HEAR: "prepare_beats",
    TRACK: "evaluate_beats",
    CONCLUDE: "write_report",
}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def resource(shared_home: Path) -> StemsHome:
    return StemsHome(home=str(shared_home))


class Chain:
    """Runs of one chain as they would be after what was asked for was run."""

    def __init__(self, instance: dg.DagsterInstance, resource: StemsHome, name: str = "c"):
        self.instance, self.resource, self.name = instance, resource, name
        self.definitions = build_definitions(home=resource)

    def ran(self, stage: str, status: dg.DagsterRunStatus, corpus: str = "") -> None:
        partition = {"dagster/partition": corpus} if corpus else {}
        self.instance.create_run_for_job(
            self.definitions.resolve_job_def(JOBS[stage]),
            status=status,
            tags={CHAIN_TAG: self.name, STAGE_TAG: stage, **partition},
        )

    def asks(self, resource: StemsHome | None = None) -> list[dg.RunRequest]:
        stages = begun_chains(self.instance)[self.name]
        return next_requests(resource or self.resource, self.name, stages)


def stages_of(requests: Sequence[dg.RunRequest]) -> list[tuple[str, str | None]]:
    return [(request.tags[STAGE_TAG], request.partition_key) for request in requests]


def selected(request: dg.RunRequest) -> set[str]:
    return {key.to_user_string() for key in request.asset_selection or ()}


def test_nothing_follows_while_a_run_has_not_finished(
    instance: dg.DagsterInstance, resource: StemsHome
):
    chain = Chain(instance, resource)
    chain.ran(PREPARE, DONE, "demo")
    chain.ran(PREPARE, RUNNING, "demo-plain")
    assert chain.asks() == []


def test_little_that_is_new_is_embedded_but_not_trained_on(
    instance: dg.DagsterInstance, resource: StemsHome
):
    """The models know all songs of the home; a corpus that failed is left out."""
    chain = Chain(instance, resource)
    chain.ran(PREPARE, DONE, "demo")
    chain.ran(PREPARE, FAILED, "demo-plain")
    assert stages_of(chain.asks()) == [(EVALUATE, "demo")]


def test_enough_that_is_new_is_trained_on(
    instance: dg.DagsterInstance, home: Path, resource: StemsHome
):
    """New are songs that no model was trained on, however many were added at a time."""
    (home / "runs" / "models.json").unlink()
    for hours, asked in ((0.0, [(TRAIN, None)]), (1000.0, [])):
        chosen = StemsHome(home=str(home), overrides={"automation": {"min_new_hours": hours}})
        chain = Chain(instance, chosen, name=f"hours-{hours}")
        chain.ran(PREPARE, DONE, "demo")
        assert stages_of(chain.asks()) == asked  # without a model there is nothing to embed with
    elsewhere = Chain(instance, resource, name="elsewhere")
    elsewhere.ran(PREPARE, DONE, "demo-plain")  # a corpus that is not trained on
    assert TRAIN not in dict(stages_of(elsewhere.asks()))


def test_after_training_every_corpus_is_evaluated(
    instance: dg.DagsterInstance, resource: StemsHome
):
    chain = Chain(instance, resource)
    chain.ran(PREPARE, DONE, "demo")
    chain.ran(TRAIN, DONE)
    requests = chain.asks()
    assert stages_of(requests) == [
        (EVALUATE, name) for name in ("demo", "demo-plain", "demo-swapped")
    ]
    wanted = {"stem_embeddings", "retrieval_scores", "instrument_scores"}
    for request in requests:
        assert selected(request) == wanted


def test_beats_are_tracked_where_all_their_corpora_are_heard(
    instance: dg.DagsterInstance, home: Path
):
    """Probes are trained on all corpora of ``beats`` at once; without one the rest goes on."""
    layout = StemsHome(home=str(home)).layout
    corpora = {
        "demo": {"kind": "demo", "root": "corpora/demo"},
        "more": {"kind": "demo", "root": "corpora/demo-plain"},
    }
    overrides = {"corpora": corpora, "beats": {"corpora": ["demo"], "heldout": ["more"]}}
    chosen = StemsHome(home=str(home), overrides=overrides)
    chain = Chain(instance, chosen)
    chain.ran(EVALUATE, FAILED, "demo")
    assert stages_of(chain.asks()) == [(CONCLUDE, None)]  # "more" was never scanned
    shutil.copytree(layout.tracks("demo-plain"), layout.tracks("more"))
    assert stages_of(requests := chain.asks()) == [(HEAR, "demo"), (HEAR, "more")]
    assert selected(requests[0]) == {"beat_features"}
    chain.ran(HEAR, DONE, "demo")
    chain.ran(HEAR, FAILED, "more")
    assert stages_of(chain.asks()) == [(CONCLUDE, None)]
    chain.ran(HEAR, DONE, "more")
    (request,) = chain.asks()
    assert (request.tags[STAGE_TAG], selected(request)) == (TRACK, {"beat_probe", "beat_scores"})
    chain.ran(TRACK, RUNNING)
    assert chain.asks() == []
    chain.ran(TRACK, FAILED)
    assert stages_of(chain.asks()) == [(CONCLUDE, None)]


def test_without_corpora_of_beats_none_are_tracked(instance: dg.DagsterInstance, shared_home: Path):
    chosen = StemsHome(home=str(shared_home), overrides={"beats": {"corpora": []}})
    chain = Chain(instance, chosen)
    chain.ran(EVALUATE, DONE, "demo")
    assert stages_of(chain.asks()) == [(CONCLUDE, None)]


def test_after_a_training_that_failed_nothing_follows(
    instance: dg.DagsterInstance, resource: StemsHome
):
    chain = Chain(instance, resource)
    chain.ran(TRAIN, FAILED)
    assert chain.asks() == []
    chain.ran(TRAIN, RUNNING)  # somebody re-executes it
    assert chain.asks() == []
    chain.ran(TRAIN, DONE)
    assert stages_of(chain.asks())[0] == (EVALUATE, "demo")


def test_the_champion_is_decided_though_a_corpus_failed(
    instance: dg.DagsterInstance, resource: StemsHome
):
    chain = Chain(instance, resource)
    chain.ran(EVALUATE, DONE, "demo")
    chain.ran(EVALUATE, FAILED, "demo-plain")
    assert stages_of(chain.asks()) == [(HEAR, "demo")]
    chain.ran(HEAR, FAILED, "demo")
    (request,) = chain.asks()
    assert (request.tags[STAGE_TAG], selected(request)) == (CONCLUDE, {"champion", "report"})
    chain.ran(CONCLUDE, RUNNING)
    assert chain.asks() == []
    chain.ran(CONCLUDE, FAILED)
    assert chain.asks() == []


def test_chains_do_not_mix_and_keys_do_not_repeat(resource: StemsHome):
    repository = build_definitions(home=resource).get_repository_def()
    sensor = repository.get_sensor_def("next_stages")
    with dg.instance_for_test() as instance:  # partitions are asked of one with a folder
        instance.add_dynamic_partitions("corpus", ["demo", "demo-plain", "demo-swapped"])
        for name in ("one", "two"):
            Chain(instance, resource, name).ran(TRAIN, DONE)
        context = dg.build_sensor_context(
            instance=instance,
            instance_ref=instance.get_ref(),
            repository_def=repository,
            resources={"home": resource},
        )
        with context:
            first, second = (sensor.evaluate_tick(context).run_requests or [] for _ in range(2))
    keys = [request.run_key for request in first]
    assert len(keys) == len(set(keys)) == 6
    assert [request.run_key for request in second] == keys  # Dagster begins none of them twice


def test_runs_of_nobody_are_left_alone(instance: dg.DagsterInstance, resource: StemsHome):
    job = build_definitions(home=resource).resolve_job_def("train_model")
    instance.create_run_for_job(job, status=DONE)
    assert begun_chains(instance) == {}


def nightly(resource: StemsHome, *corpora: str) -> list[dg.RunRequest]:
    repository = build_definitions(home=resource).get_repository_def()
    with dg.instance_for_test() as instance:  # schedules want one with a folder
        instance.add_dynamic_partitions("corpus", list(corpora))
        context = dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=datetime(2026, 11, 22),
            repository_def=repository,
            resources={"home": resource},
        )
        schedule = repository.get_schedule_def("nightly_evaluation")
        with context:
            return list(schedule.evaluate_tick(context).run_requests or [])


def test_nightly_evaluates_only_what_can_be_evaluated(home: Path, tmp_path: Path):
    """Not beats, not what was never scanned; instruments not of songs that were trained on."""
    from ml.corpora.corpus import open_corpus
    from ml.corpora.label_embeddings import build_label_embeddings
    from ml.corpora.table import build_corpus_tracks, read_corpus_tracks
    from ml.labels.encoders import build_label_encoder

    layout = StemsHome(home=str(home)).layout
    table = read_corpus_tracks(layout, "demo")
    songs = home / "corpora" / "demo" / "songs"
    rows = [
        f"again-{track},{songs / track / Path(files[0]).name}," + " > ".join(labels)
        for track, files, labels, split in table["track_id", "files", "labels", "split"].iter_rows()
        if split == "train"
    ]
    csv = tmp_path / "seen.csv"
    csv.write_text("\n".join(["track_id,audio,labels", *rows]) + "\n")
    build_corpus_tracks("seen", open_corpus("manifest", csv), layout)
    build_label_embeddings("seen", layout, build_label_encoder("minilm"))
    corpora = {
        "demo": {"kind": "demo", "root": "corpora/demo"},
        "seen": {"kind": "manifest", "root": str(csv)},
        "never-scanned": {"kind": "folder", "root": "x"},
        "gtzan": {"kind": "beats", "root": "x"},
    }
    resource = StemsHome(home=str(home), overrides={"corpora": corpora})
    requests = nightly(resource, *corpora, "no-longer-in-the-settings")
    found = {request.partition_key: request for request in requests}
    assert set(found) == {"demo", "seen"}
    assert selected(found["seen"]) == {"stem_embeddings", "retrieval_scores"}
    assert selected(found["demo"]) == selected(found["seen"]) | {"instrument_scores"}
    assert {request.tags[CHAIN_TAG] for request in found.values()} == {"evaluation-2026-11-22"}


def test_nightly_waits_for_a_first_model(tmp_path: Path):
    assert nightly(StemsHome(home=str(tmp_path)), "demo") == []
