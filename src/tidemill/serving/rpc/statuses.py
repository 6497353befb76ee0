"""Which gRPC status an error of ours becomes."""

from __future__ import annotations

from typing import Any

import grpc

from tidemill.foundation.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    InvalidModel,
    NotFound,
    NotOffered,
    NotReady,
    Overloaded,
    Refused,
    TidemillError,
    Unauthenticated,
    Unavailable,
    WorkerLost,
)

_MAX_DETAILS_BYTES = 2000  # clients refuse headers that are much larger

_STATUSES: tuple[tuple[type[TidemillError], Any], ...] = (
    (InvalidModel, grpc.StatusCode.INTERNAL),
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Conflict, grpc.StatusCode.ABORTED),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (NotOffered, grpc.StatusCode.UNIMPLEMENTED),
    (Refused, grpc.StatusCode.PERMISSION_DENIED),
    (NotReady, grpc.StatusCode.UNAVAILABLE),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (WorkerLost, grpc.StatusCode.UNAVAILABLE),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
)


def status_of(error: TidemillError) -> Any:
    """Returns the status of an error; what is nobody's fault but the server's is INTERNAL.

    Example:
        >>> status_of(NotFound("no such model")).name
        'NOT_FOUND'
    """
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return status
    return grpc.StatusCode.INTERNAL


def details_of(error: TidemillError) -> str:
    """Returns what a status says of an error: any text as UTF-8, and not too much of it."""
    said = str(error).encode(errors="replace")[:_MAX_DETAILS_BYTES]
    return said.decode(errors="ignore")
