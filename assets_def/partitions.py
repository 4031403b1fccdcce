"""How assets are partitioned: one key a corpus, and nothing else.

Keys are registered from the settings (``pipelines.home``, ``pipelines.sensors``), never typed in
twice. https://docs.dagster.io/guides/build/partitions-and-backfills
"""

import dagster as dg

corpora = dg.DynamicPartitionsDefinition(name="corpus")
"""The corpora of ``STEMS_HOME/config.yaml``."""
