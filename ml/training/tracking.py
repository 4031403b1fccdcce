"""Where metrics go: ``metrics.jsonl`` in the run folder is the record, MLflow gets a copy.

One daemon thread ships the record in batches; a tracking server that is slow or down never slows
training. What has been shipped is remembered beside the record, so that no step is sent twice.
``sync_run`` (``stems train sync``) gives a tracking server what it missed while it was down.

Beside its numbers a tracking run keeps checkpoint, config and loss plot; the shards that it is
trained on are its datasets (https://mlflow.org/docs/latest/ml/dataset/).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ml.artifacts import MANIFEST_NAME, ArtifactError, read_json, write_json
from ml.figures import loss_curves
from ml.locks import lock
from ml.mlflow_store import find_or_make_experiment, mlflow_client
from ml.plain import flat
from ml.shards.folders import ShardFolder
from ml.training.run_folder import (
    RECORD_NAME,
    RUN_NAME,
    SHIPPED_NAME,
    read_record,
    read_run,
    record_curves,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ml.settings import Settings

_JOIN_S, _ARTIFACTS_JOIN_S, _STOPPED_JOIN_S = 60, 300, 8
"""How long a finished training waits for a server that answers slowly; one that was stopped has
to be gone soon, and ``stems train sync`` catches up."""
_SHIP_EVERY_S = 5.0
_SHIPPING: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
_log = logging.getLogger(__name__)

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
CHECKPOINT = "checkpoint"
"""Folder of the model among the artifacts; complete when its manifest is there."""
_SOURCE = {"mlflow.source.name": "stems train", "mlflow.source.type": "LOCAL"}
"""What MLflow shows as the source of a run."""
_DIGEST_LENGTH = 36
"""More MLflow does not take."""
_SPLIT = "train_"
"""Before the names of counts of the split that is trained on, in a summary of shards."""


class RunTracker(Protocol):
    """What a run tells the outside world."""

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Begin the run, or go on with it.

        ``params`` is its whole configuration, flat; tag ``training_id`` names it.
        """
        ...

    def ship(self) -> None:
        """Take note of lines that were added to the record, and return at once."""
        ...

    def finish(self, status: RunStatus = "FINISHED") -> str | None:
        """End the run, well or not; returns the tracking run's id if there is one.

        ``RUNNING``: all steps are done, but its model is not written yet; called again then.
        """
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
    """Holds ``metrics.jsonl`` and ``mlflow.json``."""
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
        """Ship what is left and close the run; waits up to a minute, with artifacts up to five."""
        shipped = self.run_folder / SHIPPED_NAME
        if self._thread.is_alive():
            self._status = status
            self._stop.set()
            self._wake.set()
            self._thread.join(timeout=_STOPPED_JOIN_S if status == "KILLED" else _JOIN_S)
        elif status == "FINISHED" and shipped.is_file():
            self._thread = threading.Thread(
                target=self._close, args=(status,), name="mlflow", daemon=True
            )
            self._thread.start()
            self._thread.join(timeout=_ARTIFACTS_JOIN_S)
        if self._thread.is_alive() and status != "RUNNING":  # it is asked to end once more then
            self._warn("no end of sending in time")
        return read_json(shipped)["run_id"] if shipped.is_file() else None

    def _run(self, params: dict[str, Any], tags: dict[str, str]) -> None:
        with self._warning_of_trouble(), _SHIPPING[self.run_folder]:  # of an earlier thread's too
            client, run_id = self._open(params, tags)
            with _system_metrics(run_id, self.uri):
                while not self._stop.is_set():
                    self._wake.wait(timeout=_SHIP_EVERY_S)
                    self._wake.clear()
                    self._ship_lines(client, run_id)
                    time.sleep(0.2)
                self._ship_lines(client, run_id)
            if self._status != "RUNNING":
                client.set_terminated(run_id, status=self._status)

    def _close(self, status: RunStatus) -> None:
        with self._warning_of_trouble(), _SHIPPING[self.run_folder]:
            run_id = read_json(self.run_folder / SHIPPED_NAME)["run_id"]
            self._complete(mlflow_client(self.uri), run_id, status)

    @contextlib.contextmanager
    def _warning_of_trouble(self) -> Iterator[None]:
        """Turn the trouble of a server that is down into a warning that says what to do."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            self._warn(str(error))

    def _warn(self, trouble: str) -> None:
        _log.warning(
            "MLflow at %s: %s; the record is in %s; send it later with: stems train sync %s",
            *(self.uri, trouble, self.run_folder / RECORD_NAME, self.run_name),
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
            self._complete(client, run_id, status)
        return run_id

    def _complete(self, client: Any, run_id: str, status: RunStatus) -> None:
        """Send lines and artifacts that the server has not got, then close the run."""
        self._ship_lines(client, run_id)
        path = self.run_folder / SHIPPED_NAME
        state = read_json(path)
        if state.get("model_id") is None:
            sent = send_artifacts(client, run_id, self.run_folder)
            write_json(path, state | {"model_id": sent})
        client.set_terminated(run_id, status=status)

    def _open(self, params: dict[str, Any], tags: dict[str, str]) -> tuple[Any, str]:
        client = mlflow_client(self.uri)
        tags = {**_SOURCE, **tags, "mlflow.source.git.commit": tags.get("git_revision", "")}
        shipped = self.run_folder / SHIPPED_NAME
        if shipped.is_file():
            state = read_json(shipped)
            run_id = state["run_id"]
            client.update_run(run_id, status="RUNNING")
            for name, value in tags.items():  # a resumed run belongs to another run of Dagster
                client.set_tag(run_id, name, value)
            self._describe(client, state, params)
            return client, run_id
        experiment_id = find_or_make_experiment(client, self.experiment)
        # Nobody remembers it where a process was killed right after, or the folder was deleted.
        mine = f"tags.training_id = '{tags['training_id']}'"
        begun = client.search_runs([experiment_id], filter_string=mine, max_results=1)
        name = self.run_name
        run = begun[0] if begun else client.create_run(experiment_id, tags=tags, run_name=name)
        state = {"run_id": run.info.run_id, "experiment_id": experiment_id}
        state |= {"lines": 0, "through_step": _last_step(client, run)}
        write_json(shipped, state)
        self._describe(client, state, params)
        return client, run.info.run_id

    def _describe(self, client: Any, state: dict[str, Any], params: dict[str, Any]) -> None:
        """Send parameters and datasets, unless this was done."""
        if state.get("is_described"):
            return
        from mlflow.entities import Param

        listed = [Param(name, str(value)) for name, value in params.items()]
        for first in range(0, len(listed), 100):
            client.log_batch(state["run_id"], params=listed[first : first + 100])
        send_datasets(client, state["run_id"], self.run_folder)
        write_json(self.run_folder / SHIPPED_NAME, state | {"is_described": True})

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


def _last_step(client: Any, run: Any) -> int:
    """Find the last step whose loss a tracking run has; 0 where it has none."""
    losses = [name for name in run.data.metrics if name.endswith("/loss")]
    sent = (client.get_metric_history(run.info.run_id, name) for name in losses)
    return max((metric.step for history in sent for metric in history), default=0)


@contextlib.contextmanager
def _system_metrics(run_id: str, uri: str) -> Iterator[None]:
    """Let MLflow note load, memory, disk and network of this machine (``system/…``), every 10 s.

    Of GPUs where ``nvidia-ml-py`` is installed. They are not in the record: what a server missed
    while it was down is not sent later.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def mlflow_tracker(settings: Settings) -> Callable[[Path, str], MlflowTracker]:
    """Return what makes a run's tracker from its folder and name, by a home's settings."""
    return lambda folder, name: MlflowTracker(
        run_folder=folder,
        uri=settings.tracking_uri,
        experiment=settings.tracking.experiment,
        run_name=name,
    )


