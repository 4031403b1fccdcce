"""Recordings with annotated beats: Ballroom, Hainsworth, SMC, Harmonix and GTZAN.

The annotations are read as they come with *Beat This!* (Foscarin, Schlüter and Widmer, ISMIR 2024,
the repository ``beat_this_annotations``): ``ROOT/<set>/annotations/beats/<track>.beats``, a beat a
line, its time in s in the first column, and ``ROOT/<set>/8-folds.split``, lines of a track and its
fold 0…7. GTZAN has no folds: nothing is trained on it, it is all ``test``.

A recording is found by its name and not opened: it is named like the annotation, or as the set
distributes it. Folders do not matter, nor do upper and lower case.

=========== ============================================= =========================
set         usual layout                                  annotation
=========== ============================================= =========================
ballroom    ``BallroomData/<Genre>/Media-105901.wav``     ``ballroom_Media-105901``
hainsworth  ``audio/hains001.flac``                       ``hainsworth_001``
smc         ``SMC_MIREX_Audio/SMC_001.wav``               ``smc_001``
gtzan       ``genres/blues/blues.00000.wav`` (or ``.au``) ``gtzan_blues_00000``
harmonix    none: its audio is not distributed            ``0001_12step``
=========== ============================================= =========================
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ml.audio.files import AUDIO_SUFFIXES
from ml.corpora.readers.listing import id_of, walk_files
from ml.tracks import CorpusError, Split, Stem, Track

UNFOLDED = frozenset(("gtzan",))
"""Sets that are never trained on, and have no folds."""
FOLDS = 8
"""Of the cross-validation."""
_NAMES = {
    "ballroom": (r"(?:ballroom_)?(.+)", r"ballroom_\1"),
    "hainsworth": (r"hains(?:worth_)?(\d+)", r"hainsworth_\1"),
    "smc": (r"smc_(\d+)", r"smc_\1"),
    "harmonix": (r"(.+)", r"\1"),
    "gtzan": (r"(?:gtzan_)?([a-z]+)[._](\d+)", r"gtzan_\1_\2"),
}
"""How the recordings of a set are named, and the annotation's name from that."""
SETS = tuple(_NAMES)
"""The published sets, in the order of the tables."""
_SUFFIXES = AUDIO_SUFFIXES | {".au"}
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
        """Counts of each, for tables and metadata."""
        return {
            "tracks": len(self.tracks),
            "beats": sum(len(track.beats) for track in self.tracks),
            "missing_audio": len(self.missing),
            "missing_annotation": len(self.unannotated),
            "problems": len(self.problems),
        }


class BeatCorpus:
    """The annotated recordings below a folder, sorted by name.

    Args:
        root: where the recordings lie.
        set: one of ``SETS``.
        annotations: the folder that holds the annotations of the sets; relative to ``root``.

    Raises:
        CorpusError: an unknown set, annotations that cannot be read, or no recording of any
            annotated track.
    """

    def __init__(self, root: Path, set: str, annotations: str | Path) -> None:
        self.root = Path(root)
        self.beat_set = read_beat_annotations(self.root / annotations, set, audio_root=self.root)
        if not self.beat_set.tracks:
            raise CorpusError(
                f"{self.root} holds no recording of the {len(self.beat_set.missing)} annotated "
                f"tracks of {set}, and {len(self.beat_set.unannotated)} other audio files; "
                "expected files named like the annotations or as the set is distributed"
            )

    def tracks(self) -> Iterator[Track]:
        """List all annotated tracks that have a recording."""
        split = "test" if self.beat_set.name in UNFOLDED else None
        for track in self.beat_set.tracks:
            yield Track(track_id=track.track_id, stems=track.stems, split=split)

    def notes(self) -> list[str]:
        """Say what was not read and why, a sentence for each reason."""
        found = self.beat_set
        counts = {
            "annotated tracks have no recording": len(found.missing),
            "audio files belong to no annotated track": len(found.unannotated),
        }
        return [f"{count} {what}" for what, count in counts.items() if count] + [*found.problems]


