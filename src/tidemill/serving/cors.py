"""Which web pages of other origins may ask: CORS, off unless origins are named.

A browser tells a page what another origin answered only if that origin says so, and sends what a
page could not send by itself only after asking. Cookies and the like are never accepted here, so no
answer ever allows credentials: a page sends its key as any client does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tidemill.foundation.errors import InvalidSettings, Refused
from tidemill.foundation.settings import ServeSettings
from tidemill.serving.exchange import Exchange, Handler, Head, Routes
from tidemill.serving.keys import Access

MAX_ORIGINS = 100
PREFLIGHT_S = 600
"""How long a browser may remember that a page may ask."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@A-Z]+")
_DEFAULT_PORT = re.compile(r"http://.*:80|https://.*:443")
_ALLOWED_HEADERS = (
    b"authorization, content-encoding, content-type, inference-header-content-length, traceparent, "
    b"x-api-key"
)
_SHOWN_HEADERS = b"allow, inference-header-content-length, retry-after, www-authenticate"
_ASKED = b"access-control-request-method, access-control-request-headers"


class Cors:
    """Says on a request's head what its answer must carry for the page that asked.

    Args:
        origins: as browsers send them; None for all.
    """

    def __init__(self, origins: Iterable[str] | None) -> None:
        self._origins = None if origins is None else frozenset(each.encode() for each in origins)

    def mark(self, head: Head) -> None:
        """Writes on a head that its page may ask, or that an answer to another might differ."""
        vary = b"" if self._origins is None else b"vary: origin\r\n"
        if not self.allows(head.origin):
            head.answer_headers = vary
            return
        head.foreign = False
        head.answer_headers = (
            b"access-control-allow-origin: %s\r\naccess-control-expose-headers: %s\r\n%s"
            % (b"*" if self._origins is None else head.origin, _SHOWN_HEADERS, vary)
        )

    def allows(self, origin: bytes) -> bool:
        """Says whether pages of an origin may ask."""
        return bool(origin) and (self._origins is None or origin in self._origins)


class CorsRoutes:
    """Routes that answer a browser's question whether a page may ask, before any key is looked at.

    Args:
        routes: find who serves all else.
        cors: knows the origins.
    """

    def __init__(self, routes: Routes, cors: Cors) -> None:
        self._routes = routes
        self._cors = cors

    def access(self, handler: Handler) -> Access:
        """Returns what a handler demands; see ``Routes``."""
        if handler == self._preflight:
            return Access(scope=None, application=None)
        return self._routes.access(handler)

    def find(self, method: bytes, target: bytes) -> Handler:
        """Returns the handler; see ``Routes``."""
        return self._preflight if method == b"OPTIONS" else self._routes.find(method, target)

    def _preflight(self, exchange: Exchange) -> None:
        head = exchange.head
        if not head.origin:  # nobody's page: the method is as unknown as any other
            self._routes.find(head.method, head.target)(exchange)
            return
        if not self._cors.allows(head.origin):
            raise Refused(
                f"pages of {head.origin[:200].decode('latin-1')!r} may not ask",
                remedy="Name the origin in serve.cors_origins, if you trust it.",
            )
        exchange.answer(
            b"",
            content_type=b"text/plain",
            headers={
                b"access-control-allow-methods": b"GET, HEAD, POST",
                b"access-control-allow-headers": _ALLOWED_HEADERS,
                b"access-control-max-age": b"%d" % PREFLIGHT_S,
                b"vary": _ASKED,
            },
        )


def cors_of(settings: ServeSettings) -> Cors | None:
    """Returns who may ask from a page; None if nobody may.

    Raises:
        InvalidSettings: an origin is none, or not written as browsers send it.
    """
    origins = [each.strip() for each in settings.cors_origins.split(",") if each.strip()]
    if not origins:
        return None
    if origins == ["*"]:
        return Cors(None)
    if len(origins) > MAX_ORIGINS:
        raise _unusable(f"{len(origins)} origins", f"at most {MAX_ORIGINS}")
    for each in origins:
        if each == "*":
            raise _unusable("'*' beside others", "'*' alone, or origins alone")
        if not _ORIGIN.fullmatch(each) or _DEFAULT_PORT.fullmatch(each):
            raise _unusable(
                repr(each[:200]),
                "SCHEME://HOST or SCHEME://HOST:PORT in lower case, without a path or the "
                "scheme's own port, as browsers send it",
            )
    return Cors(origins)


def _unusable(found: str, wanted: str) -> InvalidSettings:
    return InvalidSettings(f"serve.cors_origins has {found}", remedy=f"Give {wanted}.")
