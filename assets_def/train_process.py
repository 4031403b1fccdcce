"""The process that trains for an asset: ``python -m assets_def.train_process``, started by Dagster.

It trains presets one after the other and reports each model, or why there is none, through Dagster
Pipes. On several GPUs it becomes ``torchrun``, of which every rank is this module again; rank 0
speaks to Dagster. On a terminal the command is ``stems train``.

It imports no Dagster (two seconds), only ``dagster_pipes``.

[train_progress] How far a training is, as lines of Dagster's log, while it trains.
"""

import argparse
import contextlib
import faulthandler
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster_pipes import (
    PipesContext,
    PipesDefaultContextLoader,
    PipesEnvVarParamsLoader,
    open_dagster_pipes,
)

from assets_def.stopping import UNTIL_EOF, accept_stop_signals, stop_at_eof
from ml.artifacts import Artifact
from ml.locks import LockedError
from ml.progress import set_up_logging
from ml.settings import Settings, load_settings
from ml.training.run_folder import RECORD_NAME
from ml.training.tracking import RunStatus, RunTracker

MODULE = "assets_def.train_process"


REFUSED, STOPPED = 2, 3
"""Exit codes: it would end the same way again; it was asked to stop. All others are crashes."""


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
        return train_or_say_why_not(request, pipes)


def train_or_say_why_not(request: Mapping[str, Any], pipes: PipesContext | None) -> int:
    """Train each preset; returns the exit code.

    Args:
        request: ``home``, ``overrides`` (of its settings), ``presets``, ``tags`` (for tracking).
        pipes: where to report; None in ranks that have nothing to report but trouble.
    """
    try:
        settings = load_settings(Path(request["home"]), request["overrides"])
        for preset in request["presets"]:
            _train(preset, settings, request["tags"], pipes)
    except KeyboardInterrupt as error:
        return _end(pipes, STOPPED, "stopped", str(error) or "stopped before its first step")
    except (ValueError, LockedError, FileNotFoundError) as error:
        return _end(pipes or open_dagster_pipes(), REFUSED, "refused", str(error))
    return 0


def _end(pipes: PipesContext | None, exit_code: int, kind: str, sentence: str) -> int:
    _log.error(sentence)
    if pipes is not None:
        pipes.report_custom_message({"kind": kind, "sentence": sentence})
    return exit_code


class _HopelessError(ValueError):
    """Training again would fail again."""


def _train(
    preset: str, settings: Settings, tags: Mapping[str, str], pipes: PipesContext | None
) -> None:
    from ml.device import choose_device
    from ml.training.loop import NonFiniteLossError
    from ml.training.tracking import RunTracker, mlflow_tracker

    def tracker(folder: Path, name: str) -> RunTracker:
        mlflow = mlflow_tracker(settings)(folder, name)
        if pipes is None:
            return mlflow
        pipes.report_custom_message({"kind": "run", "folder": str(folder)})
        return ProgressTracker(mlflow, folder, pipes.log.info)

    try:
        artifact = train_as_set(
            preset, settings, device=choose_device("auto"), tracker=tracker, tags=tags
        )
    except NonFiniteLossError as error:
        raise _HopelessError(str(error)) from error
    if pipes is not None:
        pipes.report_custom_message(
            {
                "kind": "model",
                "preset": preset,
                "path": str(artifact.path),
                "fingerprint": artifact.fingerprint,
                "reused": artifact.reused,
                "summary": dict(artifact.summary),
            }
        )


def train_as_set(preset: str, settings: Settings, **more: Any) -> Artifact:
    """``train_preset`` as the settings say; Dagster asks with it what is trained, and trains.

    Args:
        preset: which.
        settings: of the home.
        more: further arguments, which do not decide the weights.
    """
    from ml.training.runs import train_preset

    training = settings.training
    return train_preset(
        preset,
        layout=settings.layout,
        corpora=training.corpora,
        size=training.size,
        seed=training.seed,
        overrides=training.overrides,
        **more,
    )


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
    """The extras of the launch; every rank reads them, only rank 0 opens Pipes."""
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


SAY_EVERY_S = 15.0


SAY_EVERY_SHARE = 0.01
"""A training of days says something a hundred times, not every 15 s."""


_TAIL_BYTES = 16_384
"""Holds the last lines of a record: one has about a kilobyte."""


class ProgressTracker:
    """Does what another tracker does, and says how far the run is.

    Args:
        tracker: the other one.
        folder: of the run.
        say: gets a line when it begins, then at most every ``SAY_EVERY_S`` and
            ``SAY_EVERY_SHARE`` of the steps, and one for the last step.
    """

    def __init__(self, tracker: RunTracker, folder: Path, say: Callable[[str], None]) -> None:
        self._tracker, self._record, self._say = tracker, folder / RECORD_NAME, say
        self._steps = self._said_step = 0
        self._said_s = time.monotonic()

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """The run begins or goes on."""
        self._steps = params["steps"]
        done = (last_line(self._record) or {"step": 0})["step"]
        self._said_step = done
        begun = f"goes on after step {done}" if done else "begins"
        self._say(f"{self._record.parent.name}: training {begun}, {self._steps} steps in all")
        self._tracker.start(params, tags)

    def ship(self) -> None:
        """Lines were added to the record."""
        self._tracker.ship()
        line = last_line(self._record)
        if line is not None and self._is_due(line["step"]):
            self._said_step, self._said_s = line["step"], time.monotonic()
            self._say(f"{self._record.parent.name}: {progress_text(line, self._steps)}")

    def finish(self, status: RunStatus = "FINISHED") -> str | None:
        """The run ended, well or not."""
        return self._tracker.finish(status)

    def _is_due(self, step: int) -> bool:
        if step == self._steps:
            return step != self._said_step
        is_far = step - self._said_step >= SAY_EVERY_SHARE * self._steps
        return is_far and time.monotonic() - self._said_s >= SAY_EVERY_S


def last_line(record: Path) -> dict[str, Any] | None:
    """The last line of ``metrics.jsonl`` that a training step wrote; None: there is none."""
    if not record.is_file():
        return None
    with record.open("rb") as file:
        file.seek(max(0, record.stat().st_size - _TAIL_BYTES))
        texts = file.read().splitlines()
    for text in reversed(texts):
        try:
            line = json.loads(text)
        except ValueError:  # half a line: the first of the tail, or the last of a killed process
            continue
        if "speed/steps_per_s" in line["metrics"]:
            return line
    return None


def progress_text(line: Mapping[str, Any], steps: int) -> str:
    """Step, share, loss, speed and time left of a line of the record."""
    step, metrics = line["step"], line["metrics"]
    losses = [value for name, value in metrics.items() if name.endswith("/loss")]
    per_s = metrics["speed/steps_per_s"]
    said = [f"step {step} of {steps} ({step / steps:.0%})"]
    said += [f"loss {loss:.4g}" for loss in losses]
    said += [f"{per_s:.3g} steps/s"]
    if per_s > 0 and step < steps:
        said += [f"{duration_text((steps - step) / per_s)} left"]
    return ", ".join(said)


def duration_text(seconds: float) -> str:
    """As ``3 d 4 h``, ``2 h 5 min``, ``3 min`` or ``40 s``."""
    minutes = round(seconds / 60)
    if minutes >= 24 * 60:
        return f"{minutes // 1440} d {minutes % 1440 // 60} h"
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes >= 2 else f"{seconds:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
