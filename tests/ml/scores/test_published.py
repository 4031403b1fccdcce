from __future__ import annotations

import pytest

from ml.retrieval.evaluation.ranks import RECALL_AT
from ml.scores.files import SCORE_COLUMNS
from ml.scores.text import published_rows


def test_rows_are_marked_and_shaped_like_scores() -> None:
    rows = published_rows("moisesdb", "mine", "coarse")
    assert all(list(row) == list(SCORE_COLUMNS) for row in rows)
    assert {row["evaluation"] for row in rows} == {"published"}
    assert all(row["model"].endswith(" (published)") for row in rows)
    film = {r["metric"]: r["value"] for r in rows if r["model"] == "film (published)"}
    assert film["recall@1"] == 19.2
    assert film["normalized_rank_median"] == 0.2


@pytest.mark.parametrize("kind", ["musdb18", "moisesdb"])
def test_figures_are_possible(kind: str) -> None:
    rows = published_rows(kind, "c", "fine")
    for model in {row["model"] for row in rows}:
        values = {row["metric"]: row["value"] for row in rows if row["model"] == model}
        recalls = [values[f"recall@{k}"] for k in RECALL_AT]
        assert recalls == sorted(recalls)
        assert values["normalized_rank_median"] <= values["normalized_rank_mean"]
    assert len(rows) == 5 * 5


@pytest.mark.parametrize(("kind", "conditioning"), [("demo", "fine"), ("musdb18", "none")])
def test_nothing_was_published_elsewhere(kind: str, conditioning: str) -> None:
    assert published_rows(kind, "c", conditioning) == []
