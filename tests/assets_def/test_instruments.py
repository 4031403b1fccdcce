from typing import Any

from assets_def.results import instrument_metadata, presence_markdown
from ml.retrieval.evaluation.instruments import SHARES


def score(model: str, metric: str, value: float) -> dict[str, Any]:
    named = {"model": model, "conditioning": "fine", "metric": metric}
    return {**named, "value": value, "chance": 0.33 if "recall" in metric else 50.1}


SCORES = [
    score("film", "recall@1/same-text", 12.34),
    score("film", "normalized_rank_mean/same-text", 4.0),
    score("film", "recall@1/zero-shot", 1.0),
    score("film", "recall@1/or-same-label", 13.0),
    score("spectrum", "recall@1/zero-shot", 0.0),
]


def row(model: str, right: float) -> dict[str, Any]:
    shares = dict.fromkeys(SHARES, 0.0) | {"right_stem": right, SHARES[-1]: 100 - right}
    named = {"model": model, "conditioning": "fine", "instrument": "flute"}
    return {**named, "queries": 4, "presence": "zero-shot", **shares}


def test_the_table_has_a_column_for_each_metric_of_each_group():
    assert presence_markdown(SCORES).splitlines() == [
        "| model | recall@1/same-text | normalized_rank_mean/same-text | recall@1/zero-shot |",
        "|---|---|---|---|",
        "| film, fine | 12.3 | 4.0 | 1.0 |",
        "| spectrum, fine | – | – | 0.0 |",
        "| *chance* | 0.3 | 50.1 | 0.3 |",
    ]


def test_the_model_that_finds_most_is_plotted():
    shown = instrument_metadata(SCORES, [row("spectrum", 25.0), row("film", 75.0)])
    assert shown["plotted"] == "film fine"
    assert shown["plot"].value.startswith("![shares](data:image/png;base64,")
    assert "plot" not in instrument_metadata(SCORES, [])
