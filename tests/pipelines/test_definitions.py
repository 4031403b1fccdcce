import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets_def.assets.training import TrainConfig
from assets_def.resources import StemsHome
from ml.settings import SettingsError
from pipelines.build import build_definitions
from pipelines.jobs import all_jobs

FEATURES = "beat_features"
GRAPH = {
    "corpus_files": ("corpus", set()),
    "corpus_tracks": ("corpus", {"corpus_files"}),
    "label_embeddings": ("corpus", {"corpus_tracks"}),
    "stem_shards": ("shards", {"corpus_tracks", "label_embeddings"}),
    "contrastive_encoder": ("training", {"stem_shards"}),
    "stem_jepa": ("training", {"stem_shards", "contrastive_encoder"}),
    "stem_embeddings": (
        "embeddings",
        {"corpus_tracks", "label_embeddings", "contrastive_encoder", "stem_jepa"},
    ),
    "champion": ("embeddings", {"stem_jepa", "stem_embeddings"}),
    "retrieval_scores": ("evaluation", {"stem_embeddings"}),
    "beat_features": ("beats", {"corpus_tracks", "contrastive_encoder", "stem_jepa"}),
    "beat_probe": ("beats", {"beat_features"}),
    "beat_scores": ("beats", {"beat_features", "beat_probe"}),
    "instrument_scores": ("evaluation", {"retrieval_scores"}),
    "report": (
        "evaluation",
        {
            *("contrastive_encoder", "stem_jepa"),
            *("retrieval_scores", "instrument_scores", "beat_scores"),
        },
    ),
}
BY_CORPUS = {
    "corpus_files",
    "corpus_tracks",
    "label_embeddings",
    "stem_shards",
    "stem_embeddings",
    "retrieval_scores",
    "instrument_scores",
    "beat_features",
}
JOBS = {
    "prepare_corpus": {"corpus_tracks", "label_embeddings", "stem_shards"},
    "train_model": {"contrastive_encoder", "stem_jepa"},
    "embed_corpus": {"stem_embeddings"},
    "evaluate_retrieval": {"stem_embeddings", "retrieval_scores", "instrument_scores"},
    "prepare_beats": {"beat_features"},
    "evaluate_beats": {"beat_probe", "beat_scores"},
    "write_report": {"champion", "report"},
    "observe_corpora": {"corpus_files"},
}
CHECKS = {
    ("corpus_tracks", "corpus_has_not_drifted", False),
    ("label_embeddings", "labels_have_vectors", True),
    ("stem_shards", "shards_have_their_checksums", True),
    ("stem_shards", "no_silent_targets", True),
    ("stem_shards", "no_track_in_two_splits", True),
    ("contrastive_encoder", "loss_is_finite", True),
    ("stem_jepa", "loss_is_finite", True),
    ("stem_embeddings", "embeddings_are_not_collapsed", True),
    ("stem_embeddings", "gallery_is_complete", True),
    ("retrieval_scores", "retrieval_is_above_chance", False),
    ("retrieval_scores", "retrieval_is_not_worse_than_the_champion", False),
    ("retrieval_scores", "mix_is_heard", False),
    ("champion", "champion_hears_the_mix", False),
    ("beat_scores", "beats_are_above_chance", False),
    ("beat_scores", "beats_are_not_worse_than_the_champion", False),
}
RUNNING = {"corpora_of_settings", "failed_runs"}
"""Sensors that begin nothing; all others are stopped until someone turns them on."""


@pytest.fixture
def definitions(tmp_path: Path) -> dg.Definitions:
    return build_definitions(home=StemsHome(home=str(tmp_path)))


def specs(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def test_graph_is_the_drawing_of_the_design(definitions: dg.Definitions):
    found = {
        name: (spec.group_name, {dep.asset_key.to_user_string() for dep in spec.deps})
        for name, spec in specs(definitions).items()
    }
    assert found == GRAPH  # an external asset (a misspelt dependency) would be one too many
    graph = definitions.resolve_asset_graph()
    external = {node.key.to_user_string() for node in graph.asset_nodes if node.is_external}
    assert external == {"corpus_files"}  # it is observed, not made


def test_partitions_are_corpora(definitions: dg.Definitions):
    partitioned = {
        name for name, spec in specs(definitions).items() if spec.partitions_def is not None
    }
    assert partitioned == BY_CORPUS


def test_assets_say_what_they_are(definitions: dg.Definitions):
    for name, spec in specs(definitions).items():
        assert spec.description, name
        assert spec.kinds, name
        if name != "corpus_files":
            assert spec.owners, name
            assert spec.code_version, name


def test_jobs(definitions: dg.Definitions):
    graph = definitions.resolve_asset_graph()
    found = {}
    for job in all_jobs.values():
        assert job.description
        found[job.name] = {key.to_user_string() for key in job.selection.resolve(graph)}
        assert definitions.resolve_job_def(job.name).name == job.name
    assert found == JOBS


def test_schedules_and_sensors_start_nothing_unless_turned_on(definitions: dg.Definitions):
    (schedule,) = definitions.schedules or []
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    sensors = {sensor.name: sensor for sensor in definitions.sensors or []}
    assert sensors.keys() == RUNNING | {"changed_corpora", "retraining"}
    for name, sensor in sensors.items():
        is_running = sensor.default_status is dg.DefaultSensorStatus.RUNNING
        assert is_running == (name in RUNNING)
        assert sensor.description


def test_shards_and_scores_grow_old(definitions: dg.Definitions):
    aging = {name for name, spec in specs(definitions).items() if spec.freshness_policy}
    assert aging == {"stem_shards", "retrieval_scores", "instrument_scores", "beat_scores"}


def test_champion_and_report_wait_for_corpora_with_stems_only(tmp_path: Path):
    """Nothing is ever embedded of a corpus of kind beats."""
    corpora = {
        "songs": {"kind": "folder", "root": "songs"},
        "gtzan": {"kind": "beats", "root": "gtzan"},
    }
    chosen = {
        "corpora": corpora,
        "training": {"corpora": ["songs"]},
        "beats": {"corpora": ["gtzan"]},
    }
    built = specs(build_definitions(home=StemsHome(home=str(tmp_path), overrides=chosen)))
    for name, upstream in (
        ("champion", "stem_embeddings"),
        ("report", "retrieval_scores"),
        ("report", "instrument_scores"),
    ):
        (dep,) = (d for d in built[name].deps if d.asset_key.path == [upstream])
        assert dep.partition_mapping == dg.SpecificPartitionsPartitionMapping(("songs",))


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"automation": {"cron": "every day"}}, "automation.cron = 'every day'"),
        ({"promotion": {"corpora": ["elsewhere"]}}, "promotion names 'elsewhere'"),
    ],
)
def test_wrong_automation_and_promotion_are_refused(tmp_path: Path, chosen: dict, said: str):
    with pytest.raises(SettingsError, match=said):
        build_definitions(home=StemsHome(home=str(tmp_path), overrides=chosen))


