"""Folds: no track in two parts, every track tested once, nothing decided by the test fold."""

from pathlib import Path

import numpy as np
import pytest

from ml.beats.probe import ProbeTrack
from ml.beats.probes import SPLIT, plan_folds


def track(name: str, group: str | int | None) -> ProbeTrack:
    return ProbeTrack(
        corpus="c",
        track_id=name,
        group=group,
        beats=np.array([6.0]),
        features=Path("none"),
        steps=1,
        probes=8,
        frames=8,
    )


def ids(tracks: tuple[ProbeTrack, ...]) -> set[str]:
    return {found.track_id for found in tracks}


def test_eight_folds_are_disjoint_and_test_every_track_once():
    tracks = [track(f"{fold}-{i}", fold) for fold in range(8) for i in range(2)]
    folds = plan_folds([*tracks, track("gtzan", None)])
    assert [fold.name for fold in folds] == [f"fold-{i}" for i in range(8)]
    for number, fold in enumerate(folds):
        parts = [ids(fold.train), ids(fold.valid), ids(fold.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 16
        assert {t.group for t in fold.test} == {number}
        assert {t.group for t in fold.valid} == {(number + 1) % 8}
        assert len(fold.train) == 12
    assert sorted(name for fold in folds for name in ids(fold.test)) == sorted(
        t.track_id for t in tracks
    )


def test_splits_are_one_fold():
    (fold,) = plan_folds([track(split, split) for split in ("test", "train", "valid")])
    assert fold.name == SPLIT
    assert (ids(fold.train), ids(fold.valid), ids(fold.test)) == ({"train"}, {"valid"}, {"test"})


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([0, 1, 2, "train"], "not both"),
        ([0, 1], "2 folds"),
        (["train", "test"], "split valid"),
        ([None], "split train"),
    ],
)
def test_what_cannot_be_planned_is_said(groups: list[str | int | None], said: str):
    with pytest.raises(ValueError, match=said):
        plan_folds([track(str(i), group) for i, group in enumerate(groups)])
