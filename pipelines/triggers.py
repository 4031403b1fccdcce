"""What begins work without a person, or says that work failed: sensors and a schedule.

What follows from what was begun is said by the conditions of ``pipelines.automation``.
https://docs.dagster.io/guides/automate/sensors · https://docs.dagster.io/guides/automate/schedules
"""

import logging
from collections.abc import Iterator

import dagster as dg

from assets_def.resources import StemsHome, corpora
from pipelines.home import missing_corpora
from pipelines.jobs import all_jobs, evaluable_corpora, evaluation_assets

_log = logging.getLogger(__name__)


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
