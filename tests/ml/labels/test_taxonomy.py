from __future__ import annotations

import pytest

from ml.labels.taxonomy import CATEGORIES, FOUR_CLASSES, TRACK_TYPES, category_of, four_class


def test_moisesdbs_eleven_categories_and_44_instruments() -> None:
    assert len(CATEGORIES) == 11
    texts = [text for texts in CATEGORIES.values() for text in texts]
    assert len(texts) == len(set(texts)) == 44
    assert len({name for types in TRACK_TYPES.values() for name in types}) == 44
    assert category_of("synth bass") == category_of("bass") == "bass"
    assert category_of("theremin") is None


@pytest.mark.parametrize("category", sorted(CATEGORIES))
def test_instruments_fall_into_the_class_of_their_category(category: str) -> None:
    expected = category if category in FOUR_CLASSES else "other"
    assert four_class([category]) == expected
    for text in CATEGORIES[category]:
        assert four_class([text]) == four_class([category, text]) == expected, text


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([], "other"),
        (["kick"], "drums"),
        (["Kick & Snare"], "drums"),
        (["hi-hat"], "drums"),
        (["808"], "drums"),
        (["808 bass"], "bass"),
        (["bass drum"], "drums"),
        (["voice"], "vocals"),
        (["synth choir"], "other"),
        (["choir"], "vocals"),
        (["bass singer"], "vocals"),
        (["sub_bass"], "bass"),
        (["double bass"], "bass"),
        (["upright bass"], "bass"),
        (["upright piano"], "other"),
        (["bass clarinet"], "other"),
        (["alto saxophone"], "other"),
        (["steel drums"], "other"),
        (["other keys", "synth bass"], "bass"),
        (["drums", "hit"], "drums"),
        (["whatever"], "other"),
    ],
)
def test_free_text(labels: list[str], expected: str) -> None:
    assert four_class(labels) == expected
