"""Decode every stem of a corpus once: rate, length, level, activity and content hash.

Whatever is wrong with a stem becomes its ``problem``, one sentence for people; the scan goes on. Of
what kind it is (what ``stems corpus inspect`` counts, with what to do) is told by the words that
all such sentences share.

Measurements are recorded in ``scans.jsonl``, a line of JSON a stem as it comes in: the stem's id,
the stamp of its files (paths, sizes, times) and a ``StemScan``. The file is only appended to while
a scan runs, so one that is killed loses the stem it was at and no other. Of several lines for a
stem the last counts, and a line cut short counts for nothing.

Is one of a track's stems a bounce of its mix? Such a stem equals the sum of the others, at any
level. That is told by content, from a few hundred bytes a stem: a *sketch* is a stem's projection
on 256 random directions. Sketches add up as waveforms do, and keep their correlations to a few
percent (an AMS or "count" sketch), so that a scan need not hold the stems of a track together. A
stem that goes as well with a single other one is a double and no mix.
"""

from __future__ import annotations

import hashlib
import json
import math
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ml.artifacts import write_aside
from ml.audio.activity import ActivityConfig, active_intervals, active_seconds
from ml.audio.files import USABLE_SHARE, AudioError, decode_audio, mix_parts
from ml.processes import process_pool
from ml.progress import progress
from ml.tracks import Corpus, CorpusError, Stem, Track, is_text, shown

RATE_HZ = 16000
"""Levels and activity are measured on the mono stem at this rate: what the model will hear."""
RECORD_NAME = "scans.jsonl"
PROBLEM_KINDS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("is cut off", ("was cut off",), "copy or download it again"),
    ("is damaged", ("is damaged", "NaN or infinite"), "copy or export it again"),
    ("looks like the mix", ("looks like the mix",), "take it out: a mix is the sum of its stems"),
    ("never sounds", ("never sounds",), "export it again, or take it out"),
    ("is alone in its track", ("is the only stem",), "add the track's other stems"),
    (
        "cannot be decoded",
        ("cannot be decoded", "ended the process", "needs more memory"),
        "convert it to wav or flac",
    ),
    (
        "has a header that is wrong",
        ("its header is wrong", "lasts over"),
        "export it again",
    ),
    ("holds nothing", ("is empty", "holds no samples"), "export it again, or take it out"),
    ("has a name that is not UTF-8", ("not UTF-8",), "rename it"),
    (
        "is not there",
        ("does not exist", "is a folder", "no regular file", "cannot be read"),
        "correct the path",
    ),
)
"""Kind, words of its sentences, what to do."""
MIX_CORRELATION = 0.95
"""A stem is taken for the mix when it goes so well with the sum of the others."""
_SKETCH = 256
_SKETCH_ROWS = 4096
"""Rows of ``_SKETCH`` samples whose signs are drawn at once."""
_MAX_SUM = 60_000.0
"""What float16 holds."""


@dataclass(frozen=True, kw_only=True)
class StemScan:
    """What was measured on one stem; None where it could not be."""

    rate_hz: int | None = None
    """Of the first file."""
    channels: int | None = None
    """Of the first file."""
    duration_s: float | None = None
    """Of the summed stem, silence in front included."""
    active_s: float = 0.0
    """How long it sounds; 0: not usable."""
    peak: float | None = None
    """Largest absolute sample of the summed stem at ``RATE_HZ``; full scale is 1.0."""
    rms_db: float | None = None
    """Level of the whole stem in dB relative to full scale; None for digital silence."""
    content_hash: str | None = None
    """SHA-256 over the bytes of its files, and the stream's index where one is given."""
    problem: str | None = None
    """What is wrong and what to do, one sentence."""
    sketch: str | None = None
    """Of the waveform (``ml.corpora.scan``); no column of the table."""


