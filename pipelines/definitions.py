"""The code location: what ``workspace.yaml`` loads."""

import os
import warnings

from pipelines.build import build_definitions

__all__ = ["build_definitions", "defs"]

if not os.environ.get("DAGSTER_HOME"):
    warnings.warn(
        "DAGSTER_HOME is not set: Dagster forgets runs, schedules and sensors when it ends; use "
        "`make dev`, or set it to the folder dagster/ of STEMS_HOME",
        stacklevel=1,
    )

defs = build_definitions()
