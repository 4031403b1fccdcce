from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from ml.retrieval.embeddings.files import Embeddings
from ml.retrieval.evaluation.controls import LABEL_FIRST, WITH_LABEL, lookup_values
from ml.retrieval.evaluation.ranks import (
    WITHIN_CATEGORY,
    WITHIN_LABEL,
    Gallery,
    Queries,
    answer_queries,
    answer_values,
)
from ml.scores.files import LABEL
from ml.training.models import CONTRASTIVE

LABELS = ["synth bass", "synth bass", "bass", "flute", None, "music"]
CATEGORIES = ["bass", "bass", "bass", "wind", None, "music"]
TRACKS = ["a", "a", "b", "b", "a", "c"]
TEXTS = {
    "fine": ["synth bass", "synth bass", "bass", "flute", "music", "music"],
    "coarse": ["bass", "bass", "bass", "wind", "music", "music"],
    "none": ["music"] * 6,
}


@pytest.fixture
def gallery(make_gallery: Callable[..., Gallery]) -> Gallery:
    return make_gallery(LABELS, CATEGORIES, TRACKS)


def queries_of(conditioning: str) -> Queries:
    return Queries(targets=np.arange(6), asked=np.array(TEXTS[conditioning], dtype=object))


def expected_by_all_orders(target: int, conditioning: str) -> dict[str, float]:
    """Oracle: the mean over every order of the gallery in which the asked text comes first."""
    texts = TEXTS[conditioning]
    instruments = CATEGORIES if conditioning == "coarse" else LABELS
    sums: dict[str, list[float]] = {}
    for order in permutations(range(6)):
        first = sorted(order, key=lambda stem: texts[stem] != texts[target])  # keeps the order
        rank = first.index(target) + 1
        figures = {f"recall@{k}": 100.0 * (rank <= k) for k in (1, 5, 10)}
        figures["normalized_rank_mean"] = 100 * rank / 6
        figures["right_song"] = 100.0 * (TRACKS[first[0]] == TRACKS[target])
        if instruments[target] is not None:
            figures["right_instrument"] = 100.0 * (instruments[first[0]] == instruments[target])
        for metric, column in ((WITHIN_LABEL, LABELS), (WITHIN_CATEGORY, CATEGORIES)):
            like = [stem for stem in first if column[stem] == column[target]]
            if column[target] is not None and len(like) > 1:
                figures[metric] = 100 * like.index(target) / (len(like) - 1)
        for metric, figure in figures.items():
            sums.setdefault(metric, []).append(figure)
    return {metric: float(np.mean(figures)) for metric, figures in sums.items()}


@pytest.mark.parametrize("conditioning", TEXTS)
def test_a_look_up_has_the_mean_of_all_orders(gallery: Gallery, conditioning: str) -> None:
    values = lookup_values(gallery, queries_of(conditioning), conditioning, {})
    assert list(values) == [LABEL]
    for target in range(6):
        found = {m: v[target] for m, v in values[LABEL].items() if not np.isnan(v[target])}
        assert found == pytest.approx(expected_by_all_orders(target, conditioning))


def test_hand_worked_look_up(gallery: Gallery) -> None:
    values = lookup_values(gallery, queries_of("fine"), "fine", {})[LABEL]
    assert values["recall@1"].tolist() == [50, 50, 100, 100, 50, 50]
    assert values["recall@5"].tolist() == [100] * 6
    assert values["normalized_rank_mean"] == pytest.approx(
        [25, 25, 100 / 6, 100 / 6, 25, 25]  # (2 + 1)/2 of 6, and 1 of 6
    )
    # synth basses are drawn; the one "bass" is alone, so is the flute; of the basses it is last
    nan = np.nan
    assert values[WITHIN_LABEL] == pytest.approx([50, 50, nan, nan, nan, nan], nan_ok=True)
    assert values[WITHIN_CATEGORY] == pytest.approx([25, 25, 0, nan, nan, nan], nan_ok=True)
    assert values["right_song"].tolist() == [100, 100, 100, 100, 50, 50]


