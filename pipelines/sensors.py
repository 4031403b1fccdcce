"""What watches settings, corpora and runs.

https://docs.dagster.io/guides/automate/sensors
"""

import logging

import dagster as dg

from assets_def.resources import StemsHome, corpora
from pipelines.home import missing_corpora
from pipelines.jobs import (
    evaluate_beats,
    evaluate_retrieval,
    prepare_beats,
    prepare_corpus,
    train_model,
    write_report,
)
from pipelines.stages import begun_chains, next_requests, prepare_requests
from pipelines.watch import CorpusWatch

LOOK_S = 30.0
"""How long an evaluation looks at files; Dagster gives it 60 s."""
_log = logging.getLogger(__name__)


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers the corpora of config.yaml as partitions; it starts no run.",
)
def corpora_of_settings(
    context: dg.SensorEvaluationContext, home: StemsHome
) -> dg.SensorResult | dg.SkipReason:
    """Adding a corpus is an edit of ``config.yaml``; this makes it appear."""
    missing = missing_corpora(home.settings(), context.instance)
    if not missing:
        return dg.SkipReason("every corpus of the settings is registered")
    return dg.SensorResult(dynamic_partitions_requests=[corpora.build_add_request(missing)])


@dg.sensor(
    jobs=[prepare_corpus],
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Looks at the files of every corpus. One that has changed and then stays as it is "
    "for one more look is scanned; with automation.min_new_hours of new music in training.corpora, "
    "a retraining follows.",
)
def changed_corpora(
    context: dg.SensorEvaluationContext, home: StemsHome
) -> dg.SensorResult | dg.SkipReason:
    """Asks once for each state of a corpus."""
    from ml.artifacts import fingerprint

    settings = home.settings()
    watch = CorpusWatch.from_cursor(context.cursor)
    stable = watch.look(settings, LOOK_S)
    registered = set(context.instance.get_dynamic_partitions(str(corpora.name)))
    added = [name for name in stable if name not in registered]
    chain = f"retraining-{fingerprint(stable)[:12]}"
    return dg.SensorResult(
        run_requests=list(prepare_requests(settings, chain, stable)),
        skip_reason=None if stable else _waits_for(watch),
        cursor=watch.to_cursor(),
        dynamic_partitions_requests=[corpora.build_add_request(added)] if added else None,
    )


@dg.sensor(
    jobs=[train_model, evaluate_retrieval, prepare_beats, evaluate_beats, write_report],
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Goes on with what changed_corpora and nightly_evaluation have begun: trains, "
    "evaluates, decides who is champion. It begins nothing by itself.",
)
def next_stages(
    context: dg.SensorEvaluationContext, home: StemsHome
) -> dg.SensorResult | dg.SkipReason:
    """Runs of the next stage, for each chain whose last stage has finished."""
    requests: list[dg.RunRequest] = []
    for chain, stages in begun_chains(context.instance).items():
        requests += next_requests(home, chain, stages)
    if not requests:
        return dg.SkipReason("nothing that was begun waits to be gone on with")
    return dg.SensorResult(run_requests=requests)


def _waits_for(watch: CorpusWatch) -> str:
    if watch.left:
        return f"time was up; the next evaluation goes on with {watch.left[0]}"
    return "no corpus has changed and stayed so for two looks"


all_sensors = [corpora_of_settings, changed_corpora, next_stages]
