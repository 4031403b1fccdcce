from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ml.retrieval.embeddings.files import Embeddings
from ml.retrieval.evaluation import ranks as metrics
from ml.retrieval.evaluation.ranks import (
    WITHIN_CATEGORY,
    WITHIN_LABEL,
    Gallery,
    Queries,
    answer_chance,
    answer_queries,
    answer_values,
    chance_scores,
    ranks_and_nearest,
    ranks_in_groups,
    retrieval_scores,
    target_ranks,
)


def sorted_ranks(
    queries: np.ndarray, gallery: np.ndarray, targets: np.ndarray, tolerance: float
) -> np.ndarray:
    """Oracle: the full matrix in float64; the worst place the target can take among its ties."""
    q = queries.astype(np.float64) / np.linalg.norm(queries.astype(np.float64), axis=1)[:, None]
    g = gallery.astype(np.float64) / np.linalg.norm(gallery.astype(np.float64), axis=1)[:, None]
    ranks = []
    for row, target in zip(q @ g.T, targets, strict=True):
        others = sorted(np.delete(row, target), reverse=True)
        ranks.append(1 + sum(other > row[target] - tolerance for other in others))
    return np.array(ranks)


def test_hand_worked_three_by_three() -> None:
    gallery = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    queries = np.array([[3, 2, 1], [3, 2, 1], [1, 2, 3]], dtype=np.float32)
    targets = np.array([0, 1, 0])
    ranks, nearest = ranks_and_nearest(queries, gallery, targets)
    assert ranks.tolist() == [1, 2, 3]
    assert nearest.tolist() == [0, 0, 2]
    assert ranks.dtype == np.int64
    scores = retrieval_scores(ranks, 3)
    assert scores == pytest.approx(
        {
            "recall@1": 100 / 3,
            "recall@5": 100,
            "recall@10": 100,
            "normalized_rank_mean": 200 / 3,
            "normalized_rank_median": 200 / 3,
        }
    )


def test_equals_a_full_sort_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_QUERY_BLOCK", 7)
    monkeypatch.setattr(metrics, "_GALLERY_BLOCK", 11)
    random = np.random.default_rng(0)
    queries, gallery = random.normal(size=(60, 16)), random.normal(size=(95, 16))
    targets = random.integers(0, 95, 60)
    expected = sorted_ranks(queries, gallery, targets, 0.0)
    ranks, nearest = ranks_and_nearest(queries, gallery, targets)
    assert np.array_equal(ranks, expected)
    assert np.array_equal(target_ranks(queries, gallery, targets), expected)
    unit = gallery / np.linalg.norm(gallery, axis=1)[:, None]
    assert np.array_equal(nearest, (queries @ unit.T).argmax(1))


def test_ties_count_against_the_query() -> None:
    random = np.random.default_rng(1)
    distinct = random.normal(size=(20, 12)).astype(np.float32)
    gallery = distinct[random.integers(0, 20, 300)]
    queries = random.normal(size=(50, 12)).astype(np.float32)
    targets = random.integers(0, 300, 50)
    ranks, nearest = ranks_and_nearest(queries, gallery, targets)
    assert np.array_equal(ranks, sorted_ranks(queries, gallery, targets, metrics.TIE_TOLERANCE))
    assert np.array_equal(nearest == targets, ranks == 1)


