from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest

from ml.labels.taxonomy import CATEGORIES
from ml.reports.labels import LabelSimilarities, label_similarities, similarity_figure

CATEGORY_OF = {text: category for category, texts in CATEGORIES.items() for text in texts}


class ByCategory:
    """A label encoder that only knows the category: cosine 1 within, 0 between."""

    name, dim, fingerprint = "by-category", len(CATEGORIES), "0" * 64

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        places = [list(CATEGORIES).index(CATEGORY_OF[text]) for text in texts]
        return np.eye(self.dim, dtype=np.float32)[places]


@pytest.fixture
def similarities() -> LabelSimilarities:
    return label_similarities(ByCategory())


def test_blocks_of_the_categories(similarities: LabelSimilarities) -> None:
    assert similarities.texts == tuple(CATEGORY_OF)
    assert (similarities.within, similarities.between) == (1, 0)
    np.testing.assert_array_equal(similarities.cosines, similarities.cosines.T)


def test_the_figure_names_every_label_and_category_once(similarities: LabelSimilarities) -> None:
    figure = similarity_figure(similarities)
    figure.savefig(io.BytesIO(), format="svg")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(similarities.texts)
    assert [text.get_text() for text in axes.texts] == list(CATEGORIES)
