"""How well stems are found, and the page that says so."""

import dagster as dg

from assets_def.assets.embeddings import stem_embeddings
from assets_def.assets.training import contrastive_encoder, stem_jepa
from assets_def.partitions import corpora
from assets_def.resources import StemsHome
from assets_def.results import materialized, together
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
    from assets_def.score_table import evaluation_metadata
    from ml.corpora.labels import read_label_vectors
    from ml.device import choose_device
    from ml.retrieval.baselines import load_models
    from ml.retrieval.protocols import EvaluationConfig, evaluate_by_protocol

    settings, name = home.settings(), context.partition_key
    layout, chosen = settings.layout, settings.evaluation
    config = EvaluationConfig(
        resamples=chosen.bootstrap_resamples, seed=chosen.seed, device=str(choose_device("auto"))
    )
    models = load_models(layout, clap=settings.clap_files)
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
    rows = [row for _, found in made.values() for row in found]
    first, *others = [artifact for artifact, _ in made.values()]
    artifacts = {protocol: artifact for protocol, (artifact, _) in made.items()}
    return materialized(
        together(first.path, artifacts, **first.summary) if others else first,
        rows=len(rows),
        table=first.path / score_files.SCORES,
        metadata=evaluation_metadata(rows, settings.corpus(name).kind),
    )


@dg.asset(
    group_name="evaluation",
    kinds={"python", "matplotlib"},
    owners=["team:music-ml"],
    deps=[
        contrastive_encoder,
        stem_jepa,
        dg.AssetDep(retrieval_scores, partition_mapping=dg.AllPartitionMapping()),
        # By key: their modules import this one's assets.
        dg.AssetDep("instrument_scores", partition_mapping=dg.AllPartitionMapping()),
        "beat_scores",
    ],
    code_version=REPORT_FORMAT,
)
def report(home: StemsHome) -> dg.MaterializeResult:
    """One self-contained HTML page: loss curves, scores, a map of the embeddings, samples."""
    from ml.corpora.labels import encoders_at_hand
    from ml.reports.report import PAGE_NAME, TRACKING_URL, build_report

    settings = home.settings()
    uri = settings.tracking_uri
    artifact = build_report(
        settings.layout,
        tracking_url=uri if uri.startswith("http") else TRACKING_URL,
        encoders=encoders_at_hand(settings),
    )
    page = artifact.path / PAGE_NAME
    return materialized(artifact, metadata={"page": dg.MetadataValue.path(page)})
