"""From raw corpora to training shards; one partition a corpus."""

import dagster as dg

from assets_def.resources import StemsHome, corpora
from assets_def.results import materialized
from ml import kinds
from ml.corpora import label_embeddings as labels
from ml.corpora import table


@dg.asset(
    group_name="corpus",
    kinds={"python", "parquet"},
    owners=["team:music-ml"],
    partitions_def=corpora,
    code_version=str(kinds.CORPUS_TRACKS.format_version),
)
def corpus_tracks(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """One row a stem: labels, split, length, level, content hash, and what is wrong with it."""
    from ml.corpora.corpus import open_corpus

    name = context.partition_key
    found = home.settings().corpus(name)
    corpus = open_corpus(found.kind, found.root, **found.options)
    artifact = table.build_corpus_tracks(name, corpus, home.layout, workers=home.processes)
    return materialized(
        artifact, rows=artifact.summary["stems"], table=artifact.path / table.TABLE_NAME
    )


@dg.asset(
    group_name="corpus",
    kinds={"python", "huggingface", "parquet"},
    owners=["team:music-ml"],
    partitions_def=corpora,
    deps=[corpus_tracks],
    code_version=str(kinds.LABEL_EMBEDDINGS.format_version),
)
def label_embeddings(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """The condition of every label text of the corpus, by the label encoder of the settings."""
    settings = home.settings()
    from ml.labels.encoders import label_encoder_of

    encoder = label_encoder_of(settings)
    artifact = labels.build_label_embeddings(context.partition_key, settings.layout, encoder)
    return materialized(
        artifact, rows=artifact.summary["texts"], table=artifact.path / labels.TABLE_NAME
    )


@dg.asset(
    group_name="shards",
    kinds={"python", "webdataset"},
    owners=["team:music-ml"],
    partitions_def=corpora,
    deps=[corpus_tracks, label_embeddings],
    code_version=str(kinds.STEM_SHARDS.format_version),
)
def stem_shards(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Training audio: WebDataset shards of segments with their stems, silence left out."""
    from ml.processes import cluster
    from ml.shards.build import build_shards
    from ml.shards.plan import shard_config

    settings = home.settings()
    with cluster(settings.compute.dask_scheduler) as executor:
        artifact = build_shards(
            context.partition_key,
            settings.layout,
            shard_config(settings.shards),
            workers=home.processes,
            executor=executor,
            uri=settings.build_uri,
        )
    return materialized(artifact, rows=artifact.summary["segments"])
