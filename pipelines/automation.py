"""Retraining by the clock: conditions under which assets are made without anybody asking.

On each tick of ``automation.cron`` a corpus is scanned, its shards are made, both phases trained,
every corpus embedded and scored, beats tracked: each asset once its own inputs are there.
``champion`` and ``report`` follow whenever these have come to an end, also where one corpus has
failed: then the champion stays, and its run says why. Off until ``retraining`` is turned on under
Automation.
https://docs.dagster.io/guides/automate/declarative-automation
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import dagster as dg
from dagster_shared.check import CheckError

from assets_def.assets import beats, champion, corpus, embeddings, retrieval, training
from assets_def.assets import retrieval as instruments
from assets_def.resources import StemsHome
from ml.settings import Settings, SettingsError
from pipelines.evaluation import corpora_with_stems, has_unseen_tracks

RETRAINING = "retraining"
"""Name of the sensor that evaluates the conditions."""


@dataclass(frozen=True)
class InCorpora(dg.AutomationCondition[dg.AssetKey]):
    """True for the partitions of some corpora; for others an asset makes no sense."""

    corpora: tuple[str, ...]

    @property
    def description(self) -> str:
        """For the UI."""
        return f"of {', '.join(self.corpora)}"

    def evaluate(
        self, context: dg.AutomationContext[dg.AssetKey]
    ) -> dg.AutomationResult[dg.AssetKey]:
        """Those among the candidates."""
        chosen = context.candidate_subset.compute_intersection_with_partition_keys(
            set(self.corpora)
        )
        return dg.AutomationResult(context, chosen)


@dataclass(frozen=True)
class HasUnseenTracks(dg.AutomationCondition[dg.AssetKey]):
    """True for corpora with tracks that no current model was trained on."""

    home: StemsHome

    @property
    def description(self) -> str:
        """For the UI."""
        return "has tracks that no current model was trained on"

    def evaluate(
        self, context: dg.AutomationContext[dg.AssetKey]
    ) -> dg.AutomationResult[dg.AssetKey]:
        """Those among the candidates; tables are read for them only."""
        candidates = context.candidate_subset
        names = candidates.expensively_compute_partition_keys()
        unseen = {name for name in names if has_unseen_tracks(self.home, name)}
        chosen = candidates.compute_intersection_with_partition_keys(unseen)
        return dg.AutomationResult(context, chosen)


def automation_conditions(home: StemsHome) -> Mapping[dg.AssetKey, dg.AutomationCondition]:
    """When each asset of a retraining is made.

    Raises:
        SettingsError: ``automation.cron`` or ``automation.timezone`` is wrong.
    """
    settings = home.settings()
    on_tick = _on_cron(settings)
    with_stems, with_beats = corpora_with_stems(settings), settings.beats.scored
    by_corpus = on_tick & InCorpora(with_stems)
    of_beats = {
        beats.beat_features.key: on_tick & InCorpora(with_beats),
        beats.beat_probe.key: on_tick,
        beats.beat_scores.key: on_tick,
    }
    return {
        **(of_beats if with_beats else {}),
        corpus.corpus_tracks.key: on_tick & InCorpora(tuple({*with_stems, *with_beats})),
        corpus.label_embeddings.key: by_corpus,
        corpus.stem_shards.key: on_tick & InCorpora(tuple(settings.training.corpora)),
        training.contrastive_encoder.key: on_tick,
        training.stem_jepa.key: on_tick,
        embeddings.stem_embeddings.key: by_corpus,
        retrieval.retrieval_scores.key: by_corpus,
        instruments.instrument_scores.key: by_corpus & HasUnseenTracks(home),
        champion.champion.key: _once_made(embeddings.stem_embeddings.key),
        retrieval.report.key: _once_made(
            retrieval.retrieval_scores.key, instruments.instrument_scores.key, beats.beat_scores.key
        ),
    }


def retraining_sensor(assets: Iterable[dg.AssetKey]) -> dg.AutomationConditionSensorDefinition:
    """The switch of all conditions; stopped at first."""
    with warnings.catch_warnings():
        # Conditions of our own are evaluated in this location; Dagster calls that beta.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.AutomationConditionSensorDefinition(
            RETRAINING,
            target=dg.AssetSelection.assets(*assets),
            default_status=dg.DefaultSensorStatus.STOPPED,
            use_user_code_server=True,
            emit_backfills=False,
            description="Retraining by the clock (automation.cron): scan, shards, both phases, "
            "embeddings, scores, beats, champion.",
        )


def _once_made(*upstream: dg.AssetKey) -> dg.AutomationCondition:
    """When something upstream was made and nothing more of it is on the way, whatever failed."""
    conditions = dg.AutomationCondition
    made = conditions.any_deps_match(conditions.newly_updated())
    return (
        made.allow(dg.AssetSelection.assets(*upstream)).since_last_handled()
        & ~conditions.any_deps_match(conditions.will_be_requested())
        & ~conditions.any_deps_in_progress()
        & ~conditions.in_progress()
    )


def _on_cron(settings: Settings) -> dg.AutomationCondition:
    chosen = settings.automation
    try:
        ZoneInfo(chosen.timezone)
        return dg.AutomationCondition.on_cron(chosen.cron, chosen.timezone)
    except (CheckError, KeyError, ValueError) as error:
        raise SettingsError(
            f"automation.cron = {chosen.cron!r} with timezone {chosen.timezone!r} in "
            f"{settings.layout.config_path} is no schedule ({error}); expected five fields such "
            f"as '0 2 * * 6', and a timezone such as UTC or Europe/Berlin"
        ) from None
