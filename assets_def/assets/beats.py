"""Beat tracking from frozen encoders: features by corpus, then probes and scores (Table II).

Probes and scores are not partitioned: probes are trained on several corpora at once.
``pipelines.build`` narrows their dependency on ``beat_features`` to the corpora of ``beats``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets_def.assets.corpus import corpus_tracks
from assets_def.assets.training import contrastive_encoder, stem_jepa
from assets_def.resources import StemsHome, corpora
from assets_def.results import artifact_asset, join_artifacts, materialized
from ml import kinds
from ml.artifacts import Artifact
from ml.scores import files as score_files

if TYPE_CHECKING:
    from ml.beats.features import BeatInput
    from ml.corpora.readers.beats import BeatSet


@artifact_asset(
    kinds.BEAT_FEATURES,
    group_name="beats",
    kinds={"pytorch"},
    partitions_def=corpora,
    deps=[corpus_tracks, contrastive_encoder, stem_jepa],
    pool="gpu",
)
def beat_features(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Patches of every frozen encoder and the log-mel, one row a step of 160 ms.

    Of the corpora in ``beats.corpora`` and ``beats.heldout``. Partitions of others stay missing:
    nothing needs them.
    """
    from ml.beats.feature_files import build_beat_features

    name = context.partition_key
    _beats_of(home, [name])  # a corpus without beats is refused before hours of encoding
    inputs = _inputs(home)
    made = build_beat_features(name, inputs, home.layout)
    counts = {key: made[0].summary[key] for key in ("tracks", "steps", "hours")}
    artifacts = {source.name: artifact for source, artifact in zip(inputs, made, strict=True)}
    return materialized(
        join_artifacts(home.layout.beats / "features", artifacts, models=len(made), **counts),
        rows=counts["steps"],
    )


@artifact_asset(
    kinds.BEAT_PROBES,
    group_name="beats",
    kinds={"pytorch"},
    deps=[dg.AssetDep(beat_features, partition_mapping=dg.AllPartitionMapping())],
)
def beat_probe(home: StemsHome) -> dg.MaterializeResult:
    """Eight linear probes on each encoder's features of the corpora in ``beats.corpora``."""
    from ml.beats.probe import ProbeConfig
    from ml.beats.probes import build_beat_probes

    settings = home.settings()
    sets = _beats_of(home, settings.beat_corpora())
    config = ProbeConfig(seed=settings.beats.seed)
    made = {
        source.name: build_beat_probes(source, sets, home.layout, config)
        for source in _inputs(home)
    }
    return materialized(
        join_artifacts(home.layout.beats / "probes", made),
        rows=len(made),
        metadata=_described(made),
    )


@artifact_asset(
    kinds.SCORES,
    group_name="beats",
    kinds={"numpy", "parquet"},
    deps=[
        beat_probe,
        dg.AssetDep(beat_features, partition_mapping=dg.AllPartitionMapping()),
    ],
)
def beat_scores(home: StemsHome) -> dg.MaterializeResult:
    """F-measure, CMLt, AMLt and frame-wise precision of each probe and of what needs none."""
    from ml.beats.experiment import EVALUATION, build_beat_scores

    settings = home.settings()
    settings.beat_corpora()
    inputs = _inputs(home)
    made = {
        name: build_beat_scores(
            name,
            beats,
            inputs,
            settings.layout,
            resamples=settings.evaluation.bootstrap_resamples,
            seed=settings.evaluation.seed,
        )
        for name, beats in _beats_of(home, settings.beats.scored).items()
    }
    first = next(iter(made.values()))
    return materialized(
        join_artifacts(first.path.parent, made),
        rows=len(score_files.read_scores(settings.layout, evaluation=EVALUATION)),
        table=first.path / score_files.SCORES,
        metadata=_described(made),
    )


def _inputs(home: StemsHome) -> "list[BeatInput]":
    from ml.beats.features import beat_inputs
    from ml.device import choose_device

    chosen = home.settings().beats
    return beat_inputs(home.layout, chosen.models, chosen.layers, str(choose_device("auto")))


def _beats_of(home: StemsHome, names: Sequence[str]) -> "dict[str, BeatSet]":
    from ml.beats.beat_sets import open_beat_set

    chosen = {name: home.settings().corpus(name) for name in names}
    return {name: open_beat_set(name, c.kind, c.root, c.options) for name, c in chosen.items()}


def _described(made: dict[str, Artifact]) -> dict[str, Any]:
    return {
        f"{name}/{key}": value
        for name, artifact in made.items()
        for key, value in artifact.summary.items()
        if value is not None
    }
