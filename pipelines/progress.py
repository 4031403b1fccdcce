"""What people see while assets are made in a terminal: which one is running, and how it ended.

Longer pieces of work inside an asset show their own bar (``ml.progress``).
"""

import logging
import time
from collections.abc import Sequence

import dagster as dg

from pipelines.failures import failure_text

_log = logging.getLogger("stems.progress")


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
