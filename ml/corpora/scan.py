"""Listen to a corpus once: rate, length, level, activity and content hash of every stem.

Whatever is wrong with a stem becomes its ``problem``, one sentence for people; the scan goes on.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ml.audio.activity import ActivityConfig, active_intervals, active_seconds
from ml.audio.files import AudioError, probe, read_stem
from ml.corpora.corpus import Corpus, CorpusError, Stem, Track
from ml.processes import process_pool
from ml.progress import progress

RATE_HZ = 16000
"""Levels and activity are measured on the mono stem at this rate: what the model will hear."""


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


def listed_tracks(corpus: Corpus) -> list[Track]:
    """All tracks of a corpus.

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
    with process_pool(workers) as pool:
        found = pool.map(_scan, jobs, chunksize=4)
        yield from progress(found, total=len(jobs), label="scanning stems")


def scan_stem(stem: Stem, activity: ActivityConfig | None = None) -> StemScan:
    """Decode and measure one stem; never raises for what is wrong with its files."""
    measured = StemScan(content_hash=content_hash(stem))
    try:
        info = probe(stem.files[0], stem.stream)
        measured = replace(measured, rate_hz=info.rate_hz, channels=info.channels)
        waveform = read_stem(stem, RATE_HZ)
    except AudioError as error:
        return replace(measured, problem=str(error))
    config = activity or ActivityConfig()
    duration_s = len(waveform) / RATE_HZ
    intervals = active_intervals(waveform, RATE_HZ, config)
    mean_square = float(np.dot(waveform, waveform)) / len(waveform)
    peak = float(max(waveform.max(), -waveform.min()))
    return replace(
        measured,
        duration_s=duration_s,
        active_s=active_seconds(intervals, 0.0, duration_s),
        peak=peak,
        rms_db=10 * math.log10(mean_square) if mean_square > 0 else None,
        problem=None if intervals else _silence(stem, peak, config),
    )


def track_problems(track: Track, scans: Sequence[StemScan]) -> list[str | None]:
    """The problem of each stem of a track, its own or that it is the only usable one."""
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
    """SHA-256 (64 hex digits) over the bytes of a stem's files, None if one cannot be read."""
    digest = hashlib.sha256()
    try:
        for path in stem.files:
            with path.open("rb") as file:
                for block in _blocks(file.read):
                    digest.update(block)
    except OSError:
        return None
    if stem.stream is not None:
        digest.update(f"#stream={stem.stream}".encode())
    return digest.hexdigest()


def _scan(job: tuple[Stem, ActivityConfig]) -> StemScan:
    return scan_stem(*job)


def _blocks(read: Callable[[int], bytes]) -> Iterable[bytes]:
    return iter(lambda: read(1 << 20), b"")


def _silence(stem: Stem, peak: float, config: ActivityConfig) -> str:
    level = f"its peak is {20 * math.log10(peak):.0f} dBFS" if peak > 0 else "every sample is 0"
    return (
        f"{_names(stem)} never sounds ({level}, no {config.min_active_s} s above {config.on_db:g} "
        "dB): it is left out; replace it, or take it out of the corpus"
    )


def _names(stem: Stem) -> str:
    return " + ".join(str(Path(path)) for path in stem.files)
