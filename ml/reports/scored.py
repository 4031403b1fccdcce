"""Scores as the report shows them: one table per corpus and conditioning, and who is best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, read_json
from ml.metrics import LOWER_IS_BETTER, RETRIEVAL, WITHIN_LABEL
from ml.retrieval.evaluation.compare import heard_by_scores
from ml.retrieval.evaluation.controls import LABEL_FIRST, WITH_LABEL
from ml.retrieval.evaluation.evaluate import EVALUATION, REFERENCES
from ml.scores.files import LOSS, MADE_BY, PAIRED, QUERIES, SWAPPED, read_scores, scored_models
from ml.scores.text import swapped_notes, within_notes
from ml.training.config import PRESETS
from ml.training.models import UNTRAINED

METRIC_NAMES = {name: metric.title for name, metric in RETRIEVAL.items()}
RANKED_BY = "recall@10"
_FIRST_ROWS, _LAST_ROWS = tuple(reversed(PRESETS)), (*REFERENCES, LABEL_FIRST)

Scores = Mapping[str, Mapping[str, Any]]
"""Metric → a row of ``read_scores``."""


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """All models on the same queries."""

    corpus: str
    conditioning: str
    n_queries: int
    n_gallery: int
    models: Mapping[str, Scores]
    """In the order of Table I from its end, then other models, then what needs no learning; last
    what knows the labels."""
    paired: Mapping[str, Scores]
    """``"A minus B"`` → differences; empty when there is nothing to compare with."""
    swapped: Mapping[str, Scores]
    """The models, with the mix of another track; empty when no query could get one."""
    loss: Mapping[str, Scores]
    """By how much that is worse."""
    chance: Mapping[str, float]
    model_ids: Mapping[str, str]
    """Which version of each model was scored."""
    notes: Sequence[str] = ()
    """Which queries a figure leaves out."""

    @property
    def columns(self) -> dict[str, str]:
        """What was measured, in the order of the table, and what it is called."""
        measured = {metric for scores in self.models.values() for metric in scores}
        return {metric: name for metric, name in METRIC_NAMES.items() if metric in measured}

    @property
    def best(self) -> str:
        """The model with the highest recall@10; rows that know the labels are no models."""
        models = {n: scores for n, scores in self.models.items() if n in self.model_ids}
        first = leaders(models, RANKED_BY)
        return max(models, key=lambda name: name in first)

    @property
    def best_id(self) -> str:
        """Which version of the best model was scored."""
        return self.model_ids.get(self.best, "unknown")

    def is_like_untrained(self, model: str) -> bool:
        """Tell whether the interval of its difference to the untrained model holds 0."""
        row = self.paired.get(f"{model} minus {UNTRAINED}", {}).get(RANKED_BY)
        return row is not None and row["low"] is not None and row["low"] <= 0 <= row["high"]


def leaders(models: Mapping[str, Scores], metric: str) -> frozenset[str]:
    """Name the models with the best figure; none where nothing was measured or all are equal."""
    values = {
        name: row["value"]
        for name, scores in models.items()
        if (row := scores.get(metric)) and row["value"] is not None
    }
    choose = min if metric.partition("/")[0] in LOWER_IS_BETTER else max
    best = choose(values.values(), default=None)
    first = frozenset(name for name, value in values.items() if value == best)
    return first if len(first) < len(values) or len(values) == 1 else frozenset()


def is_share(metric: str) -> bool:
    """Tell whether a figure is a share of queries, which is so many times what chance gives."""
    return metric.startswith(("recall@", "right_", "aligned_first"))


def leaves_out_0(row: Mapping[str, Any]) -> bool:
    """Tell whether the interval of a difference lies on one side of 0."""
    return row["low"] is not None and row["low"] * row["high"] > 0


def by_model(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Group rows of ``read_scores``: model → metric → row."""
    grouped: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["model"], {})[row["metric"]] = row
    return grouped


def artifact_version(folder: Path) -> str | None:
    """Read the fingerprint of an artifact; None when it does not exist."""
    path = folder / MANIFEST_NAME
    return read_json(path)["fingerprint"] if path.is_file() else None


