"""What the models make of each corpus, how well stems are found, and which model answers queries.

``stem_embeddings`` are where queries search; the two scores and the ``report`` say how well. A
candidate takes the champion's place only if it is not worse.
"""

import logging
from typing import Any
from urllib.parse import quote

import dagster as dg

from assets_def.assets.beats import beat_scores
from assets_def.assets.corpus import corpus_tracks, label_embeddings
from assets_def.assets.training import contrastive_encoder, stem_jepa
from assets_def.resources import StemsHome, corpora
from assets_def.results import (
    artifact_asset,
    champion_markdown,
    comparison_markdown,
    evaluation_metadata,
    instrument_metadata,
    join_artifacts,
    materialized,
)
from ml import kinds
from ml.artifacts import Artifact, ArtifactError, fingerprint
from ml.mlflow_store import pages_url
from ml.retrieval.embeddings import files as embedding_files
from ml.retrieval.tables import publish as store
from ml.scores import files as score_files
from ml.settings import Settings

_log = logging.getLogger("stems.progress")


@artifact_asset(
    kinds.EMBEDDINGS,
    group_name="embeddings",
    kinds={"pytorch", "parquet", "lancedb"},
    partitions_def=corpora,
    deps=[corpus_tracks, label_embeddings, contrastive_encoder, stem_jepa],
    pool="gpu",
)
def stem_embeddings(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Gallery, chunks and queries by every current model, in one pass; published to LanceDB.

    By the champion too, where it is none of the current models any more.
    """
    from ml.corpora.label_embeddings import read_label_vectors
    from ml.corpora.registration import render_missing
    from ml.labels.clap_files import clap_files_of
    from ml.processes import cluster
    from ml.retrieval.champion.champion import earlier_champion
    from ml.retrieval.embeddings.baselines import fitting_models, is_baseline, load_models
    from ml.retrieval.embeddings.build import embed_corpus

    name, settings = context.partition_key, home.settings()
    layout = settings.layout
    models = fitting_models(load_models(layout, clap=clap_files_of(settings)), layout, name)
    names = [model.name for model in models]
    if champion := earlier_champion(layout, models, name):
        models, names = [*models, *champion], [*names, "champion"]
    vectors = read_label_vectors(layout, name)
    render_missing(settings, name, home.processes)
    with cluster(settings.compute.dask_scheduler) as executor:
        made = [
            embed_corpus(
                name,
                models,
                layout,
                vectors,
                conditioning=conditioning,
                splits=settings.evaluation.splits,
                device="auto",
                executor=executor,
                clap=clap_files_of(settings),
            )
            for conditioning in settings.evaluation.conditionings
        ][-1]
    artifacts = dict(zip(names, made, strict=True))
    searched = {
        called: model.model_id
        for called, model in zip(names, models, strict=True)
        if not is_baseline(model)
    }
    store.hear_gallery(layout, searched.values(), name, workers=home.processes)
    published = {
        called: store.publish_corpus(layout, model_id, name)
        for called, model_id in searched.items()
    }
    first = made[0]
    metadata = {f"{model}/uri": artifact.summary["uri"] for model, artifact in published.items()}
    counts = {key: first.summary[key] for key in ("tracks", "gallery", "queries", "chunks")}
    return materialized(
        join_artifacts(layout.home / "embeddings", artifacts, models=len(models), **counts),
        rows=first.summary["gallery"],
        table=first.path / embedding_files.GALLERY,
        metadata=metadata,
    )


@artifact_asset(
    kinds.SCORES,
    group_name="evaluation",
    kinds={"numpy", "parquet"},
    partitions_def=corpora,
    deps=[stem_embeddings],
)
def retrieval_scores(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Recall and normalised rank of each model (Table I), with chance and intervals."""
    from ml.corpora.label_embeddings import read_label_vectors
    from ml.device import choose_device
    from ml.labels.clap_files import clap_files_of
    from ml.retrieval.embeddings.baselines import fitting_models, load_models
    from ml.retrieval.evaluation.evaluate import EvaluationConfig, evaluate_by_protocol

    settings, name = home.settings(), context.partition_key
    layout, chosen = settings.layout, settings.evaluation
    config = EvaluationConfig(
        conditionings=chosen.conditionings,
        splits=chosen.splits,
        resamples=chosen.bootstrap_resamples,
        seed=chosen.seed,
        device=str(choose_device("auto")),
    )
    models = fitting_models(load_models(layout, clap=clap_files_of(settings)), layout, name)
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


@artifact_asset(
    kinds.SCORES,
    group_name="evaluation",
    kinds={"numpy", "parquet"},
    partitions_def=corpora,
    deps=[retrieval_scores],
)
def instrument_scores(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Shares of right stem, track, instrument and category (Fig. 2); recall of unknown labels."""
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


@artifact_asset(
    kinds.REPORT,
    group_name="evaluation",
    kinds={"python", "matplotlib"},
    deps=[
        contrastive_encoder,
        stem_jepa,
        dg.AssetDep(retrieval_scores, partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep(instrument_scores, partition_mapping=dg.AllPartitionMapping()),
        beat_scores,
    ],
)
def report(home: StemsHome) -> dg.MaterializeResult:
    """One self-contained HTML page: verdict, scores, samples to listen to, loss curves."""
    from ml.reports.report import PAGE_NAME, build_report

    settings = home.settings()
    artifact = build_report(settings.layout, tracking_url=pages_url(settings.tracking_uri))
    page = artifact.path / PAGE_NAME
    return materialized(artifact, metadata={"page": dg.MetadataValue.path(page)})


@artifact_asset(
    kinds.PUBLICATION,
    group_name="embeddings",
    kinds={"lancedb", "mlflow"},
    deps=[
        stem_jepa,
        dg.AssetDep(stem_embeddings, partition_mapping=dg.AllPartitionMapping()),
    ],
)
def champion(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Which model queries use: the first of ``training.presets``, if it is no worse and listens.

    A candidate that is refused is no failure: the champion stays, ``promoted`` is false and
    ``reason`` says why. It is one where there is no champion yet.
    """
    from ml.retrieval.champion.promotion import promote
    from ml.retrieval.tables.database import database_uri
    from ml.training.models import champion_path, current_champion

    settings = home.settings()
    layout = settings.layout
    before = current_champion(layout)
    done = promote(settings)
    is_warning = done.outcome == "refused" or any(one.is_deaf for one in done.heard)
    level = logging.WARNING if is_warning else logging.INFO
    for log in (_log, context.log):
        log.log(level, "champion: %s", done.reason)
    now = done.champion
    if now is None:
        raise ArtifactError(f"{done.reason}; there is no champion before it that could stay")
    rows = _published(home, now.model_id)
    artifact = Artifact(
        path=champion_path(layout),
        fingerprint=fingerprint({"model_id": now.model_id}),
        reused=before is not None and before.model_id == now.model_id,
        summary={"model_id": now.model_id, "previous": now.previous, **rows},
    )
    metadata: dict[str, Any] = {
        "promoted": done.outcome == "promoted",
        "reason": done.reason,
        "scores": dg.MetadataValue.md(champion_markdown(layout, now.model_id)),
    }
    shown = {"comparison": dg.MetadataValue.md(comparison_markdown(done.comparisons))}
    metadata |= shown if done.comparisons else {}
    metadata |= {
        "mlflow_version": _version_page(settings, now.mlflow_version),
        "candidate": f"{done.candidate.name} ({done.candidate.model_id})",
        "database": database_uri(layout, now.model_id),
    }
    metadata |= {
        f"{one.corpus}/within_label_rank": one.interval.value for one in done.heard if one.interval
    }
    return materialized(artifact, rows=sum(rows.values()), metadata=metadata)


def _version_page(settings: Settings, version: str | None) -> Any:
    """Lead to a version of the model in MLflow's registry."""
    if version is None:
        return "not registered yet"
    model = settings.promotion.registered_model
    page = f"{pages_url(settings.tracking_uri)}/#/models/{quote(model)}/versions/{version}"
    return dg.MetadataValue.url(page)


def _published(home: StemsHome, model_id: str) -> dict[str, int]:
    """Count how many stems of each corpus a model's table holds."""
    from ml.retrieval.tables.database import database_uri
    from ml.retrieval.tables.inspect import published_corpora

    uri = database_uri(home.layout, model_id)
    return {
        f"{corpus}/stems": store.count_rows(uri, store.STEM_TABLE, corpus)
        for corpus in published_corpora(home.layout, model_id)
    }
