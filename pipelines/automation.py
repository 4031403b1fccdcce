"""How work follows work: the condition under which each asset is made without anybody asking.

Two things begin a retraining: each tick of ``automation.cron``, and a change of ``corpus_files``
(observed where the sensor ``changed_corpora`` is on). The corpus is scanned, its labels are
encoded and its shards made. Both phases are trained on a tick, or once
``automation.min_new_hours`` of new music are in the shards. Then every corpus is embedded with
the new models, and scored, and beats are tracked; without a training, the corpora that have
changed. ``champion`` and ``report`` follow whenever these have come to an end, also where one
corpus has failed: then the champion stays, and its run says why.

Nothing of this happens until the sensor ``retraining`` is turned on under Automation.
https://docs.dagster.io/guides/automate/declarative-automation

Two limits of Dagster 1.13.27 shape the conditions:

- ``will_be_requested`` is empty where two assets cannot be made in one run (a corpus's shards,
  and the training of all). So training waits for the evaluation after the tick, when the runs
  that it waits for are in progress.
- ``since_last_handled`` of an unpartitioned asset is always false where ``asset_matches`` asks for
  it from a partitioned one (each evaluation counts as the first). ``_unhandled`` is the same
  without that reset.

Sensors and a schedule begin what these conditions then follow.
https://docs.dagster.io/guides/automate/sensors · https://docs.dagster.io/guides/automate/schedules
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import dagster as dg
from dagster_shared.check import CheckError

from assets_def.assets import beats, corpus, retrieval, training
from assets_def.resources import StemsHome, corpora
from ml.artifacts import read_json
from ml.settings import Settings, SettingsError
from pipelines.home import missing_corpora
from pipelines.jobs import all_jobs, evaluable_corpora, evaluation_assets, has_unseen_tracks

RETRAINING = "retraining"
"""Name of the sensor that evaluates the conditions."""
_log = logging.getLogger(__name__)


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
        """Choose those among the candidates; a corpus that is not registered yet is none."""
        candidates = context.candidate_subset
        names = candidates.expensively_compute_partition_keys() & set(self.corpora)
        chosen = candidates.compute_intersection_with_partition_keys(names)
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
        """Choose those among the candidates; tables are read for them only."""
        candidates = context.candidate_subset
        names = candidates.expensively_compute_partition_keys()
        unseen = {name for name in names if has_unseen_tracks(self.home, name)}
        chosen = candidates.compute_intersection_with_partition_keys(unseen)
        return dg.AutomationResult(context, chosen)


@dataclass(frozen=True)
class HasNewMusic(dg.AutomationCondition[dg.AssetKey]):
    """True once shards hold ``automation.min_new_hours`` that no model was trained on."""

    home: StemsHome

    @property
    def description(self) -> str:
        """For the UI."""
        return "there is enough new music to train on"

    def evaluate(
        self, context: dg.AutomationContext[dg.AssetKey]
    ) -> dg.AutomationResult[dg.AssetKey]:
        """Accept the candidate, an asset without partitions; tables are read only for one."""
        candidate = context.candidate_subset
        is_true = not candidate.is_empty and is_worth_training(self.home.settings())
        return dg.AutomationResult(context, candidate if is_true else context.get_empty_subset())


def is_worth_training(settings: Settings) -> bool:
    """Tell whether shards hold ``automation.min_new_hours`` that no model was trained on.

    The hours are of all of ``training.corpora``, so that small additions add up.
    """
    from ml.shards.inspect import new_training_hours
    from ml.training.models import read_models

    layout, wanted = settings.layout, settings.automation.min_new_hours
    models = read_models(layout) if layout.models_index.is_file() else {}
    current = models.get(settings.training.presets[0])
    seen = read_json(current / "manifest.json")["training_tracks"] if current else []
    try:
        hours = new_training_hours(layout, settings.training.corpora, seen)
    except ValueError as error:
        _log.warning("nothing is trained: %s", error)
        return False
    _log.info("%.2f hours are new, %g are wanted for a training", hours, wanted)
    return hours > 0 and hours >= wanted


def automation_conditions(home: StemsHome) -> Mapping[dg.AssetKey, dg.AutomationCondition]:
    """Say of each asset when it is made.

    Raises:
        SettingsError: ``automation.cron`` or ``automation.timezone`` is wrong.
    """
    conditions, settings = dg.AutomationCondition, home.settings()
    tick, of_stems = _cron_tick(settings), InCorpora(settings.corpora_with_stems)
    of_beats, of_training = (
        InCorpora(names) for names in (settings.beats.scored, settings.training.corpora)
    )
    is_idle = ~conditions.any_deps_in_progress() & ~conditions.in_progress()
    is_ready = ~conditions.any_deps_missing() & is_idle
    follows = _unhandled(conditions.any_deps_updated()) & is_ready
    has_enough = _after(corpus.stem_shards) & HasNewMusic(home)
    will_train = conditions.asset_matches(
        training.contrastive_encoder.key,
        _unhandled(tick) | conditions.any_deps_in_progress() | has_enough,
    )
    with_models = ~will_train & is_ready
    return {
        corpus.corpus_tracks.key: _unhandled(tick | conditions.any_deps_updated())
        & ~conditions.in_progress()
        & InCorpora(tuple({*of_stems.corpora, *of_beats.corpora})),
        corpus.label_embeddings.key: follows & of_stems,
        corpus.stem_shards.key: follows & of_training,
        training.contrastive_encoder.key: (_unhandled(tick) & ~tick | has_enough) & is_ready,
        training.stem_jepa.key: is_ready
        & _unhandled(conditions.any_deps_updated().allow(_of(training.contrastive_encoder))),
        retrieval.stem_embeddings.key: with_models
        & _after(corpus.corpus_tracks, corpus.label_embeddings, training.stem_jepa)
        & of_stems,
        retrieval.retrieval_scores.key: follows,
        retrieval.instrument_scores.key: follows & HasUnseenTracks(home),
        beats.beat_features.key: with_models
        & _after(corpus.corpus_tracks, training.stem_jepa)
        & of_beats,
        beats.beat_probe.key: _after(beats.beat_features) & is_ready,
        beats.beat_scores.key: follows,
        retrieval.champion.key: _after(retrieval.stem_embeddings) & is_idle,
        retrieval.report.key: is_idle
        & _after(retrieval.retrieval_scores, retrieval.instrument_scores, beats.beat_scores),
    }


def retraining_sensor(assets: Iterable[dg.AssetKey]) -> dg.AutomationConditionSensorDefinition:
    """Make the switch of all conditions; stopped at first."""
    with warnings.catch_warnings():
        # Conditions of our own are evaluated in this location; Dagster calls that beta.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.AutomationConditionSensorDefinition(
            RETRAINING,
            target=dg.AssetSelection.assets(*assets),
            default_status=dg.DefaultSensorStatus.STOPPED,
            use_user_code_server=True,
            emit_backfills=False,
            description="Retraining by the clock (automation.cron) and of what changed_corpora "
            "has seen: scan, shards, both phases, embeddings, scores, beats, champion, report.",
        )


def _after(*upstream: dg.AssetsDefinition) -> dg.AutomationCondition:
    """Hold once one of these was made, whatever became of the others."""
    made = dg.AutomationCondition.any_deps_match(dg.AutomationCondition.newly_updated())
    return _unhandled(made.allow(_of(*upstream)))


def _of(*assets: dg.AssetsDefinition) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(asset.key for asset in assets))


def _unhandled(condition: dg.AutomationCondition) -> dg.AutomationCondition:
    """Hold from when a condition was true until the asset is asked for or made."""
    handled = dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
    return condition.since(handled)


def _cron_tick(settings: Settings) -> dg.AutomationCondition:
    chosen = settings.automation
    try:
        ZoneInfo(chosen.timezone)
        return dg.AutomationCondition.cron_tick_passed(chosen.cron, chosen.timezone)
    except (CheckError, KeyError, ValueError) as error:
        raise SettingsError(
            f"automation.cron = {chosen.cron!r} with timezone {chosen.timezone!r} in "
            f"{settings.layout.config_path} is no schedule ({error}); expected five fields such "
            f"as '0 2 * * 6', and a timezone such as UTC or Europe/Berlin"
        ) from None


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers the corpora of config.yaml as partitions; it starts no run.",
)
def corpora_of_settings(
    context: dg.SensorEvaluationContext, home: StemsHome
) -> dg.SensorResult | dg.SkipReason:
    """Register what was added: a corpus is added by an edit of ``config.yaml``."""
    missing = missing_corpora(home.settings(), context.instance)
    if not missing:
        return dg.SkipReason("every corpus of the settings is registered")
    return dg.SensorResult(dynamic_partitions_requests=[corpora.build_add_request(missing)])


@dg.sensor(
    job=all_jobs["observe_corpora"],
    minimum_interval_seconds=600,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Looks at the files of every corpus. With retraining turned on, one that has "
    "changed and then stays as it is is scanned; with automation.min_new_hours of new music in "
    "training.corpora, a training follows.",
)
def changed_corpora(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Ask for a look, unless one has not come to its end."""
    name = all_jobs["observe_corpora"].name
    statuses = [dg.DagsterRunStatus(status) for status in ("QUEUED", "STARTING", "STARTED")]
    if context.instance.get_runs(dg.RunsFilter(job_name=name, statuses=statuses), limit=1):
        return dg.SkipReason("the last look has not come to its end")
    return dg.RunRequest()


@dg.schedule(
    job=all_jobs["evaluate_retrieval"],
    cron_schedule="0 3 * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Every night: embed and score every corpus that was scanned with the current "
    "models. With retraining turned on, who is champion is decided then, and the report written.",
)
def nightly_evaluation(
    context: dg.ScheduleEvaluationContext, home: StemsHome
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Ask for one run a corpus; what is up to date is reused."""
    settings = home.settings()
    if not settings.layout.models_index.is_file():
        yield dg.SkipReason("no model was trained yet")
        return
    registered = context.instance.get_dynamic_partitions(str(corpora.name))
    names = [name for name in evaluable_corpora(settings) if name in registered]
    for name in names:
        try:
            assets = list(evaluation_assets(home, name))
        except ValueError as error:  # nothing usable in it
            _log.warning("%s is not evaluated: %s", name, error)
            continue
        yield dg.RunRequest(
            run_key=f"evaluation-{context.scheduled_execution_time.date()}/evaluate/{name}",
            partition_key=name,
            asset_selection=[dg.AssetKey(asset) for asset in assets],
        )
    if not names:
        yield dg.SkipReason("no corpus was scanned yet")
