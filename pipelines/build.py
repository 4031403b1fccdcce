"""``build_definitions``: assets, checks, jobs, triggers and resources of a home, as one."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import dagster as dg

from assets_def import checks
from assets_def.assets import beats, corpus, retrieval, training
from assets_def.resources import StemsHome
from ml.settings import Settings, SettingsError, default_home
from pipelines.automation import (
    automation_conditions,
    changed_corpora,
    corpora_of_settings,
    nightly_evaluation,
    retraining_sensor,
)
from pipelines.jobs import all_jobs
from pipelines.progress import asset_progress, failed_runs

FRESHNESS = {
    corpus.stem_shards.key: dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=60), warn_window=timedelta(days=30)
    ),
    **dict.fromkeys(
        (retrieval.retrieval_scores.key, retrieval.instrument_scores.key, beats.beat_scores.key),
        dg.FreshnessPolicy.time_window(
            fail_window=timedelta(days=30), warn_window=timedelta(days=14)
        ),
    ),
}
"""How old shards and scores may be before their page says so; what is reused counts as fresh."""


def build_definitions(**resource_overrides: object) -> dg.Definitions:
    """Make fresh definitions for a home.

    Args:
        resource_overrides: resources by name instead of the default ones; ``home`` is a
            ``StemsHome`` (default: of ``STEMS_HOME`` in the environment, else ``./data``).

    Raises:
        SettingsError: settings are wrong, or training names a corpus that does not exist.
    """
    resources = {"home": StemsHome(home=str(default_home())), **resource_overrides}
    home = resources["home"]
    if not isinstance(home, StemsHome):
        raise TypeError(f"resource home is a {type(home).__name__}; expected a StemsHome")
    needed, automated = _needed_corpora(home.settings()), automation_conditions(home)

    def with_policies(spec: dg.AssetSpec) -> dg.AssetSpec:
        return _narrowed(spec, needed).replace_attributes(
            automation_condition=automated.get(spec.key), freshness_policy=FRESHNESS.get(spec.key)
        )

    modules = [corpus, training, retrieval, beats]
    loaded = dg.load_assets_from_modules(modules)
    assets = [asset for asset in loaded if isinstance(asset, dg.AssetsDefinition)]
    return dg.Definitions(
        assets=[corpus.corpus_files, *dg.map_asset_specs(with_policies, assets)],
        asset_checks=dg.load_asset_checks_from_modules([checks]),
        jobs=list(all_jobs.values()),
        schedules=[nightly_evaluation],
        sensors=[corpora_of_settings, changed_corpora, retraining_sensor(automated), failed_runs],
        resources=resources,
        executor=dg.in_process_executor,
        loggers={"console": dg.colored_console_logger, "progress": asset_progress},
    )


def _needed_corpora(
    settings: Settings,
) -> Mapping[dg.AssetKey, Mapping[dg.AssetKey, Sequence[str]]]:
    """Map an unpartitioned asset to its upstream assets, and these to the corpora that it needs.

    Raises:
        SettingsError: a corpus that is needed does not exist, or training has none.
    """
    trained_on, chosen = settings.training.corpora, settings.beats
    _require_known(settings, trained_on, "training.corpora", "training.corpora")
    if not trained_on:
        raise SettingsError(
            f"training.corpora in {settings.layout.config_path} is empty; name at least one corpus"
        )
    _require_known(settings, chosen.scored, "beats.corpora or beats.heldout", "beats")
    rule = settings.promotion
    _require_known(settings, (*rule.corpora, *rule.gallery), "promotion", "promotion")
    shards, features = corpus.stem_shards.key, beats.beat_features.key
    with_stems = settings.corpora_with_stems
    scores = (retrieval.retrieval_scores.key, retrieval.instrument_scores.key)
    return {
        training.contrastive_encoder.key: {shards: trained_on},
        training.stem_jepa.key: {shards: trained_on},
        retrieval.champion.key: {retrieval.stem_embeddings.key: with_stems},
        retrieval.report.key: dict.fromkeys(scores, with_stems),
        beats.beat_probe.key: {features: chosen.corpora},
        beats.beat_scores.key: {features: chosen.scored},
    }


def _require_known(settings: Settings, names: Sequence[str], listed_in: str, section: str) -> None:
    """Refuse unknown corpora; Dagster itself takes them as partitions without a word."""
    for name in names:
        if name not in settings.corpora:
            raise SettingsError(
                f"{listed_in} names {name!r}, which is not among the corpora of "
                f"{settings.layout.config_path}: {', '.join(sorted(settings.corpora))}; "
                f"add it under 'corpora:' or take it out of {section}"
            )


def _narrowed(
    spec: dg.AssetSpec, needed: Mapping[dg.AssetKey, Mapping[dg.AssetKey, Sequence[str]]]
) -> dg.AssetSpec:
    """Let an asset depend on the partitions of the corpora it needs, not on all."""
    corpora_of = needed.get(spec.key, {})
    return spec.replace_attributes(
        deps=[
            dg.AssetDep(
                dep.asset_key,
                partition_mapping=dg.SpecificPartitionsPartitionMapping(corpora_of[dep.asset_key]),
            )
            if dep.asset_key in corpora_of
            else dep
            for dep in spec.deps
        ]
    )