def listed_tracks(corpus: Corpus) -> list[Track]:
    """List all tracks of a corpus.

    Raises:
        CorpusError: no stems, or ids that occur twice.
    """
    tracks = list(corpus.tracks())
    ids = Counter(stem.stem_id for track in tracks for stem in track.stems)
    if not ids:
        raise CorpusError(f"{corpus.root} holds no stems; add audio, or take it out of 'corpora:'")
    names = Counter(track.track_id for track in tracks)
    doubled = [key for key, count in (ids | names).items() if count > 1]
    if doubled:
        raise CorpusError(
            f"{corpus.root} gives the id {doubled[0]!r} twice ({len(doubled)} such ids); rename "
            "files, or give them a stem_id of their own"
        )
    return tracks


def scan_stems(
    stems: Sequence[Stem], *, workers: int = 1, activity: ActivityConfig | None = None
) -> Iterator[StemScan]:
    """Decode every stem once, in order.

    Args:
        stems: what to scan.
        workers: processes; 1 stays in this one.
        activity: the silence rule.
    """
    config = activity or ActivityConfig()
    jobs = [(stem, config) for stem in stems]
    workers = min(workers, math.ceil(len(jobs) / 16))
    if workers <= 1:
        yield from progress(map(_scan, jobs), total=len(jobs), label="scanning stems")
        return
    yield from progress(_scan_in_pool(jobs, workers), total=len(jobs), label="scanning stems")


def scan_stem(stem: Stem, activity: ActivityConfig | None = None) -> StemScan:
    """Decode and measure one stem; never raises for what is wrong with its files.

    A stem of which less than ``USABLE_SHARE`` is there is left out (``active_s`` 0); with another
    problem of its length it is used as it is.
    """
    for path in stem.files:
        if not is_text(str(path)):
            return StemScan(
                problem=f"{shown(path)} has a name that is not UTF-8: it is left out; rename it"
            )
    measured = StemScan(content_hash=content_hash(stem))
    parts = []
    try:
        for path in stem.files:
            parts.append(decode_audio(path, rate_hz=RATE_HZ, stream=stem.stream))
            info = parts[0].info
            measured = replace(measured, rate_hz=info.rate_hz, channels=info.channels)
        waveform = mix_parts([part.waveform for part in parts], round(stem.start_s * RATE_HZ))
    except AudioError as error:
        return replace(measured, problem=str(error))
    except MemoryError:
        return replace(measured, problem=f"{_names(stem)} needs more memory than there is; cut it")
    config = activity or ActivityConfig()
    duration_s = len(waveform) / RATE_HZ
    intervals = active_intervals(waveform, RATE_HZ, config)
    mean_square = float(np.dot(waveform, waveform)) / len(waveform)
    peak = float(max(waveform.max(), -waveform.min()))
    measured = replace(
        measured,
        duration_s=duration_s,
        active_s=active_seconds(intervals, 0.0, duration_s),
        peak=peak,
        rms_db=10 * math.log10(mean_square) if mean_square > 0 else None,
        sketch=sketch_of(waveform),
    )
    if not intervals:
        return replace(measured, problem=_silence(stem, peak, config))
    if (share := min(part.share for part in parts)) < USABLE_SHARE:
        worst = next(part.problem for part in parts if part.share == share)
        return replace(measured, active_s=0.0, problem=f"left out: {worst}")
    return replace(measured, problem=next(filter(None, (part.problem for part in parts)), None))


def without_mixes(track: Track, scans: Sequence[StemScan]) -> list[StemScan]:
    """Leave out the stems that are bounces of their track's mix: queries would hear the answer."""
    judged = list(scans)
    while True:
        usable = [n for n, scan in enumerate(judged) if scan.active_s > 0 and scan.sketch]
        if len(usable) < 3 or (found := find_mix([judged[n].sketch or "" for n in usable])) is None:
            return judged
        place, correlation = usable[found[0]], found[1]
        judged[place] = replace(
            judged[place],
            active_s=0.0,
            problem=f"{_names(track.stems[place])} looks like the mix: it is the sum of the other "
            f"stems of track {track.track_id!r} (correlation {correlation:.3f}): it is left out; "
            "take it out of the corpus",
        )