@pytest.mark.parametrize("conditioning", TEXTS)
def test_labels_first_then_cosines_equals_a_sort(
    gallery: Gallery, make_embeddings: Callable[..., Embeddings], conditioning: str
) -> None:
    """Oracle: sort by (other text, falling cosine), the target last among its ties."""
    random = np.random.default_rng(0)
    stems, asked = random.normal(size=(6, 3)), random.normal(size=(6, 3))
    stems /= np.linalg.norm(stems, axis=1)[:, None]
    stems[1] = stems[0]  # the synth basses tie
    queries, texts = queries_of(conditioning), TEXTS[conditioning]
    embeddings = make_embeddings(stems, asked)
    values = lookup_values(gallery, queries, conditioning, {CONTRASTIVE: embeddings})
    assert list(values) == [LABEL_FIRST, LABEL]
    found = values[LABEL_FIRST]
    cosines = (asked @ stems.T).round(5)
    for target in range(6):
        order = sorted(
            range(6),
            key=lambda s, t=target: (texts[s] != texts[t], -cosines[t, s], s == t),
        )
        assert found["normalized_rank_mean"][target] == pytest.approx(
            100 * (order.index(target) + 1) / 6
        )
        for metric, column in ((WITHIN_LABEL, LABELS), (WITHIN_CATEGORY, CATEGORIES)):
            like = [stem for stem in order if column[stem] == column[target]]
            if column[target] is None or len(like) < 2:
                assert np.isnan(found[metric][target])
            else:
                place = 100 * like.index(target) / (len(like) - 1)
                assert found[metric][target] == pytest.approx(place)
    if conditioning == "none":  # a text that all have decides nothing
        alone = answer_values(
            gallery, queries, answer_queries(gallery, queries, embeddings), conditioning
        )
        for metric, each in alone.items():
            assert found[metric] == pytest.approx(each, nan_ok=True)


@pytest.mark.parametrize("conditioning", TEXTS)
def test_a_hybrid_answer_equals_a_sort(
    gallery: Gallery, make_embeddings: Callable[..., Embeddings], conditioning: str
) -> None:
    """Oracle: the sum of the weighted parts by hand, the instrument's being 1 where it is known."""
    random = np.random.default_rng(1)
    song, instrument = (random.normal(size=(2, 6, 2)) for _ in range(2))
    song /= np.linalg.norm(song, axis=-1)[..., None]
    instrument /= np.linalg.norm(instrument, axis=-1)[..., None]
    stems, asked = np.concatenate([0.6**0.5 * song, 0.4**0.5 * instrument], axis=-1)
    queries = queries_of(conditioning)
    embeddings = replace(make_embeddings(stems, asked), manifest={"part_shares": [0.6, 0.4]})
    values = lookup_values(gallery, queries, conditioning, {"two": embeddings})
    assert list(values) == ["two" + WITH_LABEL, LABEL]
    for target in range(6):
        text = TEXTS[conditioning][target]
        scores = 0.6 * song[0] @ song[1][target]
        for stem in range(6):
            is_known = text != "music" and text in (LABELS[stem], CATEGORIES[stem])
            heard = instrument[0][stem] @ instrument[1][target]
            scores[stem] += 0.4 * (1 if is_known else heard)
        order = sorted(range(6), key=lambda stem: -scores[stem])
        rank = order.index(target) + 1
        found = {metric: each[target] for metric, each in values["two" + WITH_LABEL].items()}
        assert found["normalized_rank_mean"] == pytest.approx(100 * rank / 6)
        assert found["right_song"] == 100 * (TRACKS[order[0]] == TRACKS[target])
        like = [stem for stem in order if LABELS[stem] == LABELS[target]]
        if LABELS[target] is not None and len(like) > 1:
            place = 100 * like.index(target) / (len(like) - 1)
            assert found[WITHIN_LABEL] == pytest.approx(place)
