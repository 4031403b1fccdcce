"""``stems train sync``: give a tracking server what it missed while it was down."""

from __future__ import annotations

from pathlib import Path

from ml.artifacts import MANIFEST_NAME, ArtifactError
from ml.locks import lock
from ml.plain import flat
from ml.training.record import RECORD_NAME, read_record
from ml.training.run_description import read_run
from ml.training.tracking import MlflowTracker


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
            run_id = tracker.send(
                flat(config),
                tags,
                "FINISHED" if is_finished else "KILLED",
            )
        except (MlflowException, OSError) as error:
            raise ArtifactError(
                f"MLflow at {uri} did not take the record of {folder}: {error}; start it and run "
                "this again (nothing is lost, nothing is sent twice)"
            ) from None
    return run_id, len(read_record(folder / RECORD_NAME))
