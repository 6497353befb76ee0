"""The front of a gateway that speaks HTTP: the edge on the socket that all gateways share."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from tidemill.foundation.logs import log
from tidemill.foundation.settings import ServeSettings
from tidemill.serving.cors import CorsRoutes, cors_of
from tidemill.serving.edge import Edge
from tidemill.serving.front import Inside
from tidemill.serving.hosts import hosts_of
from tidemill.serving.limits import Limits
from tidemill.serving.listening import BACKLOG
from tidemill.serving.openapi import ApiDocument
from tidemill.serving.routes import PathRoutes
from tidemill.serving.tls import certificate_of

_OWN_FILES = 256


class HttpFront:
    """Speaks HTTP/1.1, as ``Front`` promises.

    Args:
        listener: the listening socket.
        max_files: what this process may open; connections leave some of it to the rest.
        inside: what answers.
    """

    def __init__(self, listener: socket.socket, max_files: int, inside: Inside) -> None:
        self._listener = listener
        self._max_files = max_files
        self._serve = inside.serve
        limits = limits_for(inside.serve, max_files)
        document = ApiDocument(
            inside.processor,
            inside.guard,
            max_body_bytes=limits.max_body_bytes,
            max_header_bytes=limits.max_header_bytes,
        )
        routes, cors = PathRoutes(inside.plane, inside.extensions, document), cors_of(inside.serve)
        self._edge = Edge(
            CorsRoutes(routes, cors) if cors is not None else routes,
            limits,
            inside.clock,
            inside.instruments,
            inside.guard,
            cors=cors,
            hosts=hosts_of(inside.serve, _address(listener)),
            pace=inside.pace,
        )
        self._server: asyncio.Server | None = None
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:  # noqa: D102 - promised by Front
        self._edge.start()
        told = few_connections(self._edge.limits, self._max_files)
        if told is not None:
            log("serving.gateway").warning("connections.limited", **told)

    async def open(self) -> None:  # noqa: D102
        loop = asyncio.get_running_loop()
        # Whoever accepts says how many may wait, whatever was said when the socket was opened.
        self._server = await loop.create_server(
            self._edge.protocol, sock=self._listener, backlog=BACKLOG, **self._secured()
        )

    def _secured(self) -> dict[str, Any]:
        """Returns how connections are secured, if they are."""
        certificate = certificate_of(self._serve)
        if certificate is None:
            return {}
        self._following = asyncio.create_task(certificate.follow())
        return {
            "ssl": certificate.context,
            "ssl_handshake_timeout": self._serve.read_timeout_s,
        }

    async def drain(self, timeout_s: float) -> None:  # noqa: D102
        if self._server is not None:
            self._server.close()
        if self._following is not None:
            self._following.cancel()
        await self._edge.drain(timeout_s)


def limits_for(serve: ServeSettings, max_files: int) -> Limits:
    """Returns what clients may do.

    Connections never take the files that the ledger, a new version or a large batch needs.
    """
    room = max(max_files - _OWN_FILES, max_files // 2)
    return Limits(
        max_connections=min(Limits().max_connections, room),
        max_body_bytes=serve.max_body_bytes,
        max_held_bytes=max(serve.max_held_bytes, serve.max_body_bytes),
        idle_timeout_s=serve.idle_timeout_s,
        read_timeout_s=serve.read_timeout_s,
    )


def _address(listener: socket.socket) -> str:
    found: str = listener.getsockname()[0]
    return found.partition("%")[0]  # without an interface


def few_connections(limits: Limits, max_files: int) -> dict[str, Any] | None:
    """Returns what the log says where the machine allows fewer connections than a gateway takes.

    Example:
        >>> few_connections(limits_for(ServeSettings(), 1024), 1024)
        {'allowed': 768, 'files': 1024, 'remedy': 'Raise RLIMIT_NOFILE (ulimit -Hn) to 10256.'}
    """
    usual = Limits().max_connections
    if limits.max_connections >= usual:
        return None
    remedy = f"Raise RLIMIT_NOFILE (ulimit -Hn) to {usual + _OWN_FILES}."
    return {"allowed": limits.max_connections, "files": max_files, "remedy": remedy}