def read_beat_annotations(
    root: str | Path, set_name: str, *, audio_root: str | Path | None = None
) -> BeatSet:
    """Read one of the published sets.

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
    folder = Path(root).expanduser().resolve() / set_name
    files = _beat_files(folder)
    beats = {path: read_beat_file(path) for path in files}
    tracks = [BeatTrack(track_id=id_of(path.stem), beats=found) for path, found in beats.items()]
    problems = [
        f"{path} holds no beat at or after 0 s; the track is left out"
        for path, found in beats.items()
        if not len(found)
    ]
    tracks = [track for track in tracks if len(track.beats)]
    if set_name not in UNFOLDED:
        tracks, without_fold = _with_folds(tracks, folder / "8-folds.split")
        problems += without_fold
    annotated = BeatSet(name=set_name, tracks=tuple(tracks), problems=tuple(problems))
    if audio_root is None:
        return annotated
    return _with_audio(
        annotated, Path(audio_root).expanduser().resolve(), [id_of(path.stem) for path in files]
    )


def read_beat_file(path: Path) -> np.ndarray:
    """Read the beats of one annotation file: (beat,) float64, times in s; may be empty.

    Only the first column is read. Negative times are dropped (the annotation began before the
    file was cut).

    Raises:
        BeatAnnotationError: a first column that is no finite number, or times that do not
            increase; names the line.
    """
    lines = [(number, line.split()) for number, line in enumerate(_lines(path), start=1)]
    places = [f"{path} line {number}" for number, cells in lines if cells]
    return checked_beats([cells[0] for _, cells in lines if cells], places)


def beat_frames(beats: np.ndarray, fps: float) -> np.ndarray:
    """Find the frame of each beat: (beat,) int64, round(t · fps); frame n is at n / fps s."""
    return np.rint(np.asarray(beats, dtype=np.float64) * fps).astype(np.int64)


def checked_beats(times: Sequence[str | float], places: Sequence[str]) -> np.ndarray:
    """Turn times into beats: (beat,) float64 in s, those before 0 dropped; may be empty.

    Args:
        times: as they are written.
        places: of each time, for the error.

    Raises:
        BeatAnnotationError: one is no finite number, or they do not increase; names the place.
    """
    beats = np.array([_seconds(*pair) for pair in zip(times, places, strict=True)])
    if (later := np.flatnonzero(np.diff(beats) <= 0)).size:
        place = int(later[0]) + 1
        raise BeatAnnotationError(
            f"{places[place]} is {beats[place]} s after {beats[place - 1]} s; expected times that "
            "increase: sort them and delete what stands there twice"
        )
    return beats[beats >= 0]


def _beat_files(folder: Path) -> list[Path]:
    place = folder / "annotations" / "beats"
    files = sorted(p for p in place.glob("*.beats") if not p.name.startswith("."))
    if not files:
        what = "holds no .beats files" if place.is_dir() else "does not exist"
        raise BeatAnnotationError(f"{place} {what}; {_LAYOUT}")
    return files


def _with_folds(tracks: list[BeatTrack], path: Path) -> tuple[list[BeatTrack], list[str]]:
    folds = _read_folds(path)
    kept = [replace(t, fold=folds[t.track_id]) for t in tracks if t.track_id in folds]
    problems = [
        f"track {track.track_id} is not in {path}; it is left out"
        for track in tracks
        if track.track_id not in folds
    ]
    return kept, problems


def _read_folds(path: Path) -> dict[str, int]:
    """Read the fold of each track.

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


def _with_audio(annotated: BeatSet, root: Path, known_ids: Sequence[str]) -> BeatSet:
    """Give each track its recording: of several the first in alphabetical order of the paths.

    Args:
        annotated: the set without audio.
        root: the folder, searched with all folders in it.
        known_ids: names of all annotations, also of those that are left out.
    """
    if not root.is_dir():
        raise CorpusError(
            f"{root} is not a folder; give the folder that holds the audio of {annotated.name}"
        )
    ids = {track_id.lower(): track_id for track_id in known_ids}
    files: dict[str, Path] = {}
    unknown: list[Path] = []
    problems = list(annotated.problems)
    for path in _audio_files(root):
        track_id = ids.get(_annotation_name(annotated.name, id_of(path.stem)))
        if track_id is None:
            unknown.append(path)
        elif (taken := files.setdefault(track_id, path)) != path:
            problems.append(f"track {track_id} has two recordings: {taken} is used, not {path}")
    return replace(
        annotated,
        tracks=tuple(
            replace(
                track, audio=path, stems=(Stem(stem_id=f"{track.track_id}/mix", files=(path,)),)
            )
            for track in annotated.tracks
            if (path := files.get(track.track_id))
        ),
        missing=tuple(t.track_id for t in annotated.tracks if t.track_id not in files),
        unannotated=tuple(unknown),
        problems=tuple(problems),
    )


def _audio_files(root: Path) -> list[Path]:
    return sorted(
        path
        for path in walk_files(root)
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _annotation_name(set_name: str, name: str) -> str:
    pattern, template = _NAMES[set_name]
    found = re.fullmatch(pattern, name.lower())
    return found.expand(template) if found else ""


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
