"""How the admin API answers: records as JSON, errors with the status that fits them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tidemill.foundation.errors import (
    Conflict,
    DeadlineExceeded,
    DiskFull,
    InvalidInput,
    NotFound,
    NotReady,
    Overloaded,
    Refused,
    TidemillError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

_STATUS: tuple[tuple[type[TidemillError], int], ...] = (
    (TooLarge, 413),
    (InvalidInput, 400),
    (Unauthenticated, 401),
    (NotFound, 404),
    (Conflict, 409),
    (Refused, 403),
    (DeadlineExceeded, 408),
    (DiskFull, 507),
    (NotReady, 503),
    (Overloaded, 503),
    (Unavailable, 503),
)


def respond(record: Any, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    """Returns a record as JSON."""
    body = msgspec.json.encode(record)
    return Response(body, status, headers=dict(headers), media_type="application/json")


def refuse(error: TidemillError, headers: Mapping[str, str] = {}) -> Response:
    """Returns an error as JSON, with its status."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    response = respond({"error": str(error)}, status, headers)
    if status == 401:
        response.headers["www-authenticate"] = 'Bearer realm="tidemill"'
    return response


def asked_by(request: Request) -> str:
    """Says who asks, as the audit has it."""
    principal = request.state.principal
    return "admin API" if principal is None else f"admin API, key {principal.name}"
