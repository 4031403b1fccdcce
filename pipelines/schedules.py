"""What runs by the clock; stopped until someone turns it on.

https://docs.dagster.io/guides/automate/schedules
"""

from collections.abc import Iterator

import dagster as dg

from assets_def.partitions import corpora
from pipelines.jobs import evaluate_retrieval


@dg.schedule(
    job=evaluate_retrieval,
    cron_schedule="0 3 * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Every night: embed and score every corpus with the current models.",
)
def nightly_evaluation(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """One run a registered corpus; what is up to date is reused."""
    day = context.scheduled_execution_time.date()
    for name in context.instance.get_dynamic_partitions(str(corpora.name)):
        yield dg.RunRequest(run_key=f"{day}-{name}", partition_key=name)


all_schedules = [nightly_evaluation]
