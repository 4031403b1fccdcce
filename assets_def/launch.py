"""``launch(command, context)``: runs a command for an asset, tied to it by Dagster Pipes.

This one function is the seam where a cluster stands in (Slurm, Kubernetes): such a ``launch`` opens
a session whose context and messages cross machines (``dg.PipesEnvContextInjector`` and a message
reader on storage that both see), submits the command with the session's environment, waits, passes
a cancel on, and returns the same ``Ending``. What is launched and what its ending means stand
elsewhere (``assets_def.train_process``, ``assets_def.train_models``) and know of no place.

``dg.PipesSubprocessClient`` is not used: it leaks a child that takes longer to stop than it waits,
and a child whose parent is killed.
https://docs.dagster.io/guides/build/external-pipelines
"""

import contextlib
import os
import signal
import subprocess
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import psutil

from assets_def.stopping import STOP_WITHIN_S, UNTIL_EOF


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a launched command ended."""

    exit_code: int
    """Negative: the signal that killed it."""
    messages: Sequence[Mapping[str, Any]]
    """What it reported (``PipesContext.report_custom_message``), in order."""


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
    with (
        _no_preview_warnings(),
        dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesTempFileContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
            extras=dict(extras),
        ) as session,
    ):
        exit_code = _run(command, context, session.get_bootstrap_env_vars())
    return Ending(exit_code=exit_code, messages=session.get_custom_messages())


@contextlib.contextmanager
def _no_preview_warnings() -> Iterator[None]:
    """Dagster warns of what it uses itself in Pipes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        yield


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
            _kill_tree(process.pid)


def _kill_tree(pid: int) -> None:
    parent = psutil.Process(pid)
    for one in (*parent.children(recursive=True), parent):
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