def test_without_an_instance_the_location_loads_and_warns_once(tmp_path: Path):
    program = "import pipelines.definitions, sys; sys.exit('torch' in sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key != "DAGSTER_HOME"}
    for given, warnings in ({}, 1), ({"DAGSTER_HOME": str(tmp_path)}, 0):
        ran = subprocess.run(
            [sys.executable, "-c", program],
            env={**environment, "STEMS_HOME": str(tmp_path), **given},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert (
            ran.stderr.count("Warning") == ran.stderr.count("DAGSTER_HOME is not set") == warnings
        )


def test_checks(definitions: dg.Definitions):
    found = {
        (spec.asset_key.to_user_string(), spec.name, spec.blocking)
        for checks in definitions.asset_checks or []
        for spec in checks.check_specs
    }
    assert found == CHECKS


def test_training_depends_on_the_corpora_it_is_told(tmp_path: Path):
    overrides = {"training": {"corpora": ["demo-plain"]}}
    built = build_definitions(home=StemsHome(home=str(tmp_path), overrides=overrides))
    (dep,) = (d for d in specs(built)["stem_jepa"].deps if d.asset_key.path == ["stem_shards"])
    assert dep.partition_mapping == dg.SpecificPartitionsPartitionMapping(("demo-plain",))


def test_beat_probes_depend_on_the_corpora_they_are_told(tmp_path: Path):
    overrides = {"beats": {"corpora": ["demo"], "heldout": ["demo-plain"]}}
    built = specs(build_definitions(home=StemsHome(home=str(tmp_path), overrides=overrides)))
    mappings = {
        name: [d.partition_mapping for d in built[name].deps if d.asset_key.path == [FEATURES]]
        for name in ("beat_probe", "beat_scores")
    }
    assert mappings == {
        "beat_probe": [dg.SpecificPartitionsPartitionMapping(("demo",))],
        "beat_scores": [dg.SpecificPartitionsPartitionMapping(("demo", "demo-plain"))],
    }
    wrong = StemsHome(home=str(tmp_path), overrides={"beats": {"heldout": ["elsewhere"]}})
    with pytest.raises(SettingsError, match="'elsewhere'"):
        build_definitions(home=wrong)


@pytest.mark.parametrize(("named", "said"), [(["elsewhere"], "'elsewhere'"), ([], "is empty")])
def test_unknown_training_corpus_is_refused(tmp_path: Path, named: list[str], said: str):
    home = StemsHome(home=str(tmp_path), overrides={"training": {"corpora": named}})
    with pytest.raises(SettingsError, match=said):
        build_definitions(home=home)


def test_launchpad_shows_a_handful_of_fields():
    assert set(TrainConfig.model_fields) == {"size", "seed", "steps", "overrides", "phase_1"}
    assert all(field.description for field in TrainConfig.model_fields.values())


def test_launchpad_wins_over_settings(tmp_path: Path):
    overrides = {"training": {"seed": 3, "overrides": {"steps": 10, "batch_size": 4}}}
    home = StemsHome(home=str(tmp_path), overrides=overrides)
    assert TrainConfig().settings(home).model_dump() == home.settings().model_dump()
    training = TrainConfig(size="small", steps=5).settings(home).training
    assert (training.size, training.seed) == ("small", 3)
    assert training.overrides == {"steps": 5, "batch_size": 4}
    with pytest.raises(SettingsError, match="enormous"):
        TrainConfig(size="enormous").settings(home)


def test_sensor_registers_corpora_once(tmp_path: Path, definitions: dg.Definitions):
    sensor = definitions.resolve_sensor_def("corpora_of_settings")
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(
            instance=instance, resources={"home": StemsHome(home=str(tmp_path))}
        )
        data = sensor.evaluate_tick(context)
        assert not data.run_requests
        (request,) = data.dynamic_partitions_requests or []
        assert request.partition_keys == ["demo", "demo-plain", "demo-swapped"]
        instance.add_dynamic_partitions("corpus", list(request.partition_keys))
        assert not sensor.evaluate_tick(context).dynamic_partitions_requests