def track_problems(track: Track, scans: Sequence[StemScan]) -> list[str | None]:
    """Name the problem of each stem of a track, its own or that it is the only usable one."""
    problems = [scan.problem for scan in scans]
    usable = [place for place, scan in enumerate(scans) if scan.active_s > 0]
    if len(usable) == 1:
        problems[usable[0]] = (
            f"{_names(track.stems[usable[0]])} is the only stem of track {track.track_id!r} that "
            "sounds: it can be found but there is no mix to search with; add the track's other "
            "stems"
        )
    return problems


def content_hash(stem: Stem) -> str | None:
    """Hash a stem's files: SHA-256 (64 hex digits) of their bytes, None if one cannot be read."""
    digest = hashlib.sha256()
    try:
        if not all(path.is_file() for path in stem.files):  # to open a pipe or device may hang
            return None
        for path in stem.files:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    except OSError:
        return None
    if stem.stream is not None:
        digest.update(f"#stream={stem.stream}".encode())
    return digest.hexdigest()


def _scan_in_pool(jobs: Sequence[tuple[Stem, ActivityConfig]], workers: int) -> Iterator[StemScan]:
    """Scan in processes; a file over which one dies is named, and the others go on."""
    done = 0
    with process_pool(workers) as pool, suppress(BrokenExecutor):
        for scan in pool.map(_scan, jobs, chunksize=4):
            yield scan
            done += 1
    for job in jobs[done:]:
        with process_pool(1) as pool:
            try:
                yield pool.submit(_scan, job).result()
            except BrokenExecutor:
                yield StemScan(
                    problem=f"{_names(job[0])} ended the process that decoded it: it is left out; "
                    "convert it to wav or flac, or take it out of the corpus"
                )


def _scan(job: tuple[Stem, ActivityConfig]) -> StemScan:
    return scan_stem(*job)


def _silence(stem: Stem, peak: float, config: ActivityConfig) -> str:
    level = f"its peak is {20 * math.log10(peak):.0f} dBFS" if peak > 0 else "every sample is 0"
    return (
        f"{_names(stem)} never sounds ({level}, no {config.min_active_s} s above {config.on_db:g} "
        "dB): it is left out; replace it, or take it out of the corpus"
    )


def _names(stem: Stem) -> str:
    return " + ".join(shown(path) for path in stem.files)


def read_scans(folder: Path, stamps: Mapping[str, str], root: Path) -> dict[str, StemScan]:
    """Read the measurements of stems whose stamp is unchanged.

    Args:
        folder: of the record.
        stamps: stem id → the stamp of its files now.
        root: of the corpus; problems are remembered only if they name this root.
    """
    scans = {}
    for entry in _entries(folder):
        stem_id, stamp = entry.pop("stem_id", None), entry.pop("stamp", None)
        if stem_id not in stamps or stamps[stem_id] != stamp:
            continue
        if not entry.get("problem") or f"{root}/" in entry["problem"]:
            scans[stem_id] = StemScan(**entry)
    return scans


def record_scans(
    folder: Path, measured: Iterable[tuple[str, StemScan]], stamps: Mapping[str, str]
) -> dict[str, StemScan]:
    """Append measurements to the record, each as it comes in.

    Args:
        folder: of the record; its lock is held.
        measured: stem id and measurement.
        stamps: stem id → the stamp of its files.

    Returns:
        All of ``measured``.
    """
    scans = {}
    path = folder / RECORD_NAME
    _cut_last_line(path)
    with path.open("a", encoding="utf-8") as file:
        for stem_id, scan in measured:
            file.write(_line(stem_id, stamps[stem_id], scan))
            file.flush()  # in the hands of the system: no longer lost when this process is killed
            scans[stem_id] = scan
    return scans


def compact_scans(folder: Path, scans: Mapping[str, StemScan], stamps: Mapping[str, str]) -> None:
    """Write the record anew if it holds more or less than these measurements."""
    if sum(1 for _ in _entries(folder)) != len(scans):
        with write_aside(folder / RECORD_NAME) as aside, aside.open("w", encoding="utf-8") as file:
            file.writelines(_line(key, stamps[key], scan) for key, scan in scans.items())


