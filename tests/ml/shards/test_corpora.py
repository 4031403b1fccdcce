"""Several corpora: what each fills of a batch, and songs that two of them have."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.shards.pairs import PairConfig
from ml.shards.reader import ShardPairs
from ml.shards.split import EpochOrder, MixedOrder, share_batch
from ml.shards.write import segment_key

CONFIG = PairConfig(chunk_s=2.0, min_active_s=0.3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable) -> list[Path]:
    """Corpora ``a`` and ``b`` of three songs: the first is the same, ``a`` has its others twice."""
    names = {
        "a": [("A Band", "Night Owl"), ("B", "Twice"), ("B", "Twice")],
        "b": [("a band", "Nightowl (feat. C)"), ("B", "Once"), (None, "Twice")],
    }
    made = []
    for name, songs in names.items():
        corpus = make_corpus(tmp_path_factory.mktemp(name), name=name, n_tracks=3, payload="pcm16")
        for i, (artist, title) in enumerate(songs):
            corpus.listed[i] = replace(corpus.listed[i], artist=artist, title=title)
        corpus.build()
        made.append(corpus.folder)
    return made


def test_a_song_of_two_corpora_is_one_and_two_tracks_of_one_corpus_stay_two(folders: list[Path]):
    pairs = ShardPairs(folders, config=CONFIG, batch_size=3, seed=0)
    assert pairs.same_songs == 1
    places = {track: place for place, track in enumerate(pairs.tracks)}
    first, other = places["a", "song 0.v1"], places["b", "song 0.v1"]
    met: dict[int, set[str]] = {}
    for batch in pairs.batches(stop=4 * pairs.batches_per_epoch):
        assert len(set(batch.track.tolist())) == 3  # so the two are never in one batch
        for track, key in zip(batch.track.tolist(), batch.keys, strict=True):
            met.setdefault(track, set()).add(key[: -len("-0000")])
    assert other not in met
    assert len(met[first]) == 2
    assert {places["a", "song 1.v1"], places["a", "song 2.v1"]} <= met.keys()
    assert ShardPairs(folders[:1], config=CONFIG, batch_size=3, seed=0).same_songs == 0


@pytest.mark.parametrize("is_by_track", [False, True])
def test_corpora_fill_each_batch_by_their_weights(folders: list[Path], is_by_track: bool):
    config = replace(CONFIG, weights={"b": 1, "a": 3}, is_by_track=is_by_track)
    pairs = ShardPairs(folders, config=config, batch_size=4, seed=0)
    corpora = {segment_key(*track, 0)[: -len("-0000")]: track[0] for track in pairs.tracks}
    for batch in pairs.batches(stop=9):
        of = [corpora[key[: -len("-0000")]] for key in batch.keys]
        assert of == ["a", "a", "a", "b"]
    whole = [batch.keys for batch in pairs.batches(stop=9)]
    resumed = ShardPairs(folders, config=config, batch_size=4, seed=0, workers=1).batches(7, 9)
    assert [batch.keys for batch in resumed] == whole[7:]


def test_each_corpus_has_its_own_epochs():
    parts = []
    for places, size in ((np.arange(40), 6), (np.arange(40, 50), 2)):
        order = EpochOrder(
            tracks=places,
            shards=np.zeros(50, int)[places],
            batch_size=size,
            seed=0,
            window_shards=4,
        )
        parts.append((places, order))
    mixed = MixedOrder(
        parts=tuple(parts), tracks=np.arange(50), shards=np.zeros(50, int), batch_size=8, seed=0
    )
    assert mixed.batches_per_epoch == 40 // 6
    batches = np.concatenate([mixed.batches(epoch) for epoch in range(5)])
    assert batches.shape == (30, 8)
    for (places, order), columns in zip(parts, (batches[:, :6], batches[:, 6:]), strict=True):
        n = order.batches_per_epoch
        for epoch in range(30 // n):
            assert np.array_equal(columns[epoch * n :][:n], places[order.batches(epoch)])


def test_places_add_up_and_wrong_weights_are_named():
    weights = {"a": 1.0, "b": 1.0, "c": 1.0}
    assert share_batch(weights, weights, 64) == {"a": 21, "b": 22, "c": 21}
    with pytest.raises(ValueError, match=r"has a, b, and the shards hold a, c; expected a weight"):
        share_batch({"a": 1, "b": 1}, {"a", "c"}, 8)
    with pytest.raises(ValueError, match=r"gives b no place in a batch of 8"):
        share_batch({"a": 100, "b": 1}, {"a", "b"}, 8)
