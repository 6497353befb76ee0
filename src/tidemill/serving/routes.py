"""Who serves which path: the Open Inference Protocol v2, KServe's v1, feedback and metrics."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.serving.exchange import Exchange, Handler, WrongMethod
from tidemill.serving.keys import Access
from tidemill.serving.operations import OPERATIONS, REFUSED, Operation

_ABSOLUTE = re.compile(r"\Ahttps?://[^/]*", re.IGNORECASE)  # as a client speaks to a proxy
_VERSION = re.compile(r"[0-9]{1,9}")
_MAX_REMEMBERED = 4096
_MAX_REMEMBERED_BYTES = 256


class PathRoutes:
    """Finds handlers by path; what was found is remembered, so that a known path costs a lookup.

    Args:
        servers: whose functions serve the operations, by the names that the table has for them.
    """

    def __init__(self, *servers: object) -> None:
        self._found: dict[tuple[bytes, bytes], Handler] = {}
        self._operations = {each.serve: each for each in (*OPERATIONS, *REFUSED)}
        self._fixed: dict[str, tuple[Handler, bytes]] = {}
        self._patterns: list[tuple[re.Pattern[str], Operation, Callable[..., None]]] = []
        for operation in (*OPERATIONS, *REFUSED):
            owner = next(each for each in servers if hasattr(each, operation.serve))
            serve = getattr(owner, operation.serve)
            if operation.variables:
                self._patterns.append((operation.pattern, operation, serve))
            else:
                self._fixed[operation.path] = serve, operation.method.encode()

    def access(self, handler: Any) -> Access:
        """Returns what an operation demands; see ``Routes``."""
        found: Access | None = getattr(handler, "access", None)
        if found is None:  # a method: of a path without a name in it
            return _access(self._operations[handler.__name__], None)
        return found

    def find(self, method: bytes, target: bytes) -> Handler:
        """Returns the handler; see ``Routes``."""
        target = target.partition(b"?")[0]
        known = self._found.get((method, target))
        if known is not None:
            return known
        served = self._resolve(target)
        handler = served.get(b"GET" if method == b"HEAD" else method)
        if handler is None:
            allowed = [*served, b"HEAD"] if b"GET" in served else [*served]
            raise WrongMethod(
                f"{method.decode('latin-1')[:20]} is not served here",
                remedy=f"Use {b' or '.join(served).decode()}.",
                allowed=b", ".join(sorted(allowed)),
            )
        if len(target) <= _MAX_REMEMBERED_BYTES:
            if len(self._found) >= _MAX_REMEMBERED:
                self._found.clear()  # somebody asks for ever new paths; the others come back
            self._found[method, target] = handler
        return handler

    def _resolve(self, target: bytes) -> dict[bytes, Handler]:
        """Returns who serves a path, by method."""
        path = _ABSOLUTE.sub("", target.decode("latin-1"))
        fixed = self._fixed.get(path.rstrip("/"))
        if fixed is not None:
            return {fixed[1]: fixed[0]}
        served: dict[bytes, Handler] = {}
        for pattern, operation, serve in self._patterns:
            if match := pattern.match(path):
                name = unquote(match["name"])
                handler: Handler = _Named(operation, serve, name)
                if operation.versioned:
                    version = version_of(match.groupdict().get("version"))
                    handler = _Versioned(operation, serve, name, version)
                served.setdefault(operation.method.encode(), handler)
        if not served:
            raise NotFound(
                f"nothing is served at {path[:100]!r}",
                remedy="Try /v2, /v2/models/NAME/infer, /v1/models/NAME:predict or /metrics.",
            )
        return served


class _Named:
    """Serves an operation of one name, and says itself what it demands."""

    __slots__ = ("_name", "_serve", "access")

    def __init__(self, operation: Operation, serve: Callable[..., None], name: str) -> None:
        self._serve = serve
        self._name = name
        self.access = _access(operation, name)

    def __call__(self, exchange: Exchange) -> None:
        self._serve(exchange, self._name)


class _Versioned:
    """Serves an operation of one name and one version, or whichever."""

    __slots__ = ("_name", "_serve", "_version", "access")

    def __init__(
        self, operation: Operation, serve: Callable[..., None], name: str, version: int | None
    ) -> None:
        self._serve = serve
        self._name = name
        self._version = version
        self.access = _access(operation, name)

    def __call__(self, exchange: Exchange) -> None:
        self._serve(exchange, self._name, self._version)


def _access(operation: Operation, name: str | None) -> Access:
    return Access(scope=operation.scope, application=name, whole=operation.whole)


def version_of(text: str | None) -> int | None:
    """Returns the version that a client names, if it names one.

    Raises:
        InvalidInput: it is not a number.
    """
    if text is None:
        return None
    if not _VERSION.fullmatch(text):
        raise InvalidInput(f"version {text[:40]!r} is not a number", remedy="Versions are 1, 2, ….")
    return int(text)
