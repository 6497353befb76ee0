"""The sockets of a server: opened once by the supervisor, inherited by every gateway.

HTTP gateways accept from one listening socket. gRPC's library takes none that is open already: its
gateways each open their own at the port that the supervisor keeps for them.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

from tidemill.foundation.errors import Conflict, InvalidSettings, Refused
from tidemill.foundation.settings import ServeSettings

BACKLOG = 4096
"""Connections that may wait to be accepted, as far as the machine's own bound allows."""


def open_listener(
    settings: ServeSettings, *, setting: str = "serve.port", guarded: bool = False
) -> socket.socket:
    """Opens the socket that queries come in on; port 0 takes any free one. The caller closes it.

    Args:
        settings: where to listen, and whether other machines may reach it.
        setting: what to change if the port is taken, for the error.
        guarded: whether keys are needed and TLS is on.

    Raises:
        Refused: the address is reachable from elsewhere without keys or without TLS, and nobody
            said that it may be.
        Conflict: the port is taken.
        InvalidSettings: the host is not an address of this machine.
    """
    host, port = settings.host, settings.port
    family, address = _address(settings, host, port, guarded=guarded)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _refusal(host, port, setting, error) from error
    return listener


def reserve_port(settings: ServeSettings, *, guarded: bool = False) -> socket.socket | None:
    """Keeps the port of gRPC for this user's processes; None if gRPC is off.

    The socket is bound and never listens: gateways bind to the same address beside it, and while it
    is there nobody else's server gets the port. The caller closes it.

    Raises:
        Refused: as ``open_listener``.
        Conflict: the port is taken.
        InvalidSettings: the host is not an address of this machine.
    """
    host, port, setting = settings.host, settings.grpc_port, "serve.grpc_port"
    if port is None:
        return None
    family, address = _address(settings, host, port, guarded=guarded)
    kept = socket.socket(family, socket.SOCK_STREAM)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as alone:
            # Whoever shares the port on purpose, as another server of ours, would let us in.
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(address)
    except OSError as error:
        kept.close()
        raise _refusal(host, port, setting, error) from error
    return kept


def _address(
    settings: ServeSettings, host: str, port: int, *, guarded: bool
) -> tuple[socket.AddressFamily, Any]:
    """Returns what to bind to, if this server may be reached there."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InvalidSettings(
            f"host {host!r} cannot be resolved: {error}", remedy="Use 127.0.0.1, or correct it."
        ) from error
    family, _, _, _, address = found[0]
    loopback = ipaddress.ip_address(address[0]).is_loopback
    if not (loopback or guarded or settings.allow_public):
        raise Refused(
            f"host {host!r} can be reached from other machines, and there are not both: keys, so "
            "that not anybody there can query, and TLS, so that nobody reads along",
            remedy="Make a key (tidemill keys create) and set serve.tls_cert and serve.tls_key; "
            "or listen on 127.0.0.1 behind a proxy; or set serve.allow_public.",
        )
    return family, address


def _refusal(host: str, port: int, setting: str, error: OSError) -> Conflict | InvalidSettings:
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            f"port {port} on {host} is in use",
            remedy=f"Stop the process that uses it, or choose another with {setting}.",
        )
    return InvalidSettings(
        f"cannot listen on {host} port {port}: {error.strerror}",
        remedy=f"Choose another with serve.host and {setting}.",
    )
