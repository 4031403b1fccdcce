"""The sections of ``config.yaml``, each with its defaults.

What the values mean to users is told in ``pipelines/config.yaml``, the template of that file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ml.corpora.corpus import Kind

if TYPE_CHECKING:
    from ml.shards.plan import ShardConfig


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusSettings(_Section):
    """One corpus: where it lies and how it is laid out."""

    kind: Kind
    root: Path
    options: dict[str, Any] = Field(default_factory=dict)


class LabelEncoderSettings(_Section):
    """What turns an instrument in words into a condition.

    Paths are of CLAP; empty: what ``stems labels fetch`` puts under ``models/clap``.
    """

    name: Literal["minilm", "clap"] = "minilm"
    checkpoint: Path | None = None
    tokenizer: Path | None = None


class ActivitySettings(_Section):
    """When a stem sounds, for what is stored: the fields of ``ml.audio.activity``."""

    frame_s: float = Field(default=0.05, gt=0)
    on_db: float = -50.0
    off_db: float = -60.0
    min_active_s: float = Field(default=0.1, ge=0)
    min_silence_s: float = Field(default=0.3, ge=0)


class ShardSettings(_Section):
    """How training audio is stored, and where training reads it (empty: where it is built)."""

    segment_s: float = Field(default=16.0, ge=4, le=120)
    payload: Literal["flac", "pcm16"] = "flac"
    activity: ActivitySettings = ActivitySettings()
    uri: str | None = Field(default=None, min_length=1)
    cache_gb: float = Field(default=50.0, gt=0)

    def config(self) -> ShardConfig:
        """What a build of shards takes.

        Raises:
            ValueError: values that do not go together; names them.
        """
        from ml.audio.activity import ActivityConfig
        from ml.shards.plan import ShardConfig

        activity = ActivityConfig(**self.activity.model_dump())
        return ShardConfig(segment_s=self.segment_s, payload=self.payload, activity=activity)


class ComputeSettings(_Section):
    """Who makes shards and embeddings: a Dask cluster, or (empty) processes of this machine."""

    dask_scheduler: str | None = Field(default=None, min_length=1)


class TrainingSettings(_Section):
    """What is trained on what."""

    corpora: tuple[str, ...] = ("demo",)
    presets: tuple[str, ...] = ("film-nce", "film")
    size: Literal["tiny", "small", "paper"] = "tiny"
    seed: int = Field(default=0, ge=0)
    processes: int = Field(default=0, ge=0)
    overrides: dict[str, Any] = Field(default_factory=dict)


class EvaluationSettings(_Section):
    """How scores are computed."""

    protocols: tuple[Literal["default", "predecessor"], ...] = Field(
        default=("default",), min_length=1
    )
    bootstrap_resamples: int = Field(default=1000, ge=100)
    seed: int = Field(default=0, ge=0)


class BeatSettings(_Section):
    """What beat probes are trained and scored on; without corpora there are none."""

    corpora: tuple[str, ...] = ("demo",)
    heldout: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    layers: tuple[int, ...] = Field(default=(-2, -1), min_length=1)
    seed: int = Field(default=0, ge=0)

    @property
    def scored(self) -> tuple[str, ...]:
        """All corpora whose beats are tracked, those that probes are trained on first."""
        return tuple(dict.fromkeys((*self.corpora, *self.heldout)))

    @model_validator(mode="after")
    def _check_corpora(self) -> BeatSettings:
        if self.heldout and not self.corpora:
            raise ValueError("heldout needs probes: name corpora that these are trained on")
        return self


class LanceDbSettings(_Section):
    """Where the tables that queries search lie; empty: under ``STEMS_HOME/lancedb``."""

    uri: str | None = Field(default=None, min_length=1)


class PromotionSettings(_Section):
    """When a model becomes the one that queries use: ``ml.retrieval.promotion``."""

    corpora: tuple[str, ...] = ()
    metric: Literal["recall@1", "recall@5", "recall@10", "normalized_rank_mean"] = "recall@10"
    conditioning: Literal["fine", "coarse", "none"] = "fine"
    tolerance: float = Field(default=1.0, ge=0)
    gallery: tuple[str, ...] = ()
    registered_model: str = Field(default="stem-jepa", min_length=1)


class AutomationSettings(_Section):
    """When everything is made anew without anybody asking; both ways are off at first."""

    cron: str = "0 2 * * 6"
    timezone: str = "UTC"
    min_new_hours: float = Field(default=1.0, ge=0)


class TrackingSettings(_Section):
    """Where MLflow keeps its records; empty: a database under ``STEMS_HOME/mlflow``."""

    uri: str | None = None
    experiment: str = "stems"


class DemoSettings(_Section):
    """The synthetic corpus that ``make demo`` builds."""

    seed: int = Field(default=0, ge=0)
    train_songs: int = Field(default=400, ge=2)
    heldout_songs: int = Field(default=60, ge=2)


def demo_corpora() -> dict[str, CorpusSettings]:
    """The corpora of a home that nobody has configured."""
    return {
        name: CorpusSettings(kind="demo", root=Path("corpora") / name)
        for name in ("demo", "demo-plain", "demo-swapped")
    }
