"""Endpoints of mixes: send one, make one of a track, hear it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from ml.serve.catalog import TrackStems
from ml.serve.heard import AUDIO, DurationS, StartS, serve_sound
from ml.serve.links import mix_info
from ml.serve.problems import NotAudioError, RequestError, responses
from ml.serve.schemas import MixInfo, Text, TrackMix
from ml.serve.security import UPLOAD_PATH
from ml.serve.service import Service, TheService

router = APIRouter(prefix="/api", tags=["mixes"])

_BODY = {
    "requestBody": {
        "required": True,
        "description": "The audio file itself: wav, flac, ogg, mp3, m4a, aac, aiff or caf.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
MixId = Annotated[
    str, Path(description="Id of a mix.", pattern=r"^[0-9a-f]{24}$", examples=["0" * 24])
]


@router.post(
    UPLOAD_PATH.removeprefix("/api"),
    summary="Send a mix",
    status_code=201,
    responses=responses(403, 408, 413, 415),
    openapi_extra=_BODY,
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
        raise NotAudioError(f"{name} came as a form; send the file itself as the body")
    try:
        async with service.uploads.receive(request, name) as upload:
            mix = await service.decodes.run(service.mixes.of_upload, upload, name)
    except ClientDisconnect:
        raise RequestError(f"{name} did not arrive whole; send it again") from None
    return mix_info(mix)


@router.post(
    "/tracks/mix",
    summary="Make a mix of a track",
    status_code=201,
    responses=responses(403, 404, 411, 413),
)
async def mix_of_track(wanted: TrackMix, service: TheService) -> MixInfo:
    """Sum the stems of a track but those that are left out; the same choice is the same mix."""
    track = await service.queries.run(_track, service, wanted)
    mix = await service.decodes.run(service.mixes.of_track, track, wanted.leave_out)
    return mix_info(mix)


@router.get("/mixes/{mix_id}", summary="A mix", responses=responses(404))
async def mix(mix_id: MixId, service: TheService) -> MixInfo:
    """What is known of a mix while it is kept."""
    return mix_info(service.mixes.get(mix_id))


@router.get(
    "/mixes/{mix_id}/audio",
    summary="Hear a mix",
    response_class=Response,
    responses={**AUDIO, **responses(404, 416)},
)
async def mix_audio(
    mix_id: MixId,
    request: Request,
    service: TheService,
    start_s: StartS = 0,
    duration_s: DurationS = None,
) -> Response:
    """The mix, or a piece of it, as 16-bit WAV; takes ranges."""
    found = service.mixes.get(mix_id)
    return await serve_sound(request, service, found.wav, found.id, start_s, duration_s)


def _track(service: Service, wanted: TrackMix) -> TrackStems:
    return service.catalog().track(wanted.corpus, wanted.track_id)
