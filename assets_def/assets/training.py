"""The two phases of training, on the shards of all corpora in ``training.corpora``.

Not partitioned: a model is trained on several corpora at once. ``pipelines.build`` narrows the
dependency on ``stem_shards`` to these corpora; corpora that are only evaluated never need shards.
Training happens in a process of its own (``assets_def.launch``).
"""

from typing import Any

import dagster as dg
from pydantic import Field

from assets_def.assets.corpus import stem_shards
from assets_def.launch import train_models
from assets_def.resources import StemsHome
from assets_def.results import artifact_asset, join_artifacts, materialized, mlflow_run
from ml import kinds
from ml.settings import Settings


class TrainConfig(dg.Config):
    """What the launchpad may change about a training; what is left out comes from the settings."""

    size: str | None = Field(default=None, description="tiny, small or paper")
    seed: int | None = Field(default=None, description="of initialisation and data order")
    steps: int | None = Field(default=None, description="optimiser steps of each phase")
    overrides: dict[str, Any] = Field(
        default={}, description="by dotted field: {'optimizer.learning_rate': 3e-4}"
    )

    phase_1: str | None = Field(
        default=None,
        description="model that phase 2 starts from, as contrastive (of this home, however it was "
        "trained); left out: the phase 1 that the same options train",
    )

    def settings(self, home: StemsHome) -> Settings:
        """Give the settings with what was chosen here; a wrong value is an error that names it."""
        chosen = {"size": self.size, "seed": self.seed, "phase_1": self.phase_1}
        steps = {} if self.steps is None else {"steps": self.steps}
        return home.settings(
            **{key: value for key, value in chosen.items() if value is not None},
            overrides={**home.settings().training.overrides, **self.overrides, **steps},
        )


@artifact_asset(
    kinds.MODEL,
    group_name="training",
    kinds={"pytorch", "mlflow"},
    deps=[dg.AssetDep(stem_shards, partition_mapping=dg.AllPartitionMapping())],
    pool="gpu",
)
def contrastive_encoder(
    context: dg.AssetExecutionContext, config: TrainConfig, home: StemsHome
) -> dg.MaterializeResult:
    """Phase 1: the encoder, by NT-Xent on pairs of mix and missing stem (and the untrained one)."""
    settings = config.settings(home)
    artifact = train_models(["contrastive"], settings, home, context)["contrastive"]
    return materialized(artifact, metadata=mlflow_run(artifact.path, settings.tracking_uri))


@artifact_asset(
    kinds.MODEL,
    group_name="training",
    kinds={"pytorch", "mlflow"},
    deps=[
        contrastive_encoder,
        dg.AssetDep(stem_shards, partition_mapping=dg.AllPartitionMapping()),
    ],
    pool="gpu",
)
def stem_jepa(
    context: dg.AssetExecutionContext, config: TrainConfig, home: StemsHome
) -> dg.MaterializeResult:
    """Phase 2: one model for each of ``training.presets``, all from the same phase 1."""
    settings = config.settings(home)
    models = train_models(settings.training.presets, settings, home, context)
    metadata: dict[str, Any] = {}
    for name, artifact in models.items():
        described = {**artifact.summary, **mlflow_run(artifact.path, settings.tracking_uri)}
        metadata |= {f"{name}/{key}": value for key, value in described.items()}
    artifact = join_artifacts(settings.layout.runs, models)
    return materialized(artifact, rows=len(models), metadata=metadata)
