"""Tracks with annotated beats: Ballroom, Hainsworth, SMC, Harmonix, GTZAN, and the demo songs.

The published sets are read as they come with *Beat This!* (Foscarin, Schlüter and Widmer, ISMIR
2024, the repository ``beat_this_annotations``): ``ROOT/<set>/annotations/beats/<track>.beats``, a
beat a line, its time in s in the first column, and ``ROOT/<set>/8-folds.split``, lines of a track
and its fold 0…7. GTZAN has no folds: nothing is trained on it. Audio is found by name
(``ml.beats.recordings``) and not opened here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ml.beats.recordings import SETS, find_recordings
from ml.corpora.corpus import CorpusError, Split, Stem
from ml.corpora.demo.reader import DemoCorpus

UNFOLDED = frozenset(("gtzan",))
"""Sets that are never trained on, and have no folds."""
FOLDS = 8
"""Of the cross-validation."""

_LAYOUT = (
    "expected ROOT/<set>/annotations/beats/*.beats and ROOT/<set>/8-folds.split, as in the public "
    "repository beat_this_annotations"
)


class BeatAnnotationError(CorpusError):
    """Beat annotations are missing or cannot be read; names the file and the line."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BeatTrack:
    """A recording with annotated beats."""

    track_id: str
    """The annotation's name without its suffix; unique over all sets."""
    beats: np.ndarray
    """(beat,) float64: times in s, at least 0 and increasing; at least one."""
    fold: int | None = None
    """0…7 in the cross-validation; None: the set has no folds."""
    audio: Path | None = None
    """The recording; None: it was not looked for, or it is the sum of several stems."""
    stems: tuple[Stem, ...] = ()
    """What sums to the recording: the one file ``audio``, or the stems of a demo song."""
    split: Split | None = None
    """Of a demo song; None in the published sets."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BeatSet:
    """The tracks of a set that can be used, and what was left out."""

    name: str
    tracks: tuple[BeatTrack, ...]
    """Sorted by id (demo songs: training songs first); with audio where it was looked for."""
    missing: tuple[str, ...] = ()
    """Tracks that are annotated but have no audio; they are not in ``tracks``."""
    unannotated: tuple[Path, ...] = ()
    """Audio files that belong to no annotated track."""
    problems: tuple[str, ...] = ()
    """What else was found and what was done about it, a sentence each."""

    @property
    def counts(self) -> dict[str, int]:
        """How many of each, for tables and metadata."""
        return {
            "tracks": len(self.tracks),
            "beats": sum(len(track.beats) for track in self.tracks),
            "missing_audio": len(self.missing),
            "missing_annotation": len(self.unannotated),
            "problems": len(self.problems),
        }


def read_beat_annotations(
    root: str | Path, set_name: str, *, audio_root: str | Path | None = None
) -> BeatSet:
    """One of the published sets.

    Left out, and listed: an annotation without any beat at or after 0 s; a track without a fold
    in a set that has folds; with ``audio_root`` a track without audio.

    Args:
        root: the folder that holds the sets.
        set_name: ballroom, hainsworth, smc, harmonix or gtzan.
        audio_root: where the recordings lie, in the set's usual layout or any other with the
            same file names; None: they are not looked for.

    Raises:
        BeatAnnotationError: an unknown set, missing files, or files of another shape.
    """
    if set_name not in SETS:
        raise BeatAnnotationError(
            f"beat set {set_name!r} is unknown; expected one of: {', '.join(SETS)} (demo songs "
            "come from their corpus)"
        )
    root = Path(root).expanduser().resolve()
    found, problems = _annotated(root / set_name)
    if set_name not in UNFOLDED:
        found, without_fold = _with_folds(found, root / set_name / "8-folds.split")
        problems += without_fold
    annotated = BeatSet(name=set_name, tracks=tuple(found), problems=tuple(problems))
    if audio_root is None:
        return annotated
    return _with_audio(annotated, Path(audio_root).expanduser().resolve(), _ids(root / set_name))


def read_demo_beats(root: str | Path) -> BeatSet:
    """The songs of a demo corpus with the beats they were composed on.

    Args:
        root: the corpus's folder; its name is the set's.

    Raises:
        CorpusError: no finished demo corpus, or a song of it is damaged.
    """
    corpus = DemoCorpus(root)
    tracks = tuple(
        BeatTrack(
            track_id=track.track_id,
            beats=_beats_of_song(corpus, track.track_id),
            stems=track.stems,
            split=track.split,
        )
        for track in corpus.tracks()
    )
    return BeatSet(name=corpus.root.name, tracks=tracks)


def read_beat_file(path: Path) -> np.ndarray:
    """The beats of one annotation file: (beat,) float64, times in s; may be empty.

    Only the first column is read. Negative times are dropped (the annotation began before the
    file was cut).

    Raises:
        BeatAnnotationError: a first column that is no finite number, or times that do not
            increase; names the line.
    """
    lines = [(number, line.split()) for number, line in enumerate(_lines(path), start=1)]
    places = [f"{path} line {number}" for number, cells in lines if cells]
    return _checked([cells[0] for _, cells in lines if cells], places)


def beat_frames(beats: np.ndarray, fps: float) -> np.ndarray:
    """The frame of each beat: (beat,) int64, round(t · fps); frame n is at n / fps s."""
    return np.rint(np.asarray(beats, dtype=np.float64) * fps).astype(np.int64)


def _annotated(folder: Path) -> tuple[list[BeatTrack], list[str]]:
    tracks, problems = [], []
    for path in _beat_files(folder):
        beats = read_beat_file(path)
        if len(beats):
            tracks.append(BeatTrack(track_id=path.stem, beats=beats))
        else:
            problems.append(f"{path} holds no beat at or after 0 s; the track is left out")
    return tracks, problems


def _beat_files(folder: Path) -> list[Path]:
    place = folder / "annotations" / "beats"
    files = sorted(p for p in place.glob("*.beats") if not p.name.startswith("."))
    if not files:
        what = "holds no .beats files" if place.is_dir() else "does not exist"
        raise BeatAnnotationError(f"{place} {what}; {_LAYOUT}")
    return files


def _ids(folder: Path) -> list[str]:
    return [path.stem for path in _beat_files(folder)]


def _with_folds(tracks: list[BeatTrack], path: Path) -> tuple[list[BeatTrack], list[str]]:
    folds = read_folds(path)
    kept = [replace(t, fold=folds[t.track_id]) for t in tracks if t.track_id in folds]
    problems = [
        f"track {track.track_id} is not in {path}; it is left out"
        for track in tracks
        if track.track_id not in folds
    ]
    return kept, problems


def read_folds(path: Path) -> dict[str, int]:
    """The fold of each track.

    Raises:
        BeatAnnotationError: a line of another shape, or a track that is listed twice (a track in
            two folds would be tested by a probe that has seen it).
    """
    folds: dict[str, int] = {}
    line_of: dict[str, int] = {}
    for number, line in enumerate(_lines(path), start=1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 2 or not cells[1].isdecimal() or int(cells[1]) >= FOLDS:
            raise BeatAnnotationError(
                f"{path} line {number} is {line[:60]!r}; expected a track and its fold, "
                f"0 to {FOLDS - 1}, separated by a tab"
            )
        if cells[0] in folds:
            raise BeatAnnotationError(
                f"{path} line {number} lists track {cells[0]!r} again (first in line "
                f"{line_of[cells[0]]}); a track belongs to one fold: delete one of the lines"
            )
        folds[cells[0]], line_of[cells[0]] = int(cells[1]), number
    return folds


def _with_audio(annotated: BeatSet, audio_root: Path, known_ids: Sequence[str]) -> BeatSet:
    found = find_recordings(audio_root, annotated.name, known_ids)
    tracks = tuple(
        replace(track, audio=path, stems=(Stem(stem_id=f"{track.track_id}/mix", files=(path,)),))
        for track in annotated.tracks
        if (path := found.files.get(track.track_id))
    )
    return replace(
        annotated,
        tracks=tracks,
        missing=tuple(t.track_id for t in annotated.tracks if t.track_id not in found.files),
        unannotated=found.unknown,
        problems=annotated.problems + found.problems,
    )


def _beats_of_song(corpus: DemoCorpus, track_id: str) -> np.ndarray:
    times = corpus.song(track_id).get("beats_s", [])
    if not times:
        raise BeatAnnotationError(
            f"song {track_id} of {corpus.root} holds no beats_s; make the corpus again with: "
            "stems demo"
        )
    return _checked(times, [f"beat {i} of song {track_id}" for i in range(len(times))])


def _checked(times: Sequence[str | float], places: Sequence[str]) -> np.ndarray:
    beats = np.array([_seconds(*pair) for pair in zip(times, places, strict=True)])
    if (later := np.flatnonzero(np.diff(beats) <= 0)).size:
        place = int(later[0]) + 1
        raise BeatAnnotationError(
            f"{places[place]} is {beats[place]} s after {beats[place - 1]} s; expected times that "
            "increase: sort them and delete what stands there twice"
        )
    return beats[beats >= 0]


def _seconds(text: str | float, place: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise BeatAnnotationError(
            f"{place} begins with {str(text)[:40]!r}; expected a time in s, then a tab or nothing"
        )
    return seconds


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise BeatAnnotationError(f"{path} cannot be read ({error.strerror}); {_LAYOUT}") from None
    except UnicodeDecodeError as error:
        raise BeatAnnotationError(f"{path} is not text ({error}); {_LAYOUT}") from None
