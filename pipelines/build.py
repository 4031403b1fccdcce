"""One function that puts everything together for a home: ``build_definitions``."""

from collections.abc import Mapping, Sequence

import dagster as dg

from assets_def import checks
from assets_def.assets import beats, corpus, embeddings, instruments, retrieval, training
from assets_def.resources import StemsHome
from ml.settings import Settings, SettingsError, default_home
from pipelines.jobs import all_jobs
from pipelines.progress import asset_progress
from pipelines.schedules import all_schedules
from pipelines.sensors import all_sensors


def build_definitions(**resource_overrides: object) -> dg.Definitions:
    """Fresh definitions for a home.

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
    settings = home.settings()
    trained_on = _training_corpora(settings)
    probed = _beat_corpora(settings)
    modules = [corpus, training, embeddings, retrieval, instruments, beats]
    loaded = dg.load_assets_from_modules(modules)
    assets = [asset for asset in loaded if isinstance(asset, dg.AssetsDefinition)]
    return dg.Definitions(
        assets=dg.map_asset_specs(
            lambda spec: _narrowed(_trained_on(spec, trained_on), probed), assets
        ),
        asset_checks=dg.load_asset_checks_from_modules([checks]),
        jobs=all_jobs,
        schedules=all_schedules,
        sensors=all_sensors,
        resources=resources,
        executor=dg.in_process_executor,
        loggers={"console": dg.colored_console_logger, "progress": asset_progress},
    )


def _training_corpora(settings: Settings) -> Sequence[str]:
    """The corpora to train on; Dagster itself would take unknown partitions without a word."""
    for name in settings.training.corpora:
        if name not in settings.corpora:
            raise SettingsError(
                f"training.corpora names {name!r}, which is not among the corpora of "
                f"{settings.layout.config_path}: {', '.join(sorted(settings.corpora))}; "
                f"add it under 'corpora:' or take it out of training.corpora"
            )
    if not settings.training.corpora:
        raise SettingsError(
            f"training.corpora in {settings.layout.config_path} is empty; name at least one corpus"
        )
    return settings.training.corpora


def _beat_corpora(settings: Settings) -> dict[str, Sequence[str]]:
    """Whose features ``beat_probe`` and ``beat_scores`` need."""
    chosen = settings.beats
    for name in (*chosen.corpora, *chosen.heldout):
        if name not in settings.corpora:
            raise SettingsError(
                f"beats.corpora or beats.heldout names {name!r}, which is not among the corpora of "
                f"{settings.layout.config_path}: {', '.join(sorted(settings.corpora))}; "
                f"add it under 'corpora:' or take it out of beats"
            )
    everything = tuple(dict.fromkeys((*chosen.corpora, *chosen.heldout)))
    return {"beat_probe": chosen.corpora, "beat_scores": everything}


def _narrowed(spec: dg.AssetSpec, needed: Mapping[str, Sequence[str]]) -> dg.AssetSpec:
    """Let probes and their scores depend on the features of the corpora they use, not of all."""
    name, features = spec.key.to_user_string(), beats.beat_features.key
    if name not in needed:
        return spec
    mapping = dg.SpecificPartitionsPartitionMapping(needed[name])
    return spec.replace_attributes(
        deps=[
            dg.AssetDep(features, partition_mapping=mapping) if dep.asset_key == features else dep
            for dep in spec.deps
        ]
    )


def _trained_on(spec: dg.AssetSpec, names: Sequence[str]) -> dg.AssetSpec:
    """Let training depend on the shards of the corpora that are trained on, not of all."""
    if spec.group_name != "training":
        return spec
    mapping = dg.SpecificPartitionsPartitionMapping(names)
    shards = corpus.stem_shards.key
    return spec.replace_attributes(
        deps=[
            dg.AssetDep(shards, partition_mapping=mapping) if dep.asset_key == shards else dep
            for dep in spec.deps
        ]
    )
