"""What the models make of each corpus, and where queries find it."""

import dagster as dg

from assets_def.assets.corpus import corpus_tracks, label_embeddings
from assets_def.assets.training import contrastive_encoder, stem_jepa
from assets_def.resources import StemsHome, corpora
from assets_def.results import join_artifacts, materialized
from ml import kinds
from ml.retrieval.embeddings import files as embedding_files
from ml.retrieval.tables import publish as store


@dg.asset(
    group_name="embeddings",
    kinds={"pytorch", "parquet", "lancedb"},
    owners=["team:music-ml"],
    partitions_def=corpora,
    deps=[corpus_tracks, label_embeddings, contrastive_encoder, stem_jepa],
    pool="gpu",
    code_version=str(kinds.EMBEDDINGS.format_version),
)
def stem_embeddings(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Gallery, chunks and queries by every current model, in one pass; published to LanceDB.

    By the champion too, where it is none of the current models any more.
    """
    from ml.corpora.label_embeddings import read_label_vectors
    from ml.labels.clap_files import clap_files_of
    from ml.processes import cluster
    from ml.retrieval.champion.champion import earlier_champion
    from ml.retrieval.embeddings.baselines import is_baseline, load_models
    from ml.retrieval.embeddings.build import embed_corpus

    name, settings = context.partition_key, home.settings()
    layout = settings.layout
    models = load_models(layout, clap=clap_files_of(settings))
    names = [model.name for model in models]
    if champion := earlier_champion(layout, models, name):
        models, names = [*models, *champion], [*names, "champion"]
    vectors = read_label_vectors(layout, name)
    with cluster(settings.compute.dask_scheduler) as executor:
        made = embed_corpus(
            name,
            models,
            layout,
            vectors,
            device="auto",
            executor=executor,
            clap=clap_files_of(settings),
        )
    artifacts = dict(zip(names, made, strict=True))
    published = {
        called: store.publish_corpus(layout, model.model_id, name)
        for called, model in zip(names, models, strict=True)
        if not is_baseline(model)
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
