"""What a check found before: its numbers are all that is left of an earlier build.

Artifacts are replaced when they are built anew; Dagster keeps what was said of them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

_LOOKED_AT = 500


def earlier_numbers(
    context: dg.AssetCheckExecutionContext, asset: dg.AssetsDefinition, check: str
) -> Iterator[Mapping[str, Any]]:
    """The metadata of a check's earlier evaluations as plain values, newest first.

    Args:
        context: of the check that runs now.
        asset: what it checks.
        check: its name.
    """
    records = context.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(asset.key, check), limit=_LOOKED_AT
    )
    for record in records:
        event = record.event.dagster_event if record.event else None
        if event is None or record.run_id == context.run.run_id:
            continue
        found = event.event_specific_data
        if isinstance(found, dg.AssetCheckEvaluation):
            yield {key: value.value for key, value in found.metadata.items()}
