"""What the endpoints that play something share: the piece that is wanted, and how it is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response

from ml.serve.problems import NotFoundError
from ml.serve.ranges import piece_version, serve_file
from ml.serve.service import Service
from ml.serve.sounds import cut_sound

AUDIO: dict[int | str, dict[str, Any]] = {
    200: {"content": {"audio/wav": {}}, "description": "The whole of it."},
    206: {"content": {"audio/wav": {}}, "description": "The range that was asked for."},
    304: {"description": "It has not changed."},
}
"""Answers of an endpoint that plays, for OpenAPI."""
StartS = Annotated[float, Query(ge=0, le=1e6, description="Where to begin, in seconds.")]
DurationS = Annotated[
    float | None, Query(gt=0, le=1e6, description="How long, in seconds; default: to the end.")
]


async def serve_sound(
    request: Request,
    service: Service,
    wav: Path,
    version: str,
    start_s: float,
    duration_s: float | None,
) -> Response:
    """A file of ``write_sound``, or a piece of it.

    Raises:
        NotFoundError: it was dropped meanwhile.
    """
    if not start_s and duration_s is None:
        return serve_file(request, wav, "audio/wav", version=version)
    try:
        piece = await service.decodes.run(cut_sound, wav, start_s, duration_s)
    except FileNotFoundError:
        raise NotFoundError("the sound was dropped for newer ones; ask again") from None
    version = piece_version(version, start_s, duration_s)
    return serve_file(request, piece, "audio/wav", version=version)
