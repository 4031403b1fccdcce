"""Two answers that know the gallery's labels: what a label is worth alone, and before phase 1.

``label``: look the asked text up and hear nothing. All stems with this label come first, in random
order, the rest of the gallery after them, in random order too. Its figures are exact expectations
over these orders, not samples: among m stems with the asked text the target is at each place with
probability 1/m, so recall@k is min(k, m)/m, and its expected rank is (m + 1)/2. The median of
normalised ranks is a property of one order, and is left open.

``label+contrastive``: stems with the asked label first, and among equals the cosines of phase 1
(ties count against the query).

What is asked for is what queries are conditioned with: the finest label (``fine``), the coarsest
(``coarse``), "music" for a stem without labels, and for all stems (``none``: then all of the
gallery has the asked text). The target always has it.

Rows beside those of models, which know no label of the gallery; on small galleries they are hard to
beat. Ranks and metrics: ``ml.retrieval.evaluation.ranks``.
"""

from __future__ import annotations

import numpy as np

from ml.retrieval.embeddings.files import Embeddings
from ml.retrieval.evaluation.ranks import (
    RECALL_AT,
    Gallery,
    Queries,
    answer_queries,
    answer_values,
    within_values,
)
from ml.scores.files import LABEL
from ml.tracks import MUSIC
from ml.training.models import CONTRASTIVE

LABEL_FIRST = f"{LABEL}+{CONTRASTIVE}"


def lookup_values(
    gallery: Gallery, queries: Queries, conditioning: str, contrastive: Embeddings | None
) -> dict[str, dict[str, np.ndarray]]:
    """Compute what each query contributes to each metric: row → metric → (query,) percent.

    Args:
        gallery: what is ranked.
        queries: what is looked for.
        conditioning: what the queries ask for.
        contrastive: of phase 1; without them there is no row ``label+contrastive``.
    """
    texts = _texts(gallery, conditioning)
    values: dict[str, dict[str, np.ndarray]] = {}
    if contrastive is not None:
        answers = answer_queries(gallery, queries, contrastive, first=texts)
        values[LABEL_FIRST] = answer_values(gallery, queries, answers, conditioning)
    return {**values, LABEL: _expectations(gallery, queries.targets, texts, conditioning)}


def _texts(gallery: Gallery, conditioning: str) -> np.ndarray:
    """List what a query for each stem asks for: (stem,)."""
    if conditioning == "none":
        return np.full(len(gallery), MUSIC, dtype=object)
    labels = gallery.instruments(conditioning)
    return np.where(gallery.is_labelled, labels, MUSIC)


def _expectations(
    gallery: Gallery, targets: np.ndarray, texts: np.ndarray, conditioning: str
) -> dict[str, np.ndarray]:
    """Compute the expected figures of each query, stems with the asked text in random order."""

    def count(*columns: np.ndarray) -> np.ndarray:
        return gallery.count_like(*columns)[targets]

    asked = count(texts)
    right = 100.0 * count(texts, gallery.instruments(conditioning)) / asked
    within = {
        metric: within_values(gallery, column, targets, (count(texts, column) + 1) / 2)
        for metric, column in gallery.within.items()
    }
    return {
        **within,
        **{f"recall@{k}": 100.0 * np.minimum(k, asked) / asked for k in RECALL_AT},
        "normalized_rank_mean": 100.0 * (asked + 1) / (2 * len(gallery)),
        "right_instrument": np.where(gallery.is_labelled[targets], right, np.nan),
        "right_song": 100.0 * count(texts, gallery.tracks) / asked,
    }
