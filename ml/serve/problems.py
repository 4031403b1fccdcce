"""What can go wrong with a request: an exception each, with the status it becomes.

Every answer that is not a success is ``{"detail": sentence}``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ml.artifacts import ArtifactError
from ml.serve.schemas import Problem

_LOG = logging.getLogger(__name__)

_MEANINGS = {
    403: "A page of another site sent this.",
    404: "No such stem, mix or page.",
    411: "The length of what is sent must be said first.",
    413: "What was sent is too large.",
    415: "The upload is not a file that can be decoded.",
    416: "The range lies outside the file.",
    422: "A value is wrong; the sentence says which, and what was expected.",
    408: "The upload took too long to arrive.",
    503: "Nothing can be searched yet, or too many requests are waiting.",
}


class RequestError(ValueError):
    """A request that cannot be answered; the message is the one sentence for the client."""

    status = 422


class NotFoundError(RequestError):
    """What was asked for is not there."""

    status = 404


class TooLargeError(RequestError):
    """An upload is over a bound."""

    status = 413


class NotAudioError(RequestError):
    """An upload does not hold audio, whatever its name says."""

    status = 415


class TooSlowError(RequestError):
    """An upload did not arrive in time."""

    status = 408


class BusyError(RequestError):
    """Too many requests are waiting already."""

    status = 503


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that an endpoint declares in OpenAPI; 422 and 503 always."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*statuses, 400, 422, 503}):
        meaning = _MEANINGS.get(status, "The request is not understood.")
        found[status] = {"model": Problem, "description": meaning}
    return found


def add_handlers(app: FastAPI) -> None:
    """Turn every exception that a request can cause into one sentence."""
    app.add_exception_handler(RequestError, _request_problem)
    app.add_exception_handler(ArtifactError, _unavailable)
    app.add_exception_handler(RequestValidationError, _wrong_value)
    app.add_exception_handler(ValueError, _value_error)
    app.add_exception_handler(HTTPException, _http_error)


def problem(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a request that cannot be answered."""
    return JSONResponse({"detail": sentence}, status_code=status, headers=dict(headers or {}))


async def _request_problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    headers = {"Retry-After": "2"} if isinstance(error, BusyError) else {}
    if isinstance(error, (TooLargeError, TooSlowError)):
        headers["Connection"] = "close"  # the rest of the upload is not read
    return problem(error.status, str(error), headers)


async def _unavailable(_: Request, error: Exception) -> JSONResponse:
    _LOG.warning("%s", error)
    return problem(503, str(error), {"Retry-After": "30"})


async def _wrong_value(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    parts = []
    for found in error.errors():
        place = " ".join(str(part) for part in found["loc"] if part not in ("query", "path"))
        parts.append(f"{place}: {found['msg'][:1].lower()}{found['msg'][1:]}")
    return problem(422, "; ".join(parts))


async def _value_error(_: Request, error: Exception) -> JSONResponse:
    return problem(422, str(error))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    sentence = str(error.detail)
    if error.status_code == 404:
        sentence = f"nothing is served at {request.url.path[:200]!r}; see /openapi.json"
    elif error.status_code == 405:
        sentence = f"{request.method} is not served at {request.url.path[:200]!r}"
    return problem(error.status_code, sentence, error.headers)
