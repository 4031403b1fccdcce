"""Other words for a label name the same instrument, and all labels of the taxonomy have some."""

import pytest

from ml.labels.spellings import INSTRUMENTS
from ml.labels.taxonomy import CATEGORIES, four_class
from ml.labels.wordings import FAMILIES, synonyms, wordings

LABELS = sorted({text for name, texts in CATEGORIES.items() for text in (name, *texts)})


@pytest.mark.parametrize("label", LABELS)
def test_wordings_are_other_texts_of_the_same_family(label):
    found = wordings(label)
    assert len(set(found)) == len(found) >= 5
    assert label not in found
    assert all(text.strip() == text for text in found)
    family = next(x for x in found if x.startswith(f"{label}, ")).removeprefix(f"{label}, ")
    (category,) = (name for name, texts in CATEGORIES.items() if label in (name, *texts))
    assert family == FAMILIES[category]
    assert four_class([label]) in (category, "other")


def test_synonyms_are_what_the_tables_say_and_no_labels_of_other_instruments():
    assert {"electric bass", "precision bass"} <= set(synonyms("bass guitar"))
    assert synonyms("a label of a user's own") == ()
    others = {name for names in INSTRUMENTS.values() for name in names}
    assert not others & {text for name in others if name for text in synonyms(name)} - {"drums"}
