"""How well stems are found, what was found instead, and the page that says so."""

import dagster as dg

from assets_def.assets.beats import beat_scores
from assets_def.assets.embeddings import stem_embeddings
from assets_def.assets.training import contrastive_encoder, stem_jepa
from assets_def.resources import StemsHome, corpora
from assets_def.results import join_artifacts, materialized
from ml import kinds
from ml.scores import files as score_files


@dg.asset(
    group_name="evaluation",
    kinds={"numpy", "parquet"},
    owners=["team:music-ml"],
    partitions_def=corpora,
    deps=[stem_embeddings],
    code_version=str(kinds.SCORES.format_version),
)
def retrieval_scores(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Recall and normalised rank of each model (Table I), with chance and intervals."""
    from assets_def.score_table import evaluation_metadata
    from ml.corpora.label_embeddings import read_label_vectors
    from ml.device import choose_device
    from ml.labels.clap_files import clap_files_of
    from ml.retrieval.embeddings.baselines import load_models
    from ml.retrieval.evaluation.evaluate import EvaluationConfig, evaluate_by_protocol

    settings, name = home.settings(), context.partition_key
    layout, chosen = settings.layout, settings.evaluation
    config = EvaluationConfig(
        resamples=chosen.bootstrap_resamples, seed=chosen.seed, device=str(choose_device("auto"))
    )
    models = load_models(layout, clap=clap_files_of(settings))
    vectors = read_label_vectors(layout, name)
    made = {
        protocol: evaluate_by_protocol(
            name,
            models,
            layout,
            vectors,
            protocol=protocol,
            config=config,
            tracking_uri=settings.tracking_uri,
        )
        for protocol in chosen.protocols
    }
    rows = [row for _, scores in made.values() for row in scores]
    first, *others = [artifact for artifact, _ in made.values()]
    artifacts = {protocol: artifact for protocol, (artifact, _) in made.items()}
    return materialized(
        join_artifacts(first.path, artifacts, **first.summary) if others else first,
        rows=len(rows),
        table=first.path / score_files.SCORES,
        metadata=evaluation_metadata(rows, settings.corpus(name).kind),
    )


@dg.asset(
    group_name="evaluation",
    kinds={"numpy", "parquet"},
    owners=["team:music-ml"],
    partitions_def=corpora,
    deps=[retrieval_scores],
    code_version=str(kinds.SCORES.format_version),
)
def instrument_scores(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Shares of right stem, track, instrument and category (Fig. 2); recall of unknown labels."""
    from assets_def.score_table import instrument_metadata
    from ml.labels.encoders import label_encoder_of
    from ml.reports.instruments import track_instruments
    from ml.retrieval.evaluation.instruments import (
        INSTRUMENTS,
        evaluate_instruments,
        read_instruments,
    )

    settings, name = home.settings(), context.partition_key
    layout, chosen = settings.layout, settings.evaluation
    artifact = evaluate_instruments(
        name,
        layout,
        label_encoder_of(settings),
        resamples=chosen.bootstrap_resamples,
        seed=chosen.seed,
    )
    track_instruments(layout, name, artifact, settings.tracking_uri)
    rows = read_instruments(layout, name)
    return materialized(
        artifact,
        rows=len(rows),
        table=artifact.path / INSTRUMENTS,
        metadata=instrument_metadata(score_files.read_artifact_scores(artifact), rows),
    )


@dg.asset(
    group_name="evaluation",
    kinds={"python", "matplotlib"},
    owners=["team:music-ml"],
    deps=[
        contrastive_encoder,
        stem_jepa,
        dg.AssetDep(retrieval_scores, partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep(instrument_scores, partition_mapping=dg.AllPartitionMapping()),
        beat_scores,
    ],
    code_version=str(kinds.REPORT.format_version),
)
def report(home: StemsHome) -> dg.MaterializeResult:
    """One self-contained HTML page: loss curves, scores, a map of the embeddings, samples."""
    from ml.reports.report import PAGE_NAME, TRACKING_URL, build_report

    settings = home.settings()
    uri = settings.tracking_uri
    artifact = build_report(
        settings.layout,
        tracking_url=uri if uri.startswith("http") else TRACKING_URL,
    )
    page = artifact.path / PAGE_NAME
    return materialized(artifact, metadata={"page": dg.MetadataValue.path(page)})
