"""The two phases of training, on the shards of all corpora in ``training.corpora``.

Not partitioned: a model is trained on several corpora at once. ``pipelines.build`` narrows the
dependency on ``stem_shards`` to these corpora; corpora that are only evaluated never need shards.
"""

from typing import Any

import dagster as dg
from pydantic import Field

from assets_def.assets.corpus import stem_shards
from assets_def.resources import StemsHome
from assets_def.results import materialized, mlflow_run, together
from ml.artifacts import Artifact
from ml.settings import Settings

CHECKPOINT_FORMAT = "1"
"""``ml.models.stem_jepa.FORMAT_VERSION``, not imported: torch is slow to load (a test compares)."""


class TrainConfig(dg.Config):
    """What the launchpad may change about a training; what is left out comes from the settings."""

    size: str | None = Field(default=None, description="tiny, small or paper")
    seed: int | None = Field(default=None, description="of initialisation and data order")
    steps: int | None = Field(default=None, description="optimiser steps of each phase")
    overrides: dict[str, Any] = Field(
        default={}, description="by dotted field: {'optimizer.learning_rate': 3e-4}"
    )

    def settings(self, home: StemsHome) -> Settings:
        """The settings with what was chosen here; a wrong value is an error that names it."""
        chosen = {"size": self.size, "seed": self.seed}
        steps = {} if self.steps is None else {"steps": self.steps}
        return home.settings(
            **{key: value for key, value in chosen.items() if value is not None},
            overrides={**home.settings().training.overrides, **self.overrides, **steps},
        )


@dg.asset(
    group_name="training",
    kinds={"pytorch", "mlflow"},
    owners=["team:music-ml"],
    deps=[dg.AssetDep(stem_shards, partition_mapping=dg.AllPartitionMapping())],
    pool="gpu",
    code_version=CHECKPOINT_FORMAT,
)
def contrastive_encoder(
    context: dg.AssetExecutionContext, config: TrainConfig, home: StemsHome
) -> dg.MaterializeResult:
    """Phase 1: the encoder, by NT-Xent on pairs of mix and missing stem (and the untrained one)."""
    artifact = _train("contrastive", context, config, home)
    return materialized(artifact, metadata=mlflow_run(artifact.path, home.settings().tracking_uri))


@dg.asset(
    group_name="training",
    kinds={"pytorch", "mlflow"},
    owners=["team:music-ml"],
    deps=[
        contrastive_encoder,
        dg.AssetDep(stem_shards, partition_mapping=dg.AllPartitionMapping()),
    ],
    pool="gpu",
    code_version=CHECKPOINT_FORMAT,
)
def stem_jepa(
    context: dg.AssetExecutionContext, config: TrainConfig, home: StemsHome
) -> dg.MaterializeResult:
    """Phase 2: one model for each of ``training.presets``, all from the same phase 1."""
    settings = home.settings()
    models = {name: _train(name, context, config, home) for name in settings.training.presets}
    metadata: dict[str, Any] = {}
    for name, artifact in models.items():
        described = {**artifact.summary, **mlflow_run(artifact.path, settings.tracking_uri)}
        metadata |= {f"{name}/{key}": value for key, value in described.items()}
    artifact = together(settings.layout.runs, models)
    return materialized(artifact, rows=len(models), metadata=metadata)


def _train(
    preset: str, context: dg.AssetExecutionContext, config: TrainConfig, home: StemsHome
) -> Artifact:
    from ml.device import choose_device
    from ml.training.runs import train_preset

    training = config.settings(home).training
    return train_preset(
        preset,
        layout=home.layout,
        corpora=training.corpora,
        size=training.size,
        seed=training.seed,
        overrides=training.overrides,
        device=choose_device("auto"),
        tracker=home.tracker(),
        tags={"dagster_run_id": context.run.run_id},
    )
