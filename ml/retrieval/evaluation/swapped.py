"""The same queries with the mix of another track: what is lost if the mix is not one's own?

The target, the text asked for and the gallery stay. The mix is that of another track without *its*
stem of the same text, so that only the music differs, and no new prediction is needed: it is the
query for that other stem, as stored. A model that does not listen answers as before and loses
nothing; so does the row that looks the label up.

Which track: the tracks stand in a circle, in an order drawn with the evaluation's seed; the queries
of a track take, one after another, the mixes of the next track in which the same text was asked
for. Each track gives its mixes to one other track for each text. All are tracks that no model has
seen in training. A query whose text is asked for in its own track only is left out and counted:
loss and swapped figure are of the queries that are left.

The stem that the other mix lacks stays in the gallery, and comes before the target where a model
listens: with few stems a label, a place within the label can so fall behind chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ml.retrieval.evaluation.ranks import Gallery, Queries


def swap_mixes(gallery: Gallery, queries: Queries, seed: int) -> tuple[np.ndarray, Queries]:
    """Give each query the mix of another track, where the same text was asked for in one.

    Args:
        gallery: what is ranked.
        queries: each with the mix of its own track.
        seed: of the order of tracks.

    Returns:
        (query,) whether there is such a mix, and the queries that have one.
    """
    mixes = np.full(len(queries), -1, dtype=np.int64)
    for rows, others in _neighbours(gallery.songs[queries.targets], queries.asked, seed):
        mixes[rows] = np.resize(queries.targets[others], len(rows))
    kept = mixes >= 0
    return kept, Queries(
        targets=queries.targets[kept], asked=queries.asked[kept], mixes=mixes[kept]
    )


def _neighbours(
    tracks: np.ndarray, asked: np.ndarray, seed: int
) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Yield the queries of a track and a text, and those of the next track with the same text."""
    names = sorted(set(tracks))
    order = np.random.default_rng(seed).permutation(len(names))
    place = {names[i]: int(at) for at, i in enumerate(order)}
    by_text: dict[str, dict[str, list[int]]] = {}
    for row in sorted(range(len(tracks)), key=lambda row: place[tracks[row]]):
        by_text.setdefault(asked[row], {}).setdefault(tracks[row], []).append(row)
    for by_track in by_text.values():
        circle = list(by_track.values())
        if len(circle) > 1:
            yield from zip(circle, [*circle[1:], circle[0]], strict=True)
