from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
import pytest

from assets_def.resources import StemsHome
from pipelines.build import build_definitions

Verdicts = Mapping[str, tuple[bool, Mapping[str, Any]]]


@pytest.fixture
def run_checks() -> Callable[..., Verdicts]:
    """Materialize an asset, for a corpus if it is partitioned; check → verdict and numbers."""

    def run(resource: StemsHome, job: str, asset: str, corpus: str | None = "demo") -> Verdicts:
        with dg.DagsterInstance.ephemeral() as instance:
            instance.add_dynamic_partitions("corpus", ["demo"])
            result = (
                build_definitions(home=resource)
                .resolve_job_def(job)
                .execute_in_process(
                    instance=instance,
                    partition_key=corpus,
                    asset_selection=[dg.AssetKey(asset)],
                    raise_on_error=False,
                )
            )
        kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
        found = [e.asset_check_evaluation_data for e in result.all_events if e.event_type is kind]
        blocked = [x.check_name for x in found if x.blocking and not x.passed]
        assert result.success == (not blocked)
        return {
            x.check_name: (x.passed, {key: value.value for key, value in x.metadata.items()})
            for x in found
        }

    return run
