"""Run steps one after the other in this process, and say what came of them.

What is made and where it is recorded is the same as in Dagster's UI: the jobs of the definitions,
the home's persistent instance. A step that fails does not hide the others: those that do not need
it still run. What people see meanwhile is in ``pipelines.progress``. The ``conclusion`` of the demo
and of runs over single corpora is text; nothing is printed here.
"""

import contextlib
import logging
import os
import shlex
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import dagster as dg
import psutil
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG
from sqlalchemy.exc import OperationalError

from assets_def.resources import StemsHome
from ml.locks import LockedError
from ml.settings import Settings
from pipelines.build import build_definitions
from pipelines.home import open_instance
from pipelines.jobs import Step
from pipelines.progress import failure_text, is_interruption

_PROCESS_TAG = ".dagster/stems_process"
_LOCATION = "__repository__@stems"
"""What ``workspace.yaml`` calls the code location: pages of jobs list the runs that carry it."""
_log = logging.getLogger("stems.progress")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a step ended."""

    step: Step
    status: Literal["done", "failed", "left out"]
    problem: str = ""
    """Why it was not done: one sentence."""
    is_stopped: bool = False
    """Whether someone interrupted it: nothing more is begun."""
    run_id: str = ""
    """Dagster's run; empty when there was none."""
    elapsed_s: float = 0.0
    data_versions: dict[str, str] = field(default_factory=dict)
    """Asset → version."""
    reused: dict[str, bool] = field(default_factory=dict)
    """Asset → whether it was up to date."""


def execute_in_home(home: StemsHome, steps: Sequence[Step]) -> list[Outcome]:
    """Run steps in the Dagster instance of a home, which must have been installed.

    Args:
        home: where, and with which settings.
        steps: what to run, in order; a step's ``needs`` come before it.

    Returns:
        One outcome a step.

    Raises:
        ml.settings.SettingsError: settings are wrong.
        ml.locks.LockedError: another program holds Dagster's databases.
    """
    definitions = build_definitions(home=home)
    total, first = sum(len(step.assets) for step in steps), 1
    outcomes: dict[str, Outcome] = {}
    with _database_errors(home), open_instance(home.settings()) as instance:
        close_dead_runs(instance)
        for step in steps:
            if problem := _reason_to_leave_out(step, outcomes):
                outcomes[step.name] = Outcome(step=step, status="left out", problem=problem)
                _log.warning("%s is left out: %s", step.name, problem)
            else:
                outcomes[step.name] = _execute(definitions, instance, step, first, total)
            first += len(step.assets)
    return list(outcomes.values())


@contextlib.contextmanager
def _database_errors(home: StemsHome) -> Iterator[None]:
    """Say in a sentence that Dagster waited for its databases in vain (5 s, for events 30 s)."""
    try:
        yield
    except OperationalError as error:
        raise LockedError(
            f"Dagster's databases in {home.layout.dagster_home} cannot be used ({error.orig}); "
            "stop the program that holds them, or make room, and run the same command again: what "
            "is finished is reused"
        ) from None


def failures_text(outcomes: Sequence[Outcome]) -> str:
    """Say what was not done, one line a step; empty when all were."""
    lines = []
    for outcome in outcomes:
        if outcome.status == "failed":
            run = f" (Dagster run {outcome.run_id})" if outcome.run_id else ""
            lines.append(f"{outcome.step.name} failed{run}: {outcome.problem}")
        elif outcome.status == "left out":
            lines.append(f"{outcome.step.name} was left out: {outcome.problem}")
    return "\n".join(lines)


def _reason_to_leave_out(step: Step, outcomes: Mapping[str, Outcome]) -> str:
    if any(outcome.is_stopped for outcome in outcomes.values()):
        return "you stopped it"
    lacking = [name for name in step.needs if outcomes[name].status != "done"]
    return f"it needs {', '.join(lacking)}" if lacking else ""


def _execute(
    definitions: dg.Definitions, instance: dg.DagsterInstance, step: Step, first: int, total: int
) -> Outcome:
    started_s = time.monotonic()
    shown = {"assets": list(step.assets), "partition": step.partition or ""}
    config = {"loggers": {"progress": {"config": {**shown, "first": first, "total": total}}}}
    result = definitions.resolve_job_def(step.job).execute_in_process(
        instance=instance,
        run_config=config,
        partition_key=step.partition,
        asset_selection=[dg.AssetKey(name) for name in step.assets],
        tags={_PROCESS_TAG: _this_process(), REPOSITORY_LABEL_TAG: _LOCATION},
        raise_on_error=False,
    )
    elapsed_s = time.monotonic() - started_s
    if not result.success:
        failed = next((event for event in result.all_events if event.is_step_failure), None)
        return Outcome(
            step=step,
            status="failed",
            problem=f"{failed.step_key}: {failure_text(failed)}" if failed else "it was stopped",
            is_stopped=failed is None or is_interruption(failed),
            run_id=result.run_id,
            elapsed_s=elapsed_s,
        )
    versions, reused = {}, {}
    for event in result.get_asset_materialization_events():
        made = event.step_materialization_data.materialization
        name = made.asset_key.to_user_string()
        versions[name] = (made.tags or {})["dagster/data_version"]
        reused[name] = bool(made.metadata["reused"].value)
    return Outcome(
        step=step,
        status="done",
        run_id=result.run_id,
        elapsed_s=elapsed_s,
        data_versions=versions,
        reused=reused,
    )


def close_dead_runs(instance: dg.DagsterInstance) -> int:
    """Mark runs as failed whose process was killed, and free the pools they hold.

    Returns:
        How many there were.
    """
    running = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
    dead = [run for run in instance.get_runs(running) if _is_dead(run.tags.get(_PROCESS_TAG))]
    for run in dead:
        instance.report_run_failed(run, "its process was killed; run the same command again")
    # A run of the UI whose process was killed holds its pools, which only a daemon looks after.
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            storage.free_concurrency_slots_for_run(run_id)
    return len(dead)


def _this_process() -> str:
    return f"{os.getpid()} {psutil.Process().create_time():.0f} {socket.gethostname()}"


def _is_dead(process: str | None) -> bool:
    """Tell whether a run of this module was made by a process of this host that is gone."""
    if process is None:
        return False
    pid, created, host = process.split(" ", 2)
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" != created
    except psutil.NoSuchProcess:
        return True


def conclusion(
    settings: Settings,
    corpora: Iterable[str],
    timed: Sequence[tuple[str, float]] = (),
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
    parts = [scores_text(settings, corpora), next_text(settings, query=query)]
    parts += [times_text(timed)] if timed else []
    return "\n\n".join(["", *filter(None, parts)])


def scores_text(settings: Settings, corpora: Iterable[str]) -> str:
    """Write the score tables of each corpus that has scores, by each protocol it was scored by."""
    from ml.retrieval.evaluation.evaluate import EVALUATIONS, SEEN
    from ml.scores.files import read_scores
    from ml.scores.intervals import INTERVALS_SAID
    from ml.scores.text import evaluation_tables

    shown = {name + suffix for name in EVALUATIONS.values() for suffix in ("", SEEN)}
    tables = [
        table
        for corpus in corpora
        for table in evaluation_tables(
            read_scores(settings.layout, corpus=corpus), settings.corpus(corpus).kind, shown
        )
    ]
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
        f"make mlflow{home}": "training runs in MLflow; it prints the address of their charts",
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
