"""What a terminal runs one after the other: some assets of one job, for one corpus or none.

A person asks for steps (``pipelines.demo``, ``pipelines.run``) and sees them to their end; what
follows without anybody asking is in ``pipelines.automation``.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ml.settings import Settings
from pipelines.jobs import ASSETS


@dataclass(frozen=True, kw_only=True)
class Step:
    """One Dagster run."""

    job: str
    """Name of the job."""
    assets: tuple[str, ...] = ()
    """Which of its assets; empty: all."""
    partition: str | None = None
    """The corpus; None for assets that are not partitioned."""
    needs: tuple[str, ...] = ()
    """Names of earlier steps without which this one makes no sense."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "assets", self.assets or ASSETS[self.job])

    @property
    def name(self) -> str:
        """What messages call it, and ``needs`` of other steps."""
        return self.job if self.partition is None else f"{self.job} {self.partition}"


def prepare_steps(names: Iterable[str], *, trained_on: Iterable[str]) -> list[Step]:
    """Scan corpora and encode their labels; make shards of those that are trained on."""
    shards = set(trained_on)
    prepared = ASSETS["prepare_corpus"]
    scanned = tuple(asset for asset in prepared if asset != "stem_shards")
    return [
        Step(job="prepare_corpus", assets=prepared if name in shards else scanned, partition=name)
        for name in names
    ]


def train_step(trained_on: Iterable[str]) -> Step:
    """Train both phases, on corpora that are prepared before."""
    return Step(job="train_model", needs=tuple(f"prepare_corpus {name}" for name in trained_on))


def evaluate_step(name: str, *, needs: tuple[str, ...] = (), assets: tuple[str, ...] = ()) -> Step:
    """Embed a corpus that was prepared, score retrieval on it, and by instrument."""
    return Step(job="evaluate_retrieval", assets=assets, partition=name, needs=needs)


def beat_steps(settings: Settings, *, needs: tuple[str, ...]) -> list[Step]:
    """Make features of the corpora of ``beats``, train probes on them, and score; none without."""
    if not settings.beats.corpora:
        return []
    features = [
        Step(job="prepare_beats", partition=name, needs=needs) for name in settings.beats.scored
    ]
    return [*features, Step(job="evaluate_beats", needs=tuple(step.name for step in features))]
