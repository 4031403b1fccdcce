from __future__ import annotations

from typing import Any

import pytest

from ml.retrieval.evaluation.ranks import RECALL_AT
from ml.scores.files import SCORE_COLUMNS
from ml.scores.text import published_rows


def scores(
    conditioning: str, size: int = 600, evaluation: str = "retrieval-paper"
) -> list[dict[str, Any]]:
    row: dict[str, Any] = dict.fromkeys(SCORE_COLUMNS)
    given = {"evaluation": evaluation, "corpus": "c", "conditioning": conditioning}
    return [row | given | {"n_queries": size, "n_gallery": size}]


def test_rows_are_marked_and_shaped_like_scores() -> None:
    rows = published_rows("moisesdb", scores("coarse", 2585))
    assert all(list(row) == list(SCORE_COLUMNS) for row in rows)
    assert {row["evaluation"] for row in rows} == {"published"}
    assert all(row["model"].endswith(" (published)") for row in rows)
    film = {r["metric"]: r["value"] for r in rows if r["model"] == "film (published)"}
    assert film["recall@1"] == 19.2
    assert film["normalized_rank_median"] == 0.2


@pytest.mark.parametrize("kind", ["musdb18", "moisesdb"])
def test_figures_are_possible(kind: str) -> None:
    rows = published_rows(kind, scores("fine"))
    for model in {row["model"] for row in rows}:
        values = {row["metric"]: row["value"] for row in rows if row["model"] == model}
        recalls = [values[f"recall@{k}"] for k in RECALL_AT]
        assert recalls == sorted(recalls)
        assert values["normalized_rank_median"] <= values["normalized_rank_mean"]
    assert len(rows) == 5 * 5


@pytest.mark.parametrize(("kind", "conditioning"), [("demo", "fine"), ("musdb18", "none")])
def test_nothing_was_published_elsewhere(kind: str, conditioning: str) -> None:
    assert published_rows(kind, scores(conditioning)) == []
    assert published_rows("musdb18", scores("fine", evaluation="retrieval")) == []


def test_a_figure_of_another_task_says_so_and_stands_beside_its_own_protocol() -> None:
    (name,) = {
        x["model"] for x in published_rows("musdb18", scores("fine", 200)) if x["value"] == 38.8
    }
    assert name == "film (published: 600 queries of 600 stems)"
    by_script = published_rows("musdb18", scores("fine", evaluation="retrieval-predecessor"))
    assert {row["model"] for row in by_script} == {"class (published)"}
    assert published_rows("moisesdb", scores("fine", evaluation="retrieval-predecessor")) == []
