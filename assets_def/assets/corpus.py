"""From raw corpora to training shards; one partition a corpus."""

import dagster as dg

from assets_def.partitions import corpora
from assets_def.resources import StemsHome
from assets_def.results import materialized
from ml.corpora import labels, table
from ml.shards import index


@dg.asset(
    group_name="corpus",
    kinds={"python", "parquet"},
    owners=["team:music-ml"],
    partitions_def=corpora,
    code_version=str(table.FORMAT_VERSION),
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
    code_version=str(labels.FORMAT_VERSION),
)
def label_embeddings(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """The condition of every label text of the corpus, by the label encoder of the settings."""
    settings = home.settings()
    encoder = labels.label_encoder_of(settings)
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
    code_version=str(index.FORMAT_VERSION),
)
def stem_shards(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Training audio: WebDataset shards of segments with their stems, silence left out."""
    from ml.processes import cluster
    from ml.shards.writer import build_shards

    settings = home.settings()
    with cluster(settings.compute.dask_scheduler) as executor:
        artifact = build_shards(
            context.partition_key,
            settings.layout,
            settings.shards.config(),
            workers=home.processes,
            executor=executor,
            uri=settings.build_uri,
        )
    return materialized(artifact, rows=artifact.summary["segments"])
