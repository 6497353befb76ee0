"""Sends answers at once: straight to the socket, as long as it takes them whole.

An event loop's transport sends when all that can be read has been read. Under a crowd of clients
that is a long time, which no queue would see.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


class Sender:
    """What is sent on one connection, in order.

    Once the socket did not take something whole, the transport has the rest and all that follows:
    it waits for the client, and says when it has waited too long.

    Args:
        transport: the connection's. An encrypted one sends everything itself.
    """

    __slots__ = ("_fd", "_transport", "_write")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._fd: int | None = None
        self._write: Callable[[int, bytes], int] = os.write  # looked up once: each answer needs it
        if transport.get_extra_info("sslcontext") is None:
            connected = transport.get_extra_info("socket")
            self._fd = None if connected is None else connected.fileno()

    def send(self, data: bytes) -> None:
        """Sends it, now or as soon as the client takes it."""
        fd, transport = self._fd, self._transport
        if fd is not None and not transport.is_closing():  # else it may be another's by now
            try:
                sent = self._write(fd, data)
            except OSError:  # the client takes nothing now, or is gone: the transport finds out
                sent = 0
            if sent == len(data):
                return
            self._fd, data = None, data[sent:]
        transport.write(data)
