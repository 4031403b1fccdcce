"""Which model answers queries: a candidate takes the champion's place only if it is not worse."""

import logging

import dagster as dg

from assets_def.assets.embeddings import stem_embeddings
from assets_def.assets.training import stem_jepa
from assets_def.resources import StemsHome
from assets_def.results import materialized
from ml import kinds
from ml.artifacts import Artifact, ArtifactError, fingerprint
from ml.retrieval.tables import publish as store

_log = logging.getLogger("stems.progress")


@dg.asset(
    group_name="embeddings",
    kinds={"lancedb", "mlflow"},
    owners=["team:music-ml"],
    deps=[
        stem_jepa,
        dg.AssetDep(stem_embeddings, partition_mapping=dg.AllPartitionMapping()),
    ],
    code_version=str(kinds.PUBLICATION.format_version),
)
def champion(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Which model queries use: the first of ``training.presets``, if it is no worse and listens.

    A candidate that is refused is no failure: the champion stays, ``promoted`` is false and
    ``reason`` says why. It is one where there is no champion yet.
    """
    from assets_def.score_table import comparison_markdown
    from ml.retrieval.champion.promotion import promote
    from ml.retrieval.tables.database import database_uri
    from ml.training.models import champion_path, current_champion

    settings = home.settings()
    layout = settings.layout
    before = current_champion(layout)
    done = promote(settings)
    is_warning = done.outcome == "refused" or any(one.is_deaf for one in done.heard)
    level = logging.WARNING if is_warning else logging.INFO
    for log in (_log, context.log):
        log.log(level, "champion: %s", done.reason)
    now = done.champion
    if now is None:
        raise ArtifactError(f"{done.reason}; there is no champion before it that could stay")
    rows = _published(home, now.model_id)
    artifact = Artifact(
        path=champion_path(layout),
        fingerprint=fingerprint({"model_id": now.model_id}),
        reused=before is not None and before.model_id == now.model_id,
        summary={"model_id": now.model_id, "previous": now.previous, **rows},
    )
    metadata = {
        "promoted": done.outcome == "promoted",
        "reason": done.reason,
        "candidate": f"{done.candidate.name} ({done.candidate.model_id})",
        "mlflow_version": now.mlflow_version or "not registered yet",
        "database": database_uri(layout, now.model_id),
    }
    shown = {"comparison": dg.MetadataValue.md(comparison_markdown(done.comparisons))}
    metadata |= shown if done.comparisons else {}
    metadata |= {
        f"{one.corpus}/within_label_rank": one.interval.value for one in done.heard if one.interval
    }
    return materialized(artifact, rows=sum(rows.values()), metadata=metadata)


def _published(home: StemsHome, model_id: str) -> dict[str, int]:
    """Count how many stems of each corpus a model's table holds."""
    from ml.retrieval.tables.database import database_uri
    from ml.retrieval.tables.inspect import published_corpora

    uri = database_uri(home.layout, model_id)
    return {
        f"{corpus}/stems": store.count_rows(uri, store.STEM_TABLE, corpus)
        for corpus in published_corpora(home.layout, model_id)
    }
