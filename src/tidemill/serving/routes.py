"""Who serves which path: the Open Inference Protocol v2, KServe's v1, feedback and metrics."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from urllib.parse import unquote

from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.serving.dataplane import DataPlane
from tidemill.serving.exchange import Handler, WrongMethod
from tidemill.serving.keys import Access, Scope

_V2_MODEL = re.compile(
    r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>infer|ready))?/?\Z"
)
_V1_MODEL = re.compile(r"/v1/models/(?P<name>[^/:]+)(?::(?P<verb>predict|feedback))?/?\Z")
_VERSION = re.compile(r"[0-9]{1,9}")
_SCOPES: dict[str, Scope | None] = {
    "live": None,
    "ready": None,
    "feedback": "feedback",
    **dict.fromkeys(
        ("server", "models", "model", "model_ready", "infer", "predict", "metrics"), "query"
    ),
}
"""What each operation demands of a key; one that is not named here demands the most."""

_WHOLE = frozenset({"metrics"})
_MAX_REMEMBERED = 4096
_MAX_REMEMBERED_BYTES = 256


class PathRoutes:
    """Finds handlers by path; what was found is remembered, so that a known path costs a lookup.

    Args:
        plane: the operations.
    """

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._found: dict[tuple[bytes, bytes], Handler] = {}
        self._fixed: dict[str, Callable[..., None]] = {
            "/v2": plane.server,
            "/v2/health/live": plane.live,
            "/v2/health/ready": plane.ready,
            "/v2/models": plane.models,
            "/v1/models": plane.models,
            "/metrics": plane.metrics,
        }

    def access(self, handler: Handler) -> Access:
        """Returns what an operation demands; see ``Routes``."""
        operation: str = getattr(getattr(handler, "func", handler), "__name__", "")
        return Access(
            scope=_SCOPES.get(operation, "operate"),
            application=getattr(handler, "keywords", {}).get("name"),
            whole=operation in _WHOLE or operation not in _SCOPES,
        )

    def find(self, method: bytes, target: bytes) -> Handler:
        """Returns the handler; see ``Routes``."""
        known = self._found.get((method, target))
        if known is not None:
            return known
        handler, wanted = self._resolve(target)
        if method != wanted and not (method == b"HEAD" and wanted == b"GET"):
            raise WrongMethod(
                f"{method.decode('latin-1')[:20]} is not served here",
                remedy=f"Use {wanted.decode()}.",
            )
        if len(target) <= _MAX_REMEMBERED_BYTES:
            if len(self._found) >= _MAX_REMEMBERED:
                self._found.clear()  # somebody asks for ever new paths; the others come back
            self._found[method, target] = handler
        return handler

    def _resolve(self, target: bytes) -> tuple[Handler, bytes]:
        path = target.partition(b"?")[0].decode("latin-1")
        plane = self._plane
        fixed = self._fixed.get(path.rstrip("/"))
        if fixed is not None:
            return fixed, b"GET"
        if match := _V2_MODEL.match(path):
            name, version = unquote(match["name"]), _version(match["version"])
            if match["verb"] == "infer":
                return partial(plane.infer, name=name, version=version), b"POST"
            serve = plane.model_ready if match["verb"] == "ready" else plane.model
            return partial(serve, name=name, version=version), b"GET"
        if match := _V1_MODEL.match(path):
            name = unquote(match["name"])
            if match["verb"] is None:
                return partial(plane.model_ready, name=name, version=None), b"GET"
            serve_v1 = plane.predict if match["verb"] == "predict" else plane.feedback
            return partial(serve_v1, name=name), b"POST"
        raise NotFound(
            f"nothing is served at {path[:100]!r}",
            remedy="Try /v2, /v2/models/NAME/infer, /v1/models/NAME:predict or /metrics.",
        )


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if not _VERSION.fullmatch(text):
        raise InvalidInput(f"version {text[:40]!r} is not a number", remedy="Versions are 1, 2, ….")
    return int(text)
