"""What one server holds while it runs, and how clients see it.

It holds uploads, mixes, stems, and queues for the work. What is known inside becomes an answer
(``ml.serve.schemas``) with links to its audio.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from ml.music.fit import Fit
from ml.retrieval.queries.candidates import Candidate
from ml.retrieval.queries.mix import ChunkVectors
from ml.retrieval.queries.retriever import Retrievers, StemRetriever
from ml.retrieval.queries.stem_files import StemFiles
from ml.serve.catalog import Catalog, TrackStems
from ml.serve.limits import ServeLimits
from ml.serve.mixes import Mixes, ServedMix
from ml.serve.schemas import CandidateInfo, FitInfo, MixInfo, StemSummary, TrackSummary, Waveform
from ml.serve.security import TRY_AGAIN
from ml.serve.sounds import Sound
from ml.serve.stem_audio import StemAudio
from ml.serve.uploads import UploadDesk
from ml.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")
_MOST_ASKED = 64
"""Questions of which is kept what the model made of them."""


class WorkQueue:
    """Threads that run blocking work, so much at one time; made and used in one event loop.

    Args:
        name: what waits, for the error: "queries".
        at_once: how many run.
        waiting: how many may wait besides.
    """

    def __init__(self, name: str, at_once: int, waiting: int):
        self._name = name
        self._limiter = CapacityLimiter(at_once)
        self._most = at_once + waiting
        self._pending = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what ``work`` returns.

        Raises:
            HTTPException: too many wait already.
        """
        if self._pending >= self._most:
            sentence = f"{self._pending} {self._name} are waiting already; try again soon"
            raise HTTPException(503, sentence, TRY_AGAIN)
        self._pending += 1
        try:
            return await to_thread.run_sync(lambda: work(*args, **kwargs), limiter=self._limiter)
        finally:
            self._pending -= 1


class Service:
    """The parts that endpoints use; ``queries`` wait in one queue, ``decodes`` of files in another.

    Args:
        settings: of the home.
        retrievers: what answers queries.
        limits: its bounds.
        folder: private and empty; all that is uploaded or decoded lies there.
    """

    def __init__(
        self, settings: Settings, retrievers: Retrievers, limits: ServeLimits, folder: Path
    ):
        files = StemFiles(settings.layout)
        self.limits = limits
        self.uploads = UploadDesk(folder, limits)
        self.mixes = Mixes(folder, files, limits, retrievers)
        self.stems = StemAudio(folder, files, limits)
        self.queries = WorkQueue("queries", limits.queries_at_once, limits.waiting)
        self.decodes = WorkQueue("files", limits.decodes_at_once, limits.waiting)
        self._retrievers = retrievers
        self._catalog: Catalog | None = None
        self._asked: dict[tuple[str, str, str | None], ChunkVectors] = {}
        self._lock = threading.Lock()

    def current(self) -> tuple[StemRetriever, Catalog]:
        """Give the retriever of now, and what its table holds.

        Raises:
            ArtifactError: there is no champion or no table of it.
        """
        retriever = self._retrievers.current()
        with self._lock:
            if self._catalog is None or self._catalog.tables is not retriever.tables:
                self._catalog = Catalog(retriever.tables)
            return retriever, self._catalog

    def asked(
        self, retriever: StemRetriever, mix: ServedMix, instrument: str | None
    ) -> ChunkVectors:
        """Give what ``ask`` makes of a mix, kept for the same question with other filters.

        Raises:
            HTTPException: the mix was dropped meanwhile.
            ValueError: the instrument is blank.
        """
        key = (retriever.model.model_id, mix.id, instrument)
        with self._lock:
            kept = self._asked.pop(key, None)
        asked = retriever.ask(mix.waveform(), instrument) if kept is None else kept
        with self._lock:
            self._asked[key] = asked  # the newest last
            while len(self._asked) > _MOST_ASKED:
                self._asked.pop(next(iter(self._asked)))
        return asked

    def catalog(self) -> Catalog:
        """Give what the table holds now."""
        return self.current()[1]


def _service_of(request: Request) -> Service:
    return request.app.state.service


TheService = Annotated[Service, Depends(_service_of)]
"""What an endpoint takes."""


def waveform_info(sound: Sound) -> Waveform:
    """Describe a sound at a glance."""
    return Waveform(
        duration_s=sound.duration_s, peaks=list(sound.peaks), served_gain=sound.served_gain
    )


def stem_summary(row: Mapping[str, Any]) -> StemSummary:
    """Describe a row of the table in a few words."""
    return StemSummary(**{name: row[name] for name in StemSummary.model_fields})


def track_summary(track: TrackStems) -> TrackSummary:
    """Describe a track with its stems."""
    return TrackSummary(
        corpus=track.corpus,
        track_id=track.track_id,
        split=track.split,
        duration_s=track.duration_s,
        stems=[stem_summary(row) for row in track.rows],
    )


def mix_info(mix: ServedMix) -> MixInfo:
    """Describe a mix with its waveform."""
    return MixInfo(
        id=mix.id,
        name=mix.name,
        waveform=waveform_info(mix.sound),
        audio=f"/api/mixes/{mix.id}/audio",
        corpus=mix.track and mix.track.corpus,
        track_id=mix.track and mix.track.track_id,
        left_out=[stem_summary(row) for row in mix.left_out],
        bpm=mix.music.bpm and round(mix.music.bpm, 2),
        musical_key=mix.music.key,
    )


def candidate_info(candidate: Candidate) -> CandidateInfo:
    """Describe a candidate with its links; where its files lie stays here."""
    base = f"/api/stems/{quote(candidate.key, safe='')}"
    fields = set(CandidateInfo.model_fields) - {"audio", "peaks", "file"}
    return CandidateInfo(
        **{name: getattr(candidate, name) for name in fields},
        audio=f"{base}/audio",
        peaks=f"{base}/peaks",
        file=f"{base}/file",
    )


def fit_info(row: Mapping[str, Any], fit: Fit, chunk_s: float) -> FitInfo:
    """Describe how a stem is played with a mix, with its links."""
    base = f"/api/stems/{quote(row['key'], safe='')}/audio"
    audio = f"{base}?speed={fit.speed}&semitones={fit.semitones}"
    start_s = round(fit.start_s / fit.speed, 6)
    return FitInfo(
        speed=fit.speed,
        semitones=fit.semitones,
        start_s=start_s,
        mix_start_s=fit.mix_start_s,
        duration_s=row["duration_s"] / fit.speed,
        notes=list(fit.notes),
        audio=audio,
        excerpt=f"{audio}&start_s={start_s}&duration_s={chunk_s}",
    )
