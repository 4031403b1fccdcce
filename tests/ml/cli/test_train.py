"""``stems train``: a forecast that trains nothing, and a record that reaches MLflow late."""

import json

import pytest

from ml.artifacts import DataLayout, read_json
from ml.cli.main import WRONG_USE, get_parser, main
from ml.mlflow_store import mlflow_client
from ml.training.models import read_models
from ml.training.run_folder import RECORD_NAME, mlflow_page, read_record


def test_a_dry_run_counts_and_times_and_leaves_nothing_behind(home, small_jepa, capsys):
    before = sorted(home.rglob("*"))
    chosen = [f"{name}={json.dumps(value)}" for name, value in small_jepa.items()]
    assert main(["--home", str(home), "train", "--dry-run", "--set", *chosen]) == 0
    told = capsys.readouterr().out
    for words in ("parameters learned", "TFLOP", "steps an epoch", "h in all"):
        assert words in told
    assert sorted(home.rglob("*")) == before


def test_a_record_is_sent_later_and_only_once(home, capsys):
    run = read_models(DataLayout(home=home))["film"].parent
    for expected in (0, 0):
        assert main(["--home", str(home), "train", "sync", run.name]) == expected
    client = mlflow_client(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    run_id = read_json(run / "mlflow.json")["run_id"]
    assert mlflow_page(run / "model", run_id).startswith(f"#/experiments/1/runs/{run_id}?")
    lines = [x for x in read_record(run / RECORD_NAME) if "jepa/loss" in x["metrics"]]
    history = client.get_metric_history(run_id, "jepa/loss")
    assert [m.step for m in history] == [line["step"] for line in lines]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert run_id in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sync", "film-tiny-0"], "no training run"),
        (["sync"], "sync RUN"),
        (["resync", "x"], "sync RUN"),
    ],
)
def test_a_wrong_run_is_named(home, capsys, words, message):
    assert main(["--home", str(home), "train", *words]) == WRONG_USE
    assert message in capsys.readouterr().err


def test_a_run_is_resumed_by_its_name_and_not_with_other_options(home, capsys):
    run = read_models(DataLayout(home=home))["film"].parent
    resume = ["--home", str(home), "train", "--resume", run.name]
    assert main(resume) == 0
    assert f"finished already: {run / 'model'}" in capsys.readouterr().out
    for options, message in (
        (["--seed", "7", "--set", "batch_size=8"], "batch_size: 4 → 8; seed: 0 → 7; leave"),
        (["--dry-run"], "expected one of them"),
        (["--corpora", "x"], "corpora: [demo] → [x]"),
    ):
        assert main([*resume, *options]) == WRONG_USE
        assert message in capsys.readouterr().err
    assert main(["--home", str(home), "train", "--resume", "film-tiny-0"]) == WRONG_USE
    assert "no training run" in capsys.readouterr().err


def test_an_option_given_twice_adds_to_what_was_given():
    args = get_parser().parse_args(["train", "--set", "steps=3", "--set", "batch_size=8", "seed=1"])
    assert args.overrides == ["steps=3", "batch_size=8", "seed=1"]


def test_an_export_says_how_it_was_trained_and_names_nothing_of_its_home(
    shared_home, tmp_path, capsys
):
    run = read_models(DataLayout(home=shared_home))["film"].parent
    export, out = ["--home", str(shared_home), "export", "film"], tmp_path / "film"
    for _ in range(2):
        assert main([*export, str(out)]) == 0
    manifest, card = read_json(out / "manifest.json"), (out / "README.md").read_text()
    assert f"model {manifest['model_id']}" in capsys.readouterr().out
    assert f"`{run.name}` (model `{manifest['model_id']}`)" in card
    assert "| film | `demo` | " in card
    assert not {"run", "mlflow_run_id", "phase_1_model_id", "shards"} & manifest.keys()
    assert main([*export, str(tmp_path)]) == WRONG_USE
    assert "no exported model" in capsys.readouterr().err
