"""What to say of a run that failed: what, where, and how to go on.

https://docs.dagster.io/guides/automate/run-status-sensors
"""

import shlex
from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets_def.resources import StemsHome

_PLACES = ("log", "resumes_from")
"""Metadata of ``assets_def.launch`` that are paths."""


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
