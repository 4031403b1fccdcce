"""From raw corpora to training shards; one partition a corpus.

``corpus_files`` is observed, not made: its data version is what the files of a corpus look like.
https://docs.dagster.io/guides/build/assets/external-assets
"""

import logging
import time
import warnings
from collections.abc import Iterable

import dagster as dg

from assets_def.resources import StemsHome, corpora
from assets_def.results import artifact_asset, materialized
from ml import kinds
from ml.corpora import label_embeddings as labels
from ml.corpora import table
from ml.settings import Settings

_log = logging.getLogger(__name__)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)  # Dagster calls observed assets beta

    @dg.observable_source_asset(
        group_name="corpus",
        partitions_def=corpora,
        tags={"dagster/kind/file": ""},
        description="Names, sizes and times of the files of each corpus with stems; nothing is "
        "opened. A corpus that someone is still copying keeps the version that it had.",
    )
    def corpus_files(context: dg.OpExecutionContext, home: StemsHome) -> dg.DataVersionsByPartition:
        """Look at all corpora, and a while later again at those that have changed."""
        settings = home.settings()
        registered = set(context.instance.get_dynamic_partitions(str(corpora.name)))
        names = [name for name in settings.corpora_with_stems if name in registered]
        now = _fingerprints(settings, names)
        changed = [name for name in now if now[name] != _observed(context.instance, name)]
        if changed:
            time.sleep(settings.automation.settled_after_s)
        later = {name: now[name] for name in now if name not in changed}
        later |= _fingerprints(settings, changed)
        settled = {name: version for name, version in later.items() if version == now[name]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)
            return dg.DataVersionsByPartition(settled)


def _fingerprints(settings: Settings, names: Iterable[str]) -> dict[str, str]:
    """Fingerprint the files of corpora; those that cannot be read are left out."""
    from ml.corpora.corpus import files_fingerprint

    prints = {}
    for name in names:
        corpus = settings.corpus(name)
        try:
            prints[name] = files_fingerprint(corpus.kind, corpus.root, corpus.options)
        except (OSError, ValueError) as error:
            _log.warning("corpus %s cannot be looked at: %s", name, error)
    return prints


def _observed(instance: dg.DagsterInstance, name: str) -> str | None:
    """Read the version that the last observation of a corpus gave."""
    chosen = dg.AssetRecordsFilter(asset_key=corpus_files.key, asset_partitions=[name])
    for record in instance.fetch_observations(chosen, limit=1).records:
        if record.asset_observation is not None:
            return record.asset_observation.data_version
    return None


@artifact_asset(
    kinds.CORPUS_TRACKS,
    group_name="corpus",
    kinds={"python", "parquet"},
    partitions_def=corpora,
    deps=[corpus_files],
)
def corpus_tracks(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """One row a stem: labels, split, length, level, content hash, and what is wrong with it."""
    from ml.corpora.registration import open_registered, render_missing

    name = context.partition_key
    render_missing(home.settings(), name, home.processes)
    corpus = open_registered(home.settings(), name)
    artifact = table.build_corpus_tracks(name, corpus, home.layout, workers=home.processes)
    return materialized(
        artifact, rows=artifact.summary["stems"], table=artifact.path / table.TABLE_NAME
    )


@artifact_asset(
    kinds.LABEL_EMBEDDINGS,
    group_name="corpus",
    kinds={"python", "huggingface", "parquet"},
    partitions_def=corpora,
    deps=[corpus_tracks],
)
def label_embeddings(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Conditions of every label text of the corpus, by the label encoder of the settings."""
    from ml.labels.encoders import label_encoder_of

    settings = home.settings()
    encoder = label_encoder_of(settings)
    artifact = labels.build_label_embeddings(context.partition_key, settings.layout, encoder)
    return materialized(
        artifact, rows=artifact.summary["texts"], table=artifact.path / labels.TABLE_NAME
    )


@artifact_asset(
    kinds.STEM_SHARDS,
    group_name="shards",
    kinds={"python", "webdataset"},
    partitions_def=corpora,
    deps=[corpus_tracks, label_embeddings],
)
def stem_shards(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Training audio: WebDataset shards of segments with their stems, silence left out.

    Of the corpora in ``training.corpora``. Partitions of others stay missing: nothing needs them.
    """
    from ml.shards.build import build_configured

    artifact = build_configured(home.settings(), context.partition_key, workers=home.processes)
    return materialized(artifact, rows=artifact.summary["segments"])
