"""The chain at tiny size on a 6-song corpus: songs to report, then once more without work.

One test, not marked slow though it is: nothing else shows that the steps fit together.
"""

import shlex
from pathlib import Path

import dagster as dg
import pytest

from assets_def.resources import StemsHome
from ml.cli.main import main as stems
from ml.scores.files import read_scores
from ml.training.models import read_champion
from pipelines import demo
from pipelines.execute import execute_in_home
from pipelines.home import open_instance

CONFIG = """
corpora:
  demo: {kind: demo, root: corpora/demo}
  demo-plain: {kind: demo, root: corpora/demo-plain}
demo: {heldout_s: 8.0}
training:
  presets: [two-part]
  overrides: {batch_size: 4, model.encoder.layers: 1}
evaluation:
  bootstrap_resamples: 100
"""
CHOSEN = ["--songs", "4", "--heldout", "2", "--steps", "2", "--workers", "1"]
MODELS = {"two-part", "contrastive", "untrained", "spectrum"}
LOOKED_UP = {"label", "label+contrastive", "two-part+label"}


def test_demo_from_songs_to_report_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "config.yaml").write_text(CONFIG)
    assert demo.main(["--home", str(tmp_path), *CHOSEN]) == 0
    said = capsys.readouterr().out
    overrides = demo.chosen_settings(demo.get_parser().parse_args(CHOSEN))
    home = StemsHome(home=str(tmp_path), overrides=overrides, workers=1)
    check_scores(home)
    check_report(home, said)
    check_shown_query(said, capsys)
    assert demo.main(["--home", str(tmp_path), *CHOSEN]) == 0
    check_second_demo(home, said, capsys.readouterr().out)
    check_second_run(home)


def check_scores(home: StemsHome):
    """Every model is scored on every corpus; the first preset answers queries."""
    scores = read_scores(home.layout, evaluation="retrieval")
    assert {(row["corpus"], row["model"]) for row in scores} == {
        (corpus, model) for corpus in ("demo", "demo-plain") for model in MODELS | LOOKED_UP
    }
    assert read_champion(home.layout).checkpoint.startswith("runs/two-part-tiny-")


def check_report(home: StemsHome, said: str):
    """The page is where the demo says, and names what was trained."""
    path = home.layout.reports / "index.html"
    assert str(path) in said
    page = path.read_text()
    assert all(model in page for model in MODELS | LOOKED_UP)


def check_shown_query(said: str, capsys: pytest.CaptureFixture[str]):
    """The query that is ready to paste works."""
    (line,) = (line for line in said.splitlines() if " --instrument " in line)
    program, *arguments = shlex.split(line)
    assert Path(program).name == "stems"
    assert stems([*arguments, "-k", "3"]) == 0
    answer = capsys.readouterr().out.splitlines()
    assert len(answer) == 4  # heading and three stems


def check_second_demo(home: StemsHome, first: str, second: str):
    """It says the same but for times, and begins no run."""
    heading, _, said = second.partition("\n")
    assert heading.startswith("everything is up to date")
    assert said.strip()
    assert said.strip() in first
    with open_instance(home.settings()) as instance:
        assert len(instance.get_runs()) == len(demo.demo_steps(home.settings()))


def check_second_run(home: StemsHome):
    """Everything is up to date, and every version is the one recorded the first time."""
    outcomes = execute_in_home(home, demo.demo_steps(home.settings()))
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert all(reused for outcome in outcomes for reused in outcome.reused.values())
    with open_instance(home.settings()) as instance:
        for outcome in outcomes:
            for name, version in outcome.data_versions.items():
                assert recorded_versions(instance, name, outcome.step.partition) == [version] * 2


def recorded_versions(instance: dg.DagsterInstance, asset: str, partition: str | None) -> list[str]:
    """Data versions of all materializations of an asset, for one corpus if it is partitioned."""
    chosen = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey(asset), asset_partitions=[partition] if partition else None
    )
    records = instance.fetch_materializations(chosen, limit=10).records
    made = [record.asset_materialization for record in records]
    return [(one.tags or {})["dagster/data_version"] for one in made if one]
