"""Where metrics go: ``metrics.jsonl`` in the run folder is the record, MLflow gets a copy.

One daemon thread ships the record in batches; a tracking server that is slow or down never slows
training. What has been shipped is remembered beside the record, so that no step is sent twice.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ml.artifacts import read_json, write_json

RECORD_NAME = "metrics.jsonl"
SHIPPED_NAME = "mlflow.json"
_SHIP_EVERY_S = 5.0
_SHIPPING: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
_log = logging.getLogger(__name__)


RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


class RunTracker(Protocol):
    """What a run tells the outside world."""

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """The run begins or goes on.

        ``params`` is its whole configuration, flat; tag ``training_id`` names it.
        """
        ...

    def ship(self) -> None:
        """Lines were added to the record; must return at once."""
        ...

    def finish(self, status: RunStatus = "FINISHED") -> str | None:
        """The run ended, well or not; returns the tracking run's id if there is one."""
        ...


class NoTracker:
    """Tracks nothing; the record in the run folder is all there is."""

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Do nothing."""

    def ship(self) -> None:
        """Do nothing."""

    def finish(self, status: RunStatus = "FINISHED") -> str | None:  # noqa: ARG002
        """Do nothing."""
        return None


@dataclass(kw_only=True)
class MlflowTracker:
    """Ships a run folder's record to MLflow."""

    run_folder: Path
    """Holds ``metrics.jsonl`` and ``mlflow.json`` (run id, lines shipped, last step shipped)."""
    uri: str
    """Tracking URI."""
    experiment: str
    """Experiment name; made when missing."""
    run_name: str

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open the tracking run in the background; params and tags go there first."""
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(dict(params), dict(tags)), name="mlflow", daemon=True
        )
        self._thread.start()

    def ship(self) -> None:
        """Wake the shipping thread."""
        self._wake.set()

    def finish(self, status: RunStatus = "FINISHED") -> str | None:
        """Ship what is left and close the run; waits up to 60 s."""
        self._status: RunStatus = status
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=60)
        shipped = self.run_folder / SHIPPED_NAME
        return read_json(shipped)["run_id"] if shipped.is_file() else None

    def _run(self, params: dict[str, Any], tags: dict[str, str]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            with _SHIPPING[self.run_folder]:  # an earlier thread may still wait for a slow server
                client, run_id = self._open(params, tags)
                while not self._stop.is_set():
                    self._wake.wait(timeout=_SHIP_EVERY_S)
                    self._wake.clear()
                    self._ship_lines(client, run_id)
                    time.sleep(0.2)
                self._ship_lines(client, run_id)
                client.set_terminated(run_id, status=self._status)
        except (MlflowException, OSError) as error:
            record = self.run_folder / RECORD_NAME
            _log.warning(
                "MLflow at %s: %s; the record is in %s; send it later with: stems train sync %s",
                *(self.uri, error, record, self.run_name),
            )

    def send(self, params: Mapping[str, Any], tags: Mapping[str, str], status: RunStatus) -> str:
        """Send what the tracking server has not got of a run that is not training now.

        Returns:
            The tracking run's id.

        Raises:
            MlflowException: the server did not take it; nothing is lost, and nothing that it took
                is sent again.
        """
        with _SHIPPING[self.run_folder]:
            client, run_id = self._open(dict(params), dict(tags))
            self._ship_lines(client, run_id)
            client.set_terminated(run_id, status=status)
        return run_id

    def _open(self, params: dict[str, Any], tags: dict[str, str]) -> tuple[Any, str]:
        client = mlflow_client(self.uri)
        shipped = self.run_folder / SHIPPED_NAME
        if shipped.is_file():
            run_id = read_json(shipped)["run_id"]
            client.update_run(run_id, status="RUNNING")
            return client, run_id
        experiment_id = find_or_make_experiment(client, self.experiment)
        # A process killed right after creating the run has left one that nobody remembers.
        mine = f"tags.training_id = '{tags['training_id']}'"
        found = client.search_runs([experiment_id], filter_string=mine, max_results=1)
        run = (
            found[0]
            if found
            else client.create_run(experiment_id, tags=tags, run_name=self.run_name)
        )
        run_id = run.info.run_id
        write_json(shipped, {"run_id": run_id, "lines": 0, "through_step": 0})
        for name, value in params.items():
            client.log_param(run_id, name, value)
        return client, run_id

    def _ship_lines(self, client: Any, run_id: str) -> None:
        from mlflow.entities import Metric

        state = read_json(self.run_folder / SHIPPED_NAME)
        record = self.run_folder / RECORD_NAME
        lines = record.read_text().splitlines() if record.is_file() else []
        fresh = [json.loads(line) for line in lines[state["lines"] :]]
        metrics = [
            Metric(name, value, int(line["time"] * 1000), line["step"])
            for line in fresh
            if line["step"] > state["through_step"]
            for name, value in line["metrics"].items()
        ]
        for first in range(0, len(metrics), 1000):
            client.log_batch(run_id, metrics=metrics[first : first + 1000])
        if fresh:
            write_json(self.run_folder / SHIPPED_NAME, state | {"lines": len(lines)})


def mlflow_client(uri: str) -> Any:
    """An MLflow client that gives up on a dead server in seconds, not minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


def find_or_make_experiment(client: Any, name: str) -> str:
    """The id of an experiment; a local one keeps its artifacts beside its database."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    uri = client.tracking_uri
    location = None
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).parent / "artifacts").resolve().as_uri()
    return client.create_experiment(name, artifact_location=location)


class MetricsRecord:
    """``metrics.jsonl``: one line per logged step, ``{"step", "time", "metrics"}``."""

    def __init__(self, run_folder: Path, *, from_step: int) -> None:
        """Open for appending; lines after ``from_step`` (of a run that was killed) are dropped."""
        self.path = run_folder / RECORD_NAME
        lines = read_record(self.path)
        kept = [line for line in lines if line["step"] <= from_step]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        shipped = run_folder / SHIPPED_NAME
        if shipped.is_file() and (state := read_json(shipped))["lines"] > len(kept):
            # What was shipped of the dropped lines must not be sent again when it is recomputed.
            sent = [line["step"] for line in lines[: state["lines"]]]
            through = max([state["through_step"], *sent])
            write_json(shipped, state | {"lines": len(kept), "through_step": through})

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a line; it is on disk when this returns."""
        line = {"step": step, "time": time.time(), "metrics": dict(metrics)}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_record(path: Path) -> list[dict[str, Any]]:
    """The lines of a record; a half-written last line (the process was killed) is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested configuration as dotted names, for a tracker's parameters."""
    result: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
