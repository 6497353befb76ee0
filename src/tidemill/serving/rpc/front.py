"""The front of a gateway that speaks gRPC: a server of its own on the port kept for it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc

from tidemill.foundation.errors import Conflict
from tidemill.serving.front import Inside
from tidemill.serving.rpc.service import Service
from tidemill.serving.tls import Certificate, certificate_of

MAX_CALLS = 2048
"""Calls under way in one gateway, at most; streams count once."""

MAX_STREAMS = 512
"""Calls under way on one connection, at most; a client's further ones wait in the client."""

MAX_METADATA_BYTES = 32 << 10
_MESSAGE_BYTES = 64 << 10  # names, shapes and parameters beside a body of the largest tensors
_OWN_FILES = 256
_SWEEP_EVERY_S = 1.0


class GrpcFront:
    """Speaks gRPC, as ``Front`` promises.

    Args:
        kept: the socket that keeps the port; see ``listening.reserve_port``.
        max_files: what this process may open; connections leave some of it to the rest.
        inside: what answers.
    """

    def __init__(self, kept: socket.socket, max_files: int, inside: Inside) -> None:
        self._kept = kept
        self._max_files = max_files
        self._guard = inside.guard
        self._serve = inside.serve
        held = max(inside.serve.max_held_bytes, inside.serve.max_body_bytes)
        self._service = Service(
            inside, max_held_bytes=held, read_timeout_s=inside.serve.read_timeout_s
        )
        self._server: Any = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:  # noqa: D102 - promised by Front
        self._tasks.append(asyncio.create_task(self._sweep()))

    async def open(self) -> None:  # noqa: D102
        server = grpc.aio.server(
            handlers=[_Handler(self._service)],
            options=self._options(),
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        host, port = self._kept.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        certificate = certificate_of(self._serve)
        try:
            if certificate is None:
                server.add_insecure_port(address)
            else:
                self._tasks.append(asyncio.create_task(certificate.follow()))
                server.add_secure_port(address, _credentials(certificate))
        except RuntimeError as error:
            raise Conflict(f"gRPC cannot listen on {address}: {error}") from error
        await server.start()
        self._server = server

    def _options(self) -> list[tuple[str, int]]:
        serve = self._serve
        room = max(self._max_files - _OWN_FILES, self._max_files // 2)
        return [
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", serve.max_body_bytes + _MESSAGE_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a bomb unfolds unbounded
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.max_allowed_incoming_connections", min(10_000, room)),
            ("grpc.max_connection_idle_ms", int(serve.idle_timeout_s * 1000)),
            ("grpc.server_handshake_timeout_ms", int(serve.read_timeout_s * 1000)),
            ("grpc.keepalive_time_ms", int(serve.idle_timeout_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(serve.read_timeout_s * 1000)),
        ]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            self._guard.sweep()
            self._service.sweep()

    async def drain(self, timeout_s: float) -> None:  # noqa: D102
        for task in self._tasks:
            task.cancel()
        if self._server is not None:
            await self._server.stop(timeout_s)


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Hands calls to the service; gRPC insists on a subclass."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def service(self, handler_call_details: Any) -> Any:
        """Returns what serves a call."""
        return self._service.service(handler_call_details)


def _credentials(certificate: Certificate) -> Any:
    """Returns credentials that are read again when the certificate was."""
    used = certificate.pems

    def configuration() -> Any:
        chain, key = certificate.pems
        return grpc.ssl_server_certificate_configuration([(key, chain)])

    def fetch() -> Any:
        nonlocal used
        if certificate.pems is used:
            return None
        used = certificate.pems
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), fetch)
