"""Endpoints of mixes and stems: send a mix, make one of a track, hear both, keep a stem.

Whatever plays takes a piece by time and a range by bytes; a file is opened before its answer
begins, so that it may be dropped for newer ones meanwhile.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as UrlPath
from fastapi.responses import FileResponse, Response
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import MalformedRangeHeader, RangeNotSatisfiable
from starlette.types import Receive, Scope, Send

from ml.music.fit import MOST_SPEED, plan_fit
from ml.serve.schemas import KEY_PATTERN, FitInfo, MixInfo, Text, TrackMix, Waveform
from ml.serve.security import UPLOAD_PATH, responses
from ml.serve.service import Service, TheService, fit_info, mix_info, waveform_info
from ml.serve.sounds import cut_sound
from ml.serve.stem_audio import ServedStem


class KeyConvertor(PathConvertor):
    """A key in the path of an address: like ``path``, and over ends of lines too."""

    regex = "(?s:.*)"


register_url_convertor("key", KeyConvertor())

mix_router = APIRouter(prefix="/api", tags=["mixes"])
stem_router = APIRouter(prefix="/api/stems", tags=["stems"])

MixId = Annotated[
    str, UrlPath(description="Id of a mix.", pattern=r"^[0-9a-f]{24}$", examples=["0" * 24])
]
Key = Annotated[
    str,
    UrlPath(
        description="Key of a stem, slashes percent-encoded; looked up in the table, no path.",
        min_length=1,
        max_length=1000,
        pattern=KEY_PATTERN,
    ),
]
StartS = Annotated[float, Query(ge=0, le=1e6, description="Where to begin, in seconds.")]
DurationS = Annotated[
    float | None, Query(gt=0, le=1e6, description="How long, in seconds; default: to the end.")
]


class Player:
    """One request to hear a sound, or a piece of it."""

    def __init__(
        self,
        request: Request,
        service: TheService,
        start_s: StartS = 0,
        duration_s: DurationS = None,
    ):
        self.request, self.service = request, service
        self._start_s, self._duration_s = start_s, duration_s

    async def play(self, wav: Path, version: str) -> Response:
        """Answer with a file of ``write_sound``, or with the piece of it.

        Raises:
            HTTPException: it was dropped meanwhile.
        """
        start_s, duration_s = self._start_s, self._duration_s
        try:
            if not start_s and duration_s is None:
                file = wav.open("rb")
            else:
                file = await self.service.decodes.run(cut_sound, wav, start_s, duration_s)
                length = "end" if duration_s is None else f"{duration_s:.6f}"
                version = f"{version[:20]}-{start_s:.6f}-{length}"
        except FileNotFoundError:
            raise HTTPException(404, "the sound was dropped for newer ones; ask again") from None
        return _answer(self.request, file, "audio/wav", version)


ThePlayer = Annotated[Player, Depends()]
Speed = Annotated[
    float, Query(ge=1 / MOST_SPEED, le=MOST_SPEED, description="How much faster it is played.")
]
Semitones = Annotated[int, Query(ge=-6, le=6, description="How much higher it is played.")]


def _answers(whole: str, *types: str) -> dict[int | str, dict[str, Any]]:
    """List the answers of an endpoint that sends a file, for OpenAPI."""
    content = {kind: {} for kind in types}
    return {
        200: {"content": content, "description": whole},
        206: {"content": content, "description": "The range that was asked for."},
        304: {"description": "It has not changed."},
        **responses(404, 416),
    }


_SOUND = _answers("The whole of it.", "audio/wav")
_FILE = _answers("The whole file.", "audio/*", "application/octet-stream")
_UPLOAD = {
    "requestBody": {
        "required": True,
        "description": "The audio file itself: wav, flac, ogg, mp3, m4a, aac, aiff or caf.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@mix_router.post(
    UPLOAD_PATH.removeprefix("/api"),
    summary="Send a mix",
    status_code=201,
    responses=responses(403, 408, 413, 415),
    openapi_extra=_UPLOAD,
)
async def send_mix(
    request: Request,
    service: TheService,
    name: Annotated[Text, Query(description="What to call it; says nothing of its type.")] = "mix",
) -> MixInfo:
    """Take an audio file in, as the body of the request; what it is, its content says.

    The same file sent again is the same mix. It is kept in a temporary folder until newer mixes
    need the room or the server ends.
    """
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise HTTPException(415, f"{name} came as a form; send the file itself as the body")
    try:
        async with service.uploads.receive(request, name) as upload:
            mix = await service.decodes.run(service.mixes.of_upload, upload, name)
    except ClientDisconnect:
        raise HTTPException(422, f"{name} did not arrive whole; send it again") from None
    return mix_info(mix)


@mix_router.post(
    "/tracks/mix",
    summary="Make a mix of a track",
    status_code=201,
    responses=responses(403, 404, 411, 413),
)
async def mix_of_track(wanted: TrackMix, service: TheService) -> MixInfo:
    """Sum the stems of a track but those that are left out; the same choice is the same mix."""
    track = await service.queries.run(
        lambda: service.catalog().track(wanted.corpus, wanted.track_id)
    )
    mix = await service.decodes.run(service.mixes.of_track, track, wanted.leave_out)
    return mix_info(mix)


@mix_router.get("/mixes/{mix_id}", summary="A mix", responses=responses(404))
async def mix(mix_id: MixId, service: TheService) -> MixInfo:
    """Tell what is known of a mix while it is kept."""
    return mix_info(service.mixes.get(mix_id))


@mix_router.get(
    "/mixes/{mix_id}/audio",
    summary="Hear a mix",
    response_class=Response,
    responses=_SOUND,
)
async def mix_audio(mix_id: MixId, player: ThePlayer) -> Response:
    """Send the mix, or a piece of it, as 16-bit WAV; takes ranges."""
    kept = player.service.mixes.get(mix_id)
    return await player.play(kept.wav, kept.id)


@stem_router.get("/{key:key}/peaks", summary="The waveform of a stem", responses=responses(404))
async def stem_peaks(key: Key, service: TheService) -> Waveform:
    """Describe a stem at a glance."""
    return waveform_info((await _served(service, key)).sound)


@stem_router.get(
    "/{key:key}/audio",
    summary="Hear a stem",
    response_class=Response,
    responses=_SOUND,
)
async def stem_audio(
    key: Key, player: ThePlayer, speed: Speed = 1.0, semitones: Semitones = 0
) -> Response:
    """Send a stem, or a piece of it, as 16-bit WAV; takes ranges. Several files are summed.

    Pieces are of what is played: of a stem at twice the speed, second 4 is second 8 of the stem.
    """
    served = await _served(player.service, key, speed, semitones)
    return await player.play(served.wav, served.version)


@stem_router.get("/{key:key}/fit", summary="Bring a stem to a mix", responses=responses(404))
async def stem_fit(
    key: Key,
    service: TheService,
    mix: Annotated[str, Query(pattern=r"^[0-9a-f]{24}$", description="Id of the mix.")],
    start_s: StartS = 0,
    mix_start_s: StartS = 0,
    to_tempo: Annotated[bool, Query(description="Stretch it, both from a beat on.")] = True,
    to_key: Annotated[bool, Query(description="Transpose it.")] = False,
) -> FitInfo:
    """Plan how a stem is played at the tempo and in the key of a mix; its `audio` sends that.

    `start_s` and `mix_start_s`, in the time of the stem and of the mix, are where the two fit:
    `best_start_s` and `mix_start_s` of a search.
    """

    def plan() -> FitInfo:
        retriever, catalog = service.current()
        row = catalog.row(key)
        stem, wanted = service.stems.music(row), service.mixes.get(mix).music
        places, asked = (start_s, mix_start_s), {"to_tempo": to_tempo, "to_key": to_key}
        fit = plan_fit(stem, wanted, *places, **asked)
        return fit_info(row, fit, retriever.model.chunk_s)

    return await service.queries.run(plan)


@stem_router.get(
    "/{key:key}/file",
    summary="Keep a stem",
    response_class=Response,
    responses=_FILE,
)
async def stem_file(key: Key, request: Request, service: TheService) -> Response:
    """Send the recording as its corpus has it; of several files their sum, 16-bit WAV."""
    row = await service.queries.run(lambda: service.catalog().row(key))
    file = await service.decodes.run(service.stems.file, row)
    kind = mimetypes.guess_type(file.name)[0] or ""
    kind = kind if kind.startswith("audio/") else "application/octet-stream"
    try:
        opened = file.path.open("rb")
    except FileNotFoundError:
        raise HTTPException(404, f"{file.name} has gone meanwhile; ask again") from None
    return _answer(request, opened, kind, file.version, save_as=file.name)


async def _served(service: Service, key: str, speed: float = 1.0, semitones: int = 0) -> ServedStem:
    row = await service.queries.run(lambda: service.catalog().row(key))
    return await service.decodes.run(service.stems.sound, row, speed, semitones)


def _answer(
    request: Request, file: IO[bytes], media_type: str, version: str, save_as: str | None = None
) -> Response:
    """Send a file unless the client has this version of it."""
    headers = {"ETag": f'"{version}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        file.close()
        return Response(status_code=304, headers=headers)
    return OpenFile(file, media_type, headers, save_as)


class OpenFile(FileResponse):
    """An answer with a file that is open already, so that it may be removed before it is sent.

    It takes one range (RFC 9110, section 14). Starlette answers what is no range with 400 and
    several with a multipart body; here both get the whole file, which the RFC asks for and allows.
    """

    def __init__(
        self,
        file: IO[bytes],
        media_type: str,
        headers: Mapping[str, str] | None = None,
        save_as: str | None = None,
    ):
        super().__init__(
            f"/dev/fd/{file.fileno()}",  # the file itself, whatever became of its name
            headers=headers,
            media_type=media_type,
            filename=save_as,
            stat_result=os.fstat(file.fileno()),
        )
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and close it whether or not the client stays."""
        with self._file:
            await super().__call__(scope, receive, send)

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        """Give the one range that is asked for; none of them: the whole file is."""
        if "," in http_range:
            return []
        try:
            return super()._parse_range_header(http_range, file_size)
        except MalformedRangeHeader:
            return []
        except RangeNotSatisfiable:
            sentence = f"the range lies outside the {file_size} bytes of this file"
            headers = {"Content-Range": f"bytes */{file_size}"}
            raise HTTPException(416, sentence, headers) from None