def sync_run(folder: Path, *, uri: str, experiment: str) -> tuple[str, int]:
    """Send the record of a run that is not training now.

    Args:
        folder: ``runs/<run>``.
        uri: MLflow's tracking URI.
        experiment: its experiment's name.

    Returns:
        The tracking run's id, and how many lines of the record it has now.

    Raises:
        ArtifactError: there is no such run, or the server did not take its record.
        LockedError: it is training now; its own thread ships.
    """
    described = read_run(folder)
    from mlflow.exceptions import MlflowException

    config = described["identity"]["config"]
    phase = "contrastive" if config["model"]["predictor"] is None else "jepa"
    tags = {"phase": phase, "training_id": folder.name, **described.get("tags", {})}
    is_finished = (folder / "model" / MANIFEST_NAME).is_file()
    tracker = MlflowTracker(run_folder=folder, uri=uri, experiment=experiment, run_name=folder.name)
    with lock(folder / ".lock"):
        try:
            run_id = tracker.send(flat(config), tags, "FINISHED" if is_finished else "KILLED")
        except (MlflowException, OSError) as error:
            raise ArtifactError(
                f"MLflow at {uri} did not take the record of {folder}: {error}; start it and run "
                "this again (nothing is lost, nothing is sent twice)"
            ) from None
    return run_id, len(read_record(folder / RECORD_NAME))


