"""The process that trains for an asset: ``python -m assets_def.train_process``, started by Dagster.

It trains presets one after the other, and tells its launcher through Dagster Pipes which run it
trains, what it made and, where it ends before its time, why. On several GPUs it becomes
``torchrun``, of which every rank is this module again; rank 0 speaks to Dagster. On a terminal the
command is ``stems train``. It imports no Dagster (two seconds), only ``dagster_pipes``.

How it is stopped: SIGINT or SIGTERM save a checkpoint and end it within ``STOP_WITHIN_S``. A
launcher that is killed cannot send them, but its end of a pipe closes: with ``UNTIL_EOF`` standard
input is read, and its end is a SIGINT. Ranks of ``torchrun`` inherit the pipe, and do the same.
"""

import argparse
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dagster_pipes import (
    PipesContext,
    PipesDefaultContextLoader,
    PipesEnvVarParamsLoader,
    open_dagster_pipes,
)

from ml.locks import LockedError
from ml.progress import set_up_logging
from ml.settings import load_settings

MODULE = "assets_def.train_process"
STOP_WITHIN_S = 20.0
"""How long a process that was asked to stop may take, before it is killed."""
UNTIL_EOF = "--until-eof"
REFUSED, STOPPED = 2, 3
"""Exit codes: it would end the same way again; it was asked to stop. All others are crashes."""
SAY_EVERY_S = 15.0
SAY_EVERY_SHARE = 0.01
"""Least time between two lines of progress in Dagster's log, and as a share of the time so far: a
training of days says something some hundred times."""
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_log = logging.getLogger("stems.train_process")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what Dagster asks for; returns the exit code."""
    accept_stop_signals()
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument(UNTIL_EOF, action="store_true", help="stop when standard input ends")
    args = parser.parse_args(arguments)
    if not PipesEnvVarParamsLoader().is_dagster_pipes_process():
        parser.error("found no Dagster that started it; train on a terminal with: stems train")
    if args.until_eof:
        stop_at_eof()
    request = _read_request()
    _log_to(Path(request["log"]))
    _become_torchrun(request["processes"], sys.argv[1:] if arguments is None else arguments)
    with open_dagster_pipes() if _is_rank_0() else contextlib.nullcontext() as pipes:
        if pipes is not None:
            logging.getLogger("stems.progress").addHandler(ProgressHandler(pipes.log.info))
        return train_or_say_why_not(request, pipes)


def train_or_say_why_not(request: Mapping[str, Any], pipes: PipesContext | None) -> int:
    """Train each preset; returns the exit code.

    Args:
        request: ``home``, ``overrides`` (of its settings), ``presets``, ``tags`` (for tracking).
        pipes: where to report; None in ranks that have nothing to report but trouble.
    """
    from ml.device import choose_device
    from ml.training.loop import NonFiniteLossError
    from ml.training.runs import run_options, train_preset
    from ml.training.tracking import RunTracker, mlflow_tracker

    def tell(message: Mapping[str, Any]) -> None:
        if pipes is not None:
            pipes.report_custom_message(message)

    def tracker(folder: Path, name: str) -> RunTracker:
        tell({"run": str(folder)})
        return mlflow_tracker(settings)(folder, name)

    try:
        settings = load_settings(Path(request["home"]), request["overrides"])
        device = choose_device("auto")
        for preset in request["presets"]:
            made = train_preset(
                preset,
                layout=settings.layout,
                device=device,
                tracker=tracker,
                tags=request["tags"],
                **run_options(settings.training, preset),
            )
            tell({"preset": preset, "made": asdict(made) | {"path": str(made.path)}})
    except KeyboardInterrupt as error:
        exit_code, sentence = STOPPED, str(error) or "stopped before its first step"
    except (ValueError, LockedError, FileNotFoundError, NonFiniteLossError) as error:
        exit_code, sentence = REFUSED, str(error)
        pipes = pipes or open_dagster_pipes()
    else:
        return 0
    _log.error(sentence)
    tell({"sentence": sentence})
    return exit_code


def accept_stop_signals() -> None:
    """Let SIGINT and SIGTERM raise ``KeyboardInterrupt``, also where they came as ignored."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.default_int_handler)


def stop_at_eof() -> None:
    """Send this process SIGINT when its standard input ends, and end it ``STOP_WITHIN_S`` later."""
    threading.Thread(target=_wait_for_eof, name="until-eof", daemon=True).start()


def _wait_for_eof() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass  # nothing is sent; whatever comes is not the end
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(STOP_WITHIN_S)
    os._exit(1)  # not sys.exit: that would end this thread alone


class ProgressHandler(logging.Handler):
    """Lines of progress for someone who wants ever fewer of them.

    Args:
        say: gets a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say, self._began_s = say, time.monotonic()
        self._said_s = self._began_s - SAY_EVERY_S

    def emit(self, record: logging.LogRecord) -> None:
        """Say a line, unless the last one was just said."""
        now_s = time.monotonic()
        pause_s = max(SAY_EVERY_S, SAY_EVERY_SHARE * (now_s - self._began_s))
        if now_s - self._said_s >= pause_s:
            self._said_s = now_s
            self._say(record.getMessage())


def _become_torchrun(processes: int, arguments: Sequence[str]) -> None:
    """Go on as ``torchrun`` where several processes should train, and this is none of them yet.

    Args:
        processes: how many; 0: as many as this machine has GPUs.
        arguments: of this process.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return
    processes = processes or _gpus()
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone"]
        command = [*torchrun, f"--nproc-per-node={processes}", "-m", MODULE, *arguments]
        os.execv(sys.executable, [sys.executable, *command])


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _read_request() -> Mapping[str, Any]:
    """Read the extras of the launch; every rank does, only rank 0 opens Pipes."""
    place = PipesEnvVarParamsLoader().load_context_params()
    with PipesDefaultContextLoader().load_context(place) as context:
        return context["extras"] or {}


def _log_to(path: Path) -> None:
    """Log to a file too, with the traceback of an end that nobody expected."""
    set_up_logging(logging.INFO if _is_rank_0() else logging.WARNING)
    file = path.open("a", buffering=1)
    handler = logging.StreamHandler(file)
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    logging.getLogger().addHandler(handler)
    faulthandler.enable(file)
    sys.excepthook = lambda *error: _log.critical("training crashed", exc_info=error)


def _is_rank_0() -> bool:
    return os.environ.get("RANK", "0") == "0"


if __name__ == "__main__":
    sys.exit(main())
