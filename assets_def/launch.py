"""Models for an asset: reused where they are trained, else trained by a process of its own.

``train_models`` says what the process is told and what its ending means for Dagster. Three endings
are not done: stopped or refused (once more would not help: the run fails with the process's own
sentence), and crashed (killed, out of memory, a broken device): once more from the last checkpoint,
then it fails.

``launch(command, context)`` runs it, tied to the asset by Dagster Pipes. This is the seam where a
cluster stands in (Slurm, Kubernetes): such a ``launch`` opens a session whose context and messages
cross machines (``dg.PipesEnvContextInjector`` and a message reader on storage that both see),
submits the command with the session's environment, waits, passes a cancel on, and returns the same
``Ending``. ``dg.PipesSubprocessClient`` is not used: it leaks a child that takes longer to stop
than it waits, and a child whose parent is killed.
https://docs.dagster.io/guides/build/external-pipelines
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import dagster as dg
import psutil

from assets_def.resources import StemsHome
from assets_def.train_process import MODULE, STOP_WITHIN_S, UNTIL_EOF
from ml.artifacts import MANIFEST_NAME, Artifact
from ml.settings import Settings
from ml.training.run_folder import latest_checkpoint

MAX_RETRIES = 1
_TAIL_LINES = 20
_log = logging.getLogger("stems.progress")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a launched command ended."""

    exit_code: int
    """Negative: the signal that killed it."""
    messages: Sequence[Mapping[str, Any]]
    """What it reported (``PipesContext.report_custom_message``), in order."""


def train_models(
    presets: Sequence[str],
    settings: Settings,
    home: StemsHome,
    context: dg.AssetExecutionContext,
) -> dict[str, Artifact]:
    """Train the models of presets, or reuse them; returns them in their order.

    Args:
        presets: what to train; one process trains them one after the other.
        settings: of the home, with what the launchpad changed.
        home: where.
        context: of the asset.

    Raises:
        dagster.Failure: the process refused, was stopped, or crashed twice; metadata ``log`` is the
            path of its log, ``log_end`` its last lines, ``resumes_from`` its last checkpoint.
        dagster.RetryRequested: it crashed once.
        DagsterExecutionInterruptedError: the run was cancelled; a checkpoint is saved.
    """
    trained = _trained(presets, settings)
    if len(trained) == len(presets):
        return trained
    asset, run_id = context.asset_key.to_python_identifier(), context.run.run_id
    log = settings.layout.logs / f"{asset}-{run_id[:8]}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    ending = launch(
        [sys.executable, "-m", MODULE],
        context,
        extras={
            "home": home.home,
            "overrides": {**home.overrides, "training": settings.training.model_dump(mode="json")},
            "processes": settings.training.processes,
            "presets": list(presets),
            "tags": {"dagster_run_id": run_id},
            "log": str(log),
        },
    )
    if ending.exit_code != 0:
        _fail(ending, log, context)
    return {
        said["preset"]: Artifact(**said["made"] | {"path": Path(said["made"]["path"])})
        for said in ending.messages
        if "made" in said
    }


def _trained(presets: Sequence[str], settings: Settings) -> dict[str, Artifact]:
    """Find the models that need no training; without torch where nothing was ever finished."""
    training, trained = settings.training, {}
    for name in presets:
        if any(settings.layout.runs.glob(f"{name}-{training.size}-*/model/{MANIFEST_NAME}")):
            from ml.training.runs import run_options, trained_model

            found = trained_model(name, layout=settings.layout, **run_options(training, name))
            if found is not None:
                trained[name] = found
    return trained


def launch(
    command: Sequence[str], context: dg.AssetExecutionContext, *, extras: Mapping[str, Any]
) -> Ending:
    """Run a command on this machine until it ends.

    It has the environment and the output of this process, and a session of its own: Ctrl-C on a
    terminal reaches it once, from here. When this step is interrupted it gets SIGINT, after
    ``STOP_WITHIN_S`` SIGKILL; when this process dies, however it dies, its standard input ends.

    Args:
        command: what to run; gets ``UNTIL_EOF`` as its last argument.
        context: of the asset; what the command logs through Pipes goes to its log.
        extras: what the command is told (``PipesContext.extras``): JSON, in a file that only this
            user can read.

    Raises:
        DagsterExecutionInterruptedError: the step was interrupted; the command has ended.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # of what Dagster uses itself in Pipes
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesTempFileContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
            extras=dict(extras),
        ) as session:
            exit_code = _run(command, context, session.get_bootstrap_env_vars())
    return Ending(exit_code=exit_code, messages=session.get_custom_messages())


def _run(
    command: Sequence[str], context: dg.AssetExecutionContext, variables: Mapping[str, str]
) -> int:
    with subprocess.Popen(
        [*command, UNTIL_EOF],
        stdin=subprocess.PIPE,
        env={**os.environ, **variables},
        start_new_session=True,
    ) as process:
        try:
            return process.wait()
        except BaseException:  # Dagster's interruption is none of Exception's
            _stop(process, context)
            raise


def _stop(process: subprocess.Popen[bytes], context: dg.AssetExecutionContext) -> None:
    """Ask a process to stop; kill it and all it has started when it takes too long."""
    context.log.info("stopping process %d; it saves a checkpoint first", process.pid)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        context.log.warning("killing process %d: no end in %g s", process.pid, STOP_WITHIN_S)
    finally:  # also when a second interruption comes
        if process.poll() is None:
            parent = psutil.Process(process.pid)
            for started in (*parent.children(recursive=True), parent):
                with contextlib.suppress(psutil.NoSuchProcess):
                    started.kill()


def _fail(ending: Ending, log: Path, context: dg.AssetExecutionContext) -> NoReturn:
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    log_end = "\n".join(["```", *lines[-_TAIL_LINES:], "```"])
    metadata: dict[str, Any] = {
        "log": dg.MetadataValue.path(log),
        "log_end": dg.MetadataValue.md(log_end),
    }
    checkpoint = _checkpoint(ending)
    if checkpoint is not None:
        metadata["resumes_from"] = dg.MetadataValue.path(checkpoint)
    if reasons := [said["sentence"] for said in ending.messages if "sentence" in said]:
        raise dg.Failure(reasons[0], metadata=metadata, allow_retries=False)
    crash = f"the training process {_manner(ending.exit_code)}; its log is {log}"
    if context.retry_number < MAX_RETRIES:
        again = f"{crash}; once more, from {checkpoint or 'its start'}"
        context.log.warning(again)
        _log.warning(again)
        raise dg.RetryRequested(max_retries=MAX_RETRIES)
    sentence = f"{crash}; it crashed before too; materialize again to go on from its checkpoint"
    raise dg.Failure(sentence, metadata=metadata, allow_retries=False)


def _manner(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"was killed by {name}" + (" (is memory short?)" if name == "SIGKILL" else "")


def _checkpoint(ending: Ending) -> Path | None:
    """Find the last checkpoint of the run that was training."""
    runs = [said["run"] for said in ending.messages if "run" in said]
    return latest_checkpoint(Path(runs[-1])) if runs else None