@pytest.mark.parametrize("is_tied", [False, True])
def test_hand_worked_places_within_label_and_category(
    make_gallery: Callable[..., Gallery], make_embeddings: Callable[..., Embeddings], is_tied: bool
) -> None:
    """Queries lie along the first axis: the cosine of a stem is its first entry."""
    cosines = [0.5, 0.9, 0.5 if is_tied else 0.2, 0.7, 0.95]
    gallery = make_gallery(
        labels=["bass", "bass", "bass", "flute", None],
        categories=["low", "low", "low", "low", None],
    )
    stems = np.array([[c, np.sqrt(1 - c * c)] for c in cosines], dtype=np.float32)
    queries = Queries(targets=np.arange(5), asked=np.array(["x"] * 5, dtype=object))
    embeddings = make_embeddings(stems, np.array([[1, 0]] * 5, dtype=np.float32))
    values = answer_values(gallery, queries, answer_queries(gallery, queries, embeddings), "fine")
    # of three basses stem 0 is second, or level with the third, which counts against it
    nan = np.nan
    within = [100.0, 0.0, 100.0, nan, nan] if is_tied else [50.0, 0.0, 100.0, nan, nan]
    assert values[WITHIN_LABEL] == pytest.approx(within, nan_ok=True)
    within = [100.0, 0.0, 100.0] if is_tied else [200 / 3, 0.0, 100.0]
    assert values[WITHIN_CATEGORY] == pytest.approx([*within, 100 / 3, nan], nan_ok=True)
    chance = answer_chance(gallery, queries, "fine")
    assert chance[WITHIN_LABEL] == chance[WITHIN_CATEGORY] == 50


def test_places_in_groups_equal_a_full_sort_of_each_group() -> None:
    random = np.random.default_rng(11)
    distinct = random.normal(size=(30, 12)).astype(np.float32)
    gallery = distinct[random.integers(0, 30, 90)]  # with ties
    queries, targets = random.normal(size=(70, 12)), random.integers(0, 90, 70)
    groups = random.choice(np.array(["a", "b", None], dtype=object), 90)
    groups[5] = "alone"
    targets[0] = 5
    ranks, nearest = ranks_in_groups(queries, gallery, targets, groups)
    for query, target in enumerate(targets):
        rows = [row for row in range(90) if groups[row] == groups[target]]
        own = np.array([rows.index(target)])
        expected = sorted_ranks(queries[[query]], gallery[rows], own, metrics.TIE_TOLERANCE)
        assert ranks[query] == expected[0]
        assert groups[nearest[query]] == groups[target]
        assert (nearest[query] == target) == (ranks[query] == 1)


def test_unique_and_missing_labels_have_no_place_and_nothing_is_divided_by_zero(
    make_gallery: Callable[..., Gallery], make_embeddings: Callable[..., Embeddings]
) -> None:
    gallery = make_gallery(labels=["bass", "flute", None], categories=["low", "high", None])
    queries = Queries(targets=np.arange(3), asked=np.array(["x"] * 3, dtype=object))
    embeddings = make_embeddings(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32))
    with np.errstate(all="raise"):
        answers = answer_queries(gallery, queries, embeddings)
    assert np.isnan(answers.within[WITHIN_LABEL]).all()
    assert np.isnan(answers.within[WITHIN_CATEGORY]).all()


def test_collapsed_embeddings_rank_last() -> None:
    one = np.random.default_rng(2).normal(size=(1, 768)).astype(np.float32)
    ranks = target_ranks(one.repeat(33, 0), one.repeat(501, 0), np.arange(33))
    assert set(ranks.tolist()) == {501}


@pytest.mark.parametrize("blocks", [(1, 1), (7, 11), (64, 256), (1024, 4096)])
@pytest.mark.parametrize("dim", [3, 384, 3840])
def test_duplicates_tie_whatever_the_kernel(
    monkeypatch: pytest.MonkeyPatch, dim: int, blocks: tuple[int, int]
) -> None:
    """Kernels give a duplicate of the target another cosine, by its place in the block."""
    random = np.random.default_rng(dim)
    # Few large entries among many: the rounding that differs most between kernels.
    distinct = random.normal(size=(4, dim)).astype(np.float32) ** 5
    which = random.integers(0, 4, 90)
    gallery = distinct[which] * random.uniform(0.1, 10, (90, 1)).astype(np.float32)
    queries = gallery[:30] + random.normal(size=(30, dim)).astype(np.float32)
    expected = sorted_ranks(queries, gallery, np.arange(30), metrics.TIE_TOLERANCE)
    monkeypatch.setattr(metrics, "_QUERY_BLOCK", blocks[0])
    monkeypatch.setattr(metrics, "_GALLERY_BLOCK", blocks[1])
    ranks = target_ranks(queries, gallery, np.arange(30))
    assert np.array_equal(ranks, expected)
    assert (ranks >= np.bincount(which)[which[:30]]).all()


