"""Which tracks probes are trained on, stopped by, and scored on.

Sets with published folds are cross-validated together: of each fold's seven training folds the
next one says when to stop, and the test fold is looked at once. Corpora with splits (the demo
songs) are not cross-validated: ``train`` trains, ``valid`` stops, ``test`` is scored. Tracks with
neither (GTZAN) are never trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ml.beats.probe_tracks import ProbeTrack

SPLIT = "split"
"""Name of the only fold of corpora with splits."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One training: no track is in two of its parts."""

    name: str
    """``fold-0`` … ``fold-7``, or ``SPLIT``."""
    train: tuple[ProbeTrack, ...]
    valid: tuple[ProbeTrack, ...]
    test: tuple[ProbeTrack, ...]


def plan_folds(tracks: Sequence[ProbeTrack]) -> list[Fold]:
    """The trainings that score each track of the trained-on corpora once at most.

    Args:
        tracks: of all corpora that are trained on; ``group`` is a fold or a split.

    Raises:
        ValueError: folds and splits at once, fewer than three folds, or a split without tracks.
    """
    groups = {track.group for track in tracks}
    folds = sorted(group for group in groups if isinstance(group, int))
    splits = {group for group in groups if isinstance(group, str)}
    if folds and splits:
        raise ValueError(
            f"some tracks have folds ({len(folds)}), others splits ({', '.join(sorted(splits))}); "
            "beats.corpora must be sets with published folds or demo corpora, not both"
        )
    if not folds:
        return [_split_fold(tracks, splits)]
    if len(folds) < 3:
        raise ValueError(
            f"the tracks have {len(folds)} folds; expected at least 3: to train, stop and test"
        )
    after = dict(zip(folds, [*folds[1:], folds[0]], strict=True))
    return [
        Fold(
            name=f"fold-{fold}",
            train=tuple(t for t in tracks if t.group not in (None, fold, after[fold])),
            valid=tuple(t for t in tracks if t.group == after[fold]),
            test=tuple(t for t in tracks if t.group == fold),
        )
        for fold in folds
    ]


def _split_fold(tracks: Sequence[ProbeTrack], splits: set[str]) -> Fold:
    wanted = ("train", "valid", "test")
    if lacking := [split for split in wanted if split not in splits]:
        raise ValueError(
            f"no track with beats and features is in split {lacking[0]}; expected tracks in "
            f"{', '.join(wanted)}: name a corpus that has them under beats.corpora"
        )
    train, valid, test = (tuple(t for t in tracks if t.group == split) for split in wanted)
    return Fold(name=SPLIT, train=train, valid=valid, test=test)
