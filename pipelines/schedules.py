"""What runs by the clock; stopped until someone turns it on.

Retraining by the clock is in ``pipelines.automation``.
https://docs.dagster.io/guides/automate/schedules
"""

from collections.abc import Iterator

import dagster as dg

from assets_def.resources import StemsHome, corpora
from pipelines.evaluation import evaluable_corpora
from pipelines.jobs import evaluate_retrieval
from pipelines.stages import evaluate_requests


@dg.schedule(
    job=evaluate_retrieval,
    cron_schedule="0 3 * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Every night: embed and score every corpus that was scanned with the current "
    "models; then decide who is champion and write the report.",
)
def nightly_evaluation(
    context: dg.ScheduleEvaluationContext, home: StemsHome
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run a corpus; what is up to date is reused. ``next_stages`` does what comes after."""
    settings = home.settings()
    if not settings.layout.models_index.is_file():
        yield dg.SkipReason("no model was trained yet")
        return
    registered = context.instance.get_dynamic_partitions(str(corpora.name))
    names = [name for name in evaluable_corpora(settings) if name in registered]
    day = context.scheduled_execution_time.date()
    yield from evaluate_requests(home, f"evaluation-{day}", names)
    if not names:
        yield dg.SkipReason("no corpus was scanned yet")


all_schedules = [nightly_evaluation]