def test_near_ties_are_decided_in_float64() -> None:
    """Rows 7 and 9 ulp behind the target: the first tie, the others do not; kernels err by more."""
    random = np.random.default_rng(4)
    behind = np.array([0.0, *[7.0] * 20, *[9.0] * 20]) * 2.0**-24
    for _ in range(20):
        query, *asides = np.linalg.qr(random.normal(size=(768, 1 + len(behind))))[0].T
        cosines = (0.5 - behind)[:, None]
        gallery = cosines * query + np.sqrt(1 - cosines**2) * np.array(asides)
        assert target_ranks(query[None], gallery, np.array([0])).tolist() == [21]


def test_cosines_a_few_ulp_apart_are_ties_and_farther_ones_are_not() -> None:
    query = np.array([[1.0, 0.0]], dtype=np.float32)
    for angle, rank in ((2e-4, 2), (2e-3, 1)):  # cosine falls by angle²/2: 2e-8 and 2e-6
        gallery = np.array([[1, 0], [np.cos(angle), np.sin(angle)]], dtype=np.float32)
        assert target_ranks(query, gallery, np.array([0])).tolist() == [rank]


def test_gallery_order_and_scale_do_not_matter() -> None:
    random = np.random.default_rng(3)
    queries, gallery = random.normal(size=(40, 8)), random.normal(size=(80, 8))
    targets = random.integers(0, 80, 40)
    order = random.permutation(80)
    place = np.argsort(order)
    scaled = gallery[order] * random.uniform(0.1, 10, (80, 1))
    ranks = target_ranks(queries, gallery, targets)
    assert np.array_equal(ranks, target_ranks(queries, scaled, place[targets]))


def test_chance_is_the_mean_over_all_places() -> None:
    for size in (1, 3, 10, 297):
        uniform = retrieval_scores(np.arange(1, size + 1), size)
        assert chance_scores(size) == pytest.approx(uniform)


def test_perfect_ranks_score_full_recall() -> None:
    scores = retrieval_scores(np.ones(5, dtype=int), 200)
    assert scores["recall@1"] == 100
    assert scores["normalized_rank_mean"] == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_bad_vectors_name_the_row(bad: float) -> None:
    good, broken = np.ones((4, 3)), np.ones((4, 3))
    broken[2] = bad
    with pytest.raises(ValueError, match="row 2 of queries"):
        target_ranks(broken, good, np.arange(4))
    with pytest.raises(ValueError, match="row 2 of gallery"):
        target_ranks(good, broken, np.arange(4))


@pytest.mark.parametrize(
    ("queries", "gallery", "targets", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), np.array([0, 1]), "3 dimensions, the gallery 4"),
        (np.ones((2, 3)), np.ones((2, 3)), np.array([0, 2]), "target 2 of query 1"),
        (np.ones((2, 3)), np.ones((2, 3)), np.array([0, -1]), "target -1 of query 1"),
        (np.ones((2, 3)), np.ones((2, 3)), np.array([0]), "targets are"),
        (np.ones((2, 3)), np.ones((2, 3)), np.array([0.0, 1.0]), "targets are"),
        (np.ones(3), np.ones((2, 3)), np.array([0]), "queries have shape"),
    ],
)
def test_shapes_that_do_not_fit(
    queries: np.ndarray, gallery: np.ndarray, targets: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        target_ranks(queries, gallery, targets)


@pytest.mark.parametrize("ranks", [[0], [4], []])
def test_ranks_outside_the_gallery(ranks: list[int]) -> None:
    with pytest.raises(ValueError, match="ranks"):
        retrieval_scores(np.array(ranks, dtype=int), 3)
