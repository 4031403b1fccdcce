"""Table I as published (Riou et al., arXiv:2411.19806v2), to stand beside our own figures.

They were measured by the ``predecessor`` protocol on MUSDB18 and MoisesDB, and mean nothing beside
other protocols or corpora. Percent; no intervals were published. A model that takes no text has
one row for both conditionings of MoisesDB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PUBLISHED = "published"
_METRICS = ("recall@1", "recall@5", "recall@10", "normalized_rank_mean", "normalized_rank_median")
_STEMS = {"musdb18": 600, "moisesdb": 2585}
_Row = tuple[float, float, float, float, float]

_MUSDB18: Mapping[str, _Row] = {
    "contrastive": (2.2, 72.5, 86.0, 1.5, 0.7),
    "class": (33.0, 63.2, 76.2, 2.0, 0.5),
    "clap": (33.5, 63.0, 74.5, 2.5, 0.5),
    "pretrained": (32.2, 91.0, 96.2, 0.6, 0.3),
    "film": (38.8, 89.7, 95.0, 0.7, 0.3),
}
_MOISESDB_UNCONDITIONED: Mapping[str, _Row] = {
    "contrastive": (2.7, 31.2, 43.3, 7.7, 0.6),
    "class": (9.9, 24.1, 31.6, 11.7, 1.7),
}
_MOISESDB_FINE: Mapping[str, _Row] = {
    **_MOISESDB_UNCONDITIONED,
    "clap": (19.3, 35.8, 44.0, 7.2, 0.7),
    "pretrained": (12.5, 45.6, 59.3, 1.9, 0.3),
    "film": (22.0, 49.5, 57.8, 4.5, 0.2),
}
_MOISESDB_COARSE: Mapping[str, _Row] = {
    **_MOISESDB_UNCONDITIONED,
    "clap": (18.9, 37.8, 46.9, 7.3, 0.5),
    "pretrained": (11.1, 44.5, 58.1, 2.1, 0.3),
    "film": (19.2, 49.5, 60.0, 3.8, 0.2),
}
_TABLE: Mapping[tuple[str, str], Mapping[str, _Row]] = {
    # MUSDB18's labels have one level.
    ("musdb18", "fine"): _MUSDB18,
    ("musdb18", "coarse"): _MUSDB18,
    ("moisesdb", "fine"): _MOISESDB_FINE,
    ("moisesdb", "coarse"): _MOISESDB_COARSE,
}


def published_rows(kind: str, corpus: str, conditioning: str) -> list[dict[str, Any]]:
    """List the published figures for a corpus, shaped like ``ml.scores.files.read_scores``.

    Args:
        kind: the kind of the corpus (``ml.corpora.corpus.open_corpus``).
        corpus: its name.
        conditioning: ``fine``, ``coarse`` or ``none``.

    Returns:
        Rows of evaluation ``published`` and model "film (published)", empty where nothing was
        published. They are for showing, not for the files of scores.
    """
    size = _STEMS.get(kind)
    return [
        {
            "evaluation": PUBLISHED,
            "corpus": corpus,
            "model": f"{model} ({PUBLISHED})",
            "conditioning": conditioning,
            "n_queries": size,
            "n_gallery": size,
            "metric": metric,
            "value": value,
            "low": None,
            "high": None,
            "chance": None,
        }
        for model, values in _TABLE.get((kind, conditioning), {}).items()
        for metric, value in zip(_METRICS, values, strict=True)
    ]
