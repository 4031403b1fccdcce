"""What all assets name in their signatures: the home, and the corpora that they are partitioned by.

The class ``StemsHome`` only; ``pipelines`` makes its instances. Partition keys are registered from
the settings (``pipelines.home``, ``pipelines.automation``), never typed in twice.
https://docs.dagster.io/guides/build/external-resources
https://docs.dagster.io/guides/build/partitions-and-backfills
"""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from ml.artifacts import DataLayout
from ml.processes import cores
from ml.settings import Settings, load_settings

corpora = dg.DynamicPartitionsDefinition(name="corpus")
"""The corpora of ``STEMS_HOME/config.yaml``: one key a corpus, and no other partitions."""


class StemsHome(dg.ConfigurableResource):
    """One ``STEMS_HOME``: its settings, its layout, its MLflow store."""

    home: str = Field(description="the folder that holds all artifacts and config.yaml")
    overrides: dict[str, Any] = Field(
        default={}, description="settings that win over config.yaml and the environment"
    )
    workers: int = Field(default=0, ge=0, description="processes for audio work; 0: one a core")

    def settings(self, **training: Any) -> Settings:
        """Read the settings as they are now.

        Args:
            training: settings of the section ``training`` that win over all others (launchpad).

        Raises:
            ml.settings.SettingsError: an unknown key or a wrong value.
        """
        overrides = dict(self.overrides)
        if training:
            overrides["training"] = {**overrides.get("training", {}), **training}
        return load_settings(Path(self.home), overrides)

    @property
    def layout(self) -> DataLayout:
        """Where everything lies."""
        return self.settings().layout

    @property
    def processes(self) -> int:
        """How many processes audio work may use."""
        return self.workers or cores()
