"""What the demo and runs over single corpora say when they are done; text only, no printing."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from ml.artifacts import DataLayout
from ml.settings import Settings
from pipelines.execute import Outcome


def conclusion(
    settings: Settings,
    corpora: Iterable[str],
    timed: Sequence[tuple[str, float]],
    *,
    query: str | None = None,
) -> str:
    """Say scores, what to look at next, and how long each stage took.

    Args:
        settings: of the home.
        corpora: whose scores to show.
        timed: name and elapsed seconds of each stage.
        query: a command that shows what queries do.
    """
    parts = [scores_text(settings.layout, corpora), next_text(settings, query=query)]
    return "\n\n".join(["", *(part for part in parts if part), times_text(timed)])


def scores_text(layout: DataLayout, corpora: Iterable[str]) -> str:
    """Write the score table of each corpus that has scores."""
    from ml.retrieval.evaluation.evaluate import EVALUATION
    from ml.scores.files import read_scores
    from ml.scores.intervals import INTERVALS_SAID
    from ml.scores.text import table_lines

    tables = []
    for corpus in corpora:
        rows = read_scores(layout, evaluation=EVALUATION, corpus=corpus)
        if rows:
            tables.append("\n".join(table_lines(f"{EVALUATION}: {corpus}", rows)))
    return "\n\n".join([*tables, INTERVALS_SAID] if tables else [])


def next_text(settings: Settings, *, query: str | None) -> str:
    """Say what to look at next, ready to paste."""
    layout = settings.layout
    home = f" STEMS_HOME={shlex.quote(str(settings.home))}"
    if settings.home == (Path.cwd() / "data").resolve():
        home = ""
    rows = {
        str(layout.reports / "index.html"): "the report, for a browser",
        f"make dev{home}": "assets, runs and checks in Dagster, http://127.0.0.1:3000",
        f"make mlflow{home}": "training runs in MLflow, http://127.0.0.1:5000",
    }
    width = max(map(len, rows))
    lines = [f"  {what:<{width}}  {why}" for what, why in rows.items()]
    asked = ["Ask for the stem that a mix lacks:", f"  {query}"] if query else []
    return "\n".join(["What to look at next:", *lines, *asked])


def times_text(timed: Sequence[tuple[str, float]]) -> str:
    """Say the elapsed time of each stage and in all."""
    rows = [*timed, ("in all", sum(elapsed_s for _, elapsed_s in timed))]
    width = max(len(name) for name, _ in rows)
    return "\n".join(["Elapsed:", *(f"  {name:<{width}}  {t:7.1f} s" for name, t in rows)])


def scored_corpora(outcomes: Iterable[Outcome]) -> list[str]:
    """List the corpora that were scored."""
    done = (outcome for outcome in outcomes if outcome.status == "done")
    scored = (o.step.partition for o in done if "retrieval_scores" in o.step.assets)
    return [name for name in scored if name is not None]


def step_times(outcomes: Iterable[Outcome]) -> list[tuple[str, float]]:
    """List name and elapsed seconds of the steps that ran."""
    return [(o.step.name, o.elapsed_s) for o in outcomes if o.status != "left out"]
