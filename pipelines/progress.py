"""What people see of runs: which asset is being made, how it ended, and what failed.

Longer pieces of work inside an asset show their own bar (``ml.progress``). Of a run that failed the
sensor ``failed_runs`` says what, where its log lies, and how to go on.

https://docs.dagster.io/guides/automate/run-status-sensors
"""

import logging
import shlex
import time
from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets_def.resources import StemsHome

_log = logging.getLogger("stems.progress")
_PLACES = ("log", "resumes_from")
"""Metadata of ``assets_def.launch`` that are paths."""


@dg.logger(
    config_schema={"assets": [str], "partition": str, "first": int, "total": int},
    description="Plain lines for people who watch a terminal.",
)
def asset_progress(context: dg.InitLoggerContext) -> logging.Logger:
    """Make the logger ``progress`` of the code location."""
    logger = logging.Logger("asset_progress")
    logger.addHandler(AssetProgress(**context.logger_config))
    return logger


class AssetProgress(logging.Handler):
    """Dagster's events of one run as lines of the log ``stems.progress``.

    Args:
        assets: names of the assets of the run.
        partition: the corpus of the run; empty without.
        first: number of the run's first asset among all assets of all runs.
        total: number of assets of all runs.
    """

    def __init__(self, assets: Sequence[str], partition: str, first: int, total: int) -> None:
        super().__init__()
        self._assets, self._partition = assets, partition
        self._number, self._total = first - 1, total
        self._started_s = 0.0
        self._is_reused = False

    def emit(self, record: logging.LogRecord) -> None:
        """Show an event; what is none is not shown."""
        event: dg.DagsterEvent | None = getattr(record, "dagster_event", None)
        if event is None or event.step_key is None:
            return
        kind = event.event_type
        if kind is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            self._show_check(event)
        elif kind is dg.DagsterEventType.STEP_FAILURE:
            _log.error("%s: FAILED: %s", self._title(event), failure_text(event))
        elif event.step_key in self._assets:
            self._show_asset(event, kind)

    def _show_asset(self, event: dg.DagsterEvent, kind: dg.DagsterEventType) -> None:
        kinds = dg.DagsterEventType
        if kind is kinds.STEP_START:
            self._number += 1
            self._started_s, self._is_reused = time.monotonic(), False
            _log.info("%s …", self._title(event))
        elif kind is kinds.ASSET_MATERIALIZATION:
            metadata = event.step_materialization_data.materialization.metadata
            self._is_reused = bool(metadata["reused"].value)
        elif kind is kinds.STEP_SUCCESS:
            elapsed_s = time.monotonic() - self._started_s
            how = "up to date" if self._is_reused else "made"
            _log.info("%s: %s in %.1f s", self._title(event), how, elapsed_s)

    def _show_check(self, event: dg.DagsterEvent) -> None:
        check = event.asset_check_evaluation_data
        if check.passed:
            return
        is_warning = check.severity is dg.AssetCheckSeverity.WARN
        numbers = ", ".join(f"{k} {_plain(v.value)}" for k, v in check.metadata.items())
        verdict = "warning" if is_warning else "FAILED"
        what = f"{check.asset_key.to_user_string()} {self._partition}".rstrip()
        _log.warning("check %s of %s: %s (%s)", check.check_name, what, verdict, numbers)

    def _title(self, event: dg.DagsterEvent) -> str:
        return f"[{self._number}/{self._total}] {event.step_key} {self._partition}".rstrip()


def _plain(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@dg.run_failure_sensor(
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Logs what failed, where its log lies and how to go on; it starts nothing.",
)
def failed_runs(context: dg.RunFailureSensorContext, home: StemsHome) -> None:
    """Log one message for each failed run."""
    steps = context.get_step_failure_events()
    assets = planned_assets(context.instance, context.dagster_run.run_id)
    said = [*failures(context.dagster_run, steps, context.failure_event.message or "no message")]
    context.log.error("\n".join([*said, how_to_go_on(context.dagster_run, assets, home)]))


def planned_assets(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """List the assets that a run was to make, in its order."""
    planned = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    events = (entry.dagster_event for entry in planned)
    return [e.asset_key.to_user_string() for e in events if e is not None and e.asset_key]


def failures(run: dg.DagsterRun, steps: Sequence[dg.DagsterEvent], message: str) -> list[str]:
    """Say what failed: a line for each step, with the path of its log where it has one.

    Args:
        run: that failed.
        steps: its failed steps.
        message: of the run; said where no step failed (its process was killed).
    """
    partition = run.tags.get("dagster/partition", "")
    lines = [f"run {run.run_id} ({run.job_name}) failed" + ("" if steps else f": {message}")]
    for event in steps:
        what = f"{event.step_key} {partition}".rstrip()
        lines.append(f"  {what}: {failure_text(event)}")
        thrown = event.step_failure_data.user_failure_data
        shown = {} if thrown is None else thrown.metadata
        lines += [f"    {name}: {shown[name].value}" for name in _PLACES if name in shown]
    return lines


def how_to_go_on(run: dg.DagsterRun, assets: Sequence[str], home: StemsHome) -> str:
    """Say where to click and what to type; what was finished is reused, training resumes."""
    clicks = "in the UI: Runs, this run, Re-execute, From failure"
    if not assets:
        return f"  to go on, {clicks}"
    command = ["dagster", "asset", "materialize", "-m", "pipelines.definitions"]
    command += ["--select", ",".join(assets)]
    if partition := run.tags.get("dagster/partition"):
        command += ["--partition", partition]
    where = {"STEMS_HOME": home.home, "DAGSTER_HOME": str(home.layout.dagster_home)}
    variables = [f"{name}={shlex.quote(value)}" for name, value in where.items()]
    return f"  to go on, {clicks}; or: {' '.join([*variables, shlex.join(command)])}"


def failure_text(event: dg.DagsterEvent) -> str:
    """Give the message of the exception that made a step fail, without its stack."""
    error = _cause(event)
    if error is None:
        return "no message"
    if error.message.strip().endswith(error.cls_name or " "):
        return "it was stopped" if is_interruption(event) else f"{error.cls_name}, no message"
    name, colon, said = error.message.strip().partition(": ")
    is_named = bool(colon) and name.rsplit(".", 1)[-1] == error.cls_name
    return said if is_named else error.message.strip()


def is_interruption(event: dg.DagsterEvent) -> bool:
    """Tell whether a step failed because someone stopped it."""
    error = _cause(event)
    stopped = ("KeyboardInterrupt", "DagsterExecutionInterruptedError")
    return error is not None and error.cls_name in stopped


def _cause(event: dg.DagsterEvent) -> Any:
    """Class and message of the exception at the bottom of a failed step."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error