def score_tables(layout: DataLayout) -> list[ScoreTable]:
    """Read the current scores of the retrieval evaluation; empty when there are none.

    Corpora of the user come first, then those that were made in the home.

    Raises:
        ArtifactError: scores are damaged or have a newer format.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in read_scores(layout):
        if row["evaluation"] in (EVALUATION, PAIRED, EVALUATION + SWAPPED, EVALUATION + LOSS):
            groups.setdefault((row["corpus"], row["conditioning"]), []).append(row)
    tables = [_table(layout, *key, rows) for key, rows in groups.items()]
    return sorted(tables, key=lambda table: (layout.corpora / table.corpus).is_dir())


def verdict(tables: Sequence[ScoreTable], champion_id: str | None) -> str:
    """Say in one sentence which model answers queries, and what it can and cannot do here.

    Args:
        tables: of ``score_tables``; those of the usual conditioning are judged.
        champion_id: of the model that queries use; None: there is none yet.
    """
    if champion_id is None:
        return "No model answers queries yet: stems promote lets one."
    said: dict[str, list[str]] = {}
    called = champion_id
    for table in (table for table in tables if table.conditioning == "fine"):
        name = next((n for n, model_id in table.model_ids.items() if model_id == champion_id), None)
        if name is None or (row := table.models.get(name, {}).get(RANKED_BY)) is None:
            said.setdefault("was not scored on", []).append(table.corpus)
            continue
        called, chance, low = name, table.chance[RANKED_BY], row["low"]
        if low is None or low <= chance:
            finding = "cannot be told from chance on"
        elif table.is_like_untrained(name):
            finding = "is above chance but not distinguishable from untrained on"
        else:
            finding = "finds the stem that was left out more often than chance on"
        times = f"{row['value']:.0f} % in the first ten, {row['value'] / chance:.1f} times chance"
        said.setdefault(finding, []).append(f"{table.corpus} ({times})")
        heard = heard_by_scores(table.corpus, table.models[name].get(WITHIN_LABEL))
        if heard.is_known:
            does = "does not hear the mix on" if heard.is_deaf else "hears the mix on"
            said.setdefault(does, []).append(table.corpus)
    found = "; ".join(f"{finding} {', '.join(where)}" for finding, where in said.items())
    return f"{called} answers queries: it {found or 'was not scored'}."


def _table(
    layout: DataLayout, corpus: str, conditioning: str, rows: Sequence[dict[str, Any]]
) -> ScoreTable:
    scored = [row for row in rows if row["evaluation"] == EVALUATION]
    models, swapped, loss = (
        by_model([row for row in rows if row["evaluation"] == EVALUATION + which])
        for which in ("", SWAPPED, LOSS)
    )
    return ScoreTable(
        corpus=corpus,
        conditioning=conditioning,
        n_queries=max(row["n_queries"] for row in scored),
        n_gallery=scored[0]["n_gallery"],
        models={name: models[name] for name in sorted(models, key=_place)},
        paired=by_model([row for row in rows if row["evaluation"] == PAIRED]),
        swapped={name: swapped[name] for name in sorted(swapped, key=_place)},
        loss=loss,
        chance={row["metric"]: row["chance"] for row in scored},
        model_ids=scored_models(layout, EVALUATION, corpus),
        notes=[*within_notes(scored), *swapped_notes(rows)],
    )


def _place(model: str) -> tuple[int, int]:
    if model.endswith(WITH_LABEL):
        return 3, 0
    for group, names in ((0, _FIRST_ROWS), (2, _LAST_ROWS)):
        if model in names:
            return group, names.index(model)
    return 1, 0


def read_queries(layout: DataLayout, table: ScoreTable, model: str) -> list[dict[str, Any]]:
    """Read the queries of one model: rank and nearest stem of each; empty when not recorded.

    Raises:
        ArtifactError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = layout.scores(EVALUATION, table.corpus) / QUERIES
    if not path.is_file():
        return []
    try:
        rows = pq.ParquetFile(path).read().to_pylist()
    except pa.ArrowInvalid as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); delete {path.parent} and make it again with: "
            f"{MADE_BY} --corpus {table.corpus}"
        ) from None
    wanted = (model, table.conditioning)
    return [row for row in rows if (row["model"], row["conditioning"]) == wanted]