def _line(stem_id: str, stamp: str, scan: StemScan) -> str:
    entry = {"stem_id": stem_id, "stamp": stamp, **vars(scan)}
    return json.dumps(entry, separators=(",", ":"), allow_nan=False) + "\n"


def _entries(folder: Path) -> Iterator[dict[str, Any]]:
    if (folder / RECORD_NAME).is_file():
        with (folder / RECORD_NAME).open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict):
                    yield entry


def _cut_last_line(path: Path) -> None:
    """Take away a last line without an end: a process was killed while it wrote it."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        whole = file.read()
        if not whole.endswith(b"\n"):
            file.truncate(whole.rfind(b"\n") + 1)


def count_problems(problems: Iterable[str | None]) -> list[tuple[str, int, str]]:
    """Count the stems of each kind of problem: kind, how many, what to do; most frequent first."""
    kinds = Counter(_kind(problem) for problem in problems if problem)
    remedies = {kind: remedy for kind, _, remedy in PROBLEM_KINDS}
    return [(kind, count, remedies.get(kind, "see above")) for kind, count in kinds.most_common()]


def _kind(problem: str) -> str:
    for kind, words, _ in PROBLEM_KINDS:
        if any(word in problem for word in words):
            return kind
    return "other"


def sketch_of(waveform: np.ndarray) -> str:
    """Project (samples,) on 256 random directions: sample n counts for n mod 256, with a sign."""
    total = np.zeros(_SKETCH)
    size = _SKETCH * _SKETCH_ROWS
    for place, start in enumerate(range(0, len(waveform), size)):
        block = waveform[start : start + size]
        rows = -(-len(block) // _SKETCH)
        padded = np.zeros(rows * _SKETCH, dtype=np.float32)
        padded[: len(block)] = block
        total += np.einsum("ij,ij->j", padded.reshape(rows, _SKETCH), _signs(place)[:rows])
    total = total.clip(-_MAX_SUM, _MAX_SUM)
    return b64encode(total.astype(np.float16).tobytes()).decode()


def find_mix(sketches: Sequence[str]) -> tuple[int, float] | None:
    """Find which of a track's stems is the sum of the others: its place and the correlation.

    Args:
        sketches: of three or more stems.
    """
    content = b"".join(map(b64decode, sketches))
    rows = np.frombuffer(content, np.float16).reshape(len(sketches), _SKETCH).astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    if not norms.all():
        return None
    pairs = (rows @ rows.T) / np.outer(norms, norms) - 2 * np.eye(len(rows))
    others = rows.sum(axis=0) - rows
    scale = norms * np.sqrt(np.einsum("ij,ij->i", others, others))
    scores = np.einsum("ij,ij->i", rows, others) / np.where(scale > 0, scale, np.inf)
    for place in np.flatnonzero((pairs >= MIX_CORRELATION).any(axis=1)):
        scores[place] = _score_among_doubles(rows, pairs[place], place, scores[place])
    best = int(np.argmax(scores))
    return (best, float(scores[best])) if scores[best] >= MIX_CORRELATION else None


def _score_among_doubles(rows: np.ndarray, pairs: np.ndarray, place: int, score: float) -> float:
    """Judge a stem with doubles: by the sum of the others, or of those that are none of them.

    With its doubles among them it must go clearly better with the sum than with any one of them.
    """
    if 1 - score > 0.5 * (1 - pairs.max()):
        score = 0.0
    apart = np.flatnonzero((pairs < MIX_CORRELATION) & (np.arange(len(rows)) != place))
    if len(apart) >= 2:
        score = max(score, _correlation(rows[place], rows[apart].sum(axis=0)))
    return score


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    scale = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / scale) if scale > 0 else 0.0


@lru_cache(maxsize=8)
def _signs(place: int) -> np.ndarray:
    """Draw the signs of a block: (row, projection) float32, the same on every machine."""
    bits = np.random.PCG64(place).random_raw(_SKETCH * _SKETCH_ROWS // 64).view(np.uint8)
    return (1 - 2 * np.unpackbits(bits).astype(np.float32)).reshape(_SKETCH_ROWS, _SKETCH)
