"""How well stems are found, and the page that says so."""

import dagster as dg

from assets_def.assets.embeddings import stem_embeddings
from assets_def.assets.training import contrastive_encoder, stem_jepa
from assets_def.partitions import corpora
from assets_def.resources import StemsHome
from assets_def.results import materialized
from ml.retrieval import score_files

REPORT_FORMAT = "1"
"""``ml.reports.report.FORMAT_VERSION``, not imported: torch is slow to load (a test compares)."""


@dg.asset(
    group_name="evaluation",
    kinds={"numpy", "parquet"},
    owners=["team:music-ml"],
    partitions_def=corpora,
    deps=[stem_embeddings],
    code_version=str(score_files.FORMAT_VERSION),
)
def retrieval_scores(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Recall and normalised rank of each model (Table I), with chance and intervals."""
    from assets_def.score_table import score_metadata
    from ml.retrieval.baselines import load_models
    from ml.retrieval.evaluate import EVALUATION, evaluate_retrieval

    settings, name = home.settings(), context.partition_key
    artifact = evaluate_retrieval(
        name,
        settings.layout,
        {model.name: model.model_id for model in load_models(settings.layout)},
        resamples=settings.evaluation.bootstrap_resamples,
        seed=settings.evaluation.seed,
    )
    rows = score_files.read_scores(settings.layout, evaluation=EVALUATION, corpus=name)
    return materialized(
        artifact,
        rows=len(rows),
        table=artifact.path / score_files.SCORES,
        metadata=score_metadata(rows),
    )


@dg.asset(
    group_name="evaluation",
    kinds={"python", "matplotlib"},
    owners=["team:music-ml"],
    deps=[
        contrastive_encoder,
        stem_jepa,
        dg.AssetDep(retrieval_scores, partition_mapping=dg.AllPartitionMapping()),
    ],
    code_version=REPORT_FORMAT,
)
def report(home: StemsHome) -> dg.MaterializeResult:
    """One self-contained HTML page: loss curves, scores, a map of the embeddings, samples."""
    from ml.reports.report import PAGE_NAME, TRACKING_URL, build_report

    uri = home.settings().tracking_uri
    tracking_url = uri if uri.startswith("http") else TRACKING_URL
    artifact = build_report(home.layout, tracking_url=tracking_url)
    page = artifact.path / PAGE_NAME
    return materialized(artifact, metadata={"page": dg.MetadataValue.path(page)})
