"""Endpoints of stems: their waveform, their sound, the file to keep."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from ml.serve.heard import AUDIO, DurationS, StartS, serve_sound
from ml.serve.links import waveform_info
from ml.serve.problems import responses
from ml.serve.ranges import serve_file
from ml.serve.schemas import KEY_PATTERN, Waveform
from ml.serve.service import Service, TheService
from ml.serve.stem_audio import ServedStem

router = APIRouter(prefix="/api/stems", tags=["stems"])

Key = Annotated[
    str,
    Path(
        description="Key of a stem, slashes percent-encoded; looked up in the table, no path.",
        min_length=1,
        max_length=1000,
        pattern=KEY_PATTERN,
    ),
]
_FILE = {
    200: {
        "content": {"audio/*": {}, "application/octet-stream": {}},
        "description": "The whole file.",
    },
    206: {
        "content": {"audio/*": {}, "application/octet-stream": {}},
        "description": "The range that was asked for.",
    },
    304: {"description": "It has not changed."},
}


@router.get("/{key:path}/peaks", summary="The waveform of a stem", responses=responses(404))
async def stem_peaks(key: Key, service: TheService) -> Waveform:
    """A stem at a glance."""
    return waveform_info((await _served(service, key)).sound)


@router.get(
    "/{key:path}/audio",
    summary="Hear a stem",
    response_class=Response,
    responses={**AUDIO, **responses(404, 416)},
)
async def stem_audio(
    key: Key,
    request: Request,
    service: TheService,
    start_s: StartS = 0,
    duration_s: DurationS = None,
) -> Response:
    """A stem, or a piece of it, as 16-bit WAV; takes ranges. Several files are summed."""
    served = await _served(service, key)
    return await serve_sound(request, service, served.wav, served.version, start_s, duration_s)


@router.get(
    "/{key:path}/file",
    summary="Keep a stem",
    response_class=Response,
    responses={**_FILE, **responses(404, 416)},
)
async def stem_file(key: Key, request: Request, service: TheService) -> Response:
    """The recording as its corpus has it; a stem of several files as their sum, 16-bit WAV."""
    row = await service.queries.run(_row, service, key)
    file = await service.decodes.run(service.stems.file, row)
    kind = mimetypes.guess_type(file.name)[0] or ""
    kind = kind if kind.startswith("audio/") else "application/octet-stream"
    return serve_file(request, file.path, kind, version=file.version, save_as=file.name)


async def _served(service: Service, key: str) -> ServedStem:
    row = await service.queries.run(_row, service, key)
    return await service.decodes.run(service.stems.sound, row)


def _row(service: Service, key: str) -> Mapping[str, Any]:
    return service.catalog().row(key)
