"""What watches the settings.

https://docs.dagster.io/guides/automate/sensors
"""

import dagster as dg

from assets_def.partitions import corpora
from assets_def.resources import StemsHome
from pipelines.home import missing_corpora


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


all_sensors = [corpora_of_settings]