def send_artifacts(client: Any, run_id: str, run_folder: Path) -> str | None:
    """Upload what a finished run has made; nothing while there is no model.

    Args:
        client: of MLflow.
        run_id: the tracking run.
        run_folder: with ``model`` and ``metrics.jsonl``.

    Returns:
        The id of the model that is there now.

    Raises:
        MlflowException: the server did not take it.
    """
    model = run_folder / "model"
    if not (model / MANIFEST_NAME).is_file():
        return None
    manifest = read_json(model / MANIFEST_NAME)
    client.log_artifact(run_id, str(model / "config.json"))
    if (figure := loss_plot(run_folder, manifest["name"], manifest["phase"])) is not None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "loss.png"
            figure.savefig(path, dpi=200)
            client.log_artifact(run_id, str(path))
    send_folder(client, run_id, model, last=MANIFEST_NAME)  # as on disk
    return manifest["model_id"]


def send_folder(client: Any, run_id: str, folder: Path, last: str) -> None:
    """Upload the files of a folder into that of the model, one of them last."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == last):
        client.log_artifact(run_id, str(path), CHECKPOINT)


def loss_plot(run_folder: Path, name: str, phase: str) -> Figure | None:
    """Plot the loss over the steps of a run, on training and valid split.

    Args:
        run_folder: with ``metrics.jsonl``.
        name: of the model.
        phase: ``contrastive`` or ``jepa``.

    Returns:
        None without ``matplotlib`` (a bare GPU box), or without finite losses.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return None
    curves = record_curves(name, read_record(run_folder / RECORD_NAME)).get(f"{phase}/loss")
    return loss_curves(curves, label="loss") if curves else None


def describe_datasets(
    folders: Sequence[ShardFolder], fingerprints: Sequence[str]
) -> list[dict[str, Any]]:
    """Describe the shards of a run for ``run.json``.

    Args:
        folders: of shards, one a corpus.
        fingerprints: of what their training split holds.

    Returns:
        Of each corpus ``name``, ``fingerprint``, ``manifest`` (path or URL) and ``profile``: counts
        and hours of the split.
    """
    return [
        {
            "name": folder.name,
            "fingerprint": fingerprint,
            "manifest": folder.where(MANIFEST_NAME),
            "profile": {
                name.removeprefix(_SPLIT): value
                for name, value in folder.manifest()["summary"].items()
                if name.startswith(_SPLIT)
            },
        }
        for folder, fingerprint in zip(folders, fingerprints, strict=True)
    ]


def send_datasets(client: Any, run_id: str, run_folder: Path) -> None:
    """Log the datasets of a run folder; once more changes nothing.

    Args:
        client: of MLflow.
        run_id: the tracking run.
        run_folder: with ``run.json``; one that was begun before runs told of their datasets has
            none.

    Raises:
        MlflowException: the server did not take them.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    path = run_folder / RUN_NAME
    described = read_json(path).get("datasets", []) if path.is_file() else []
    inputs = [
        DatasetInput(
            Dataset(
                name=shards["name"],
                digest=shards["fingerprint"][:_DIGEST_LENGTH],
                source_type="s3" if shards["manifest"].startswith("s3://") else "local",
                source=json.dumps({"uri": shards["manifest"]}),
                profile=json.dumps(shards["profile"]),
            ),
            tags=[InputTag("mlflow.data.context", "training")],
        )
        for shards in described
    ]
    if inputs:
        client.log_inputs(run_id, inputs)
