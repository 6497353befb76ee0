"""Unix sockets, and frames in and out of them without ever blocking."""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidemill_worker.frames import Buffer, Frame, FrameReader, Outgoing, ProtocolError

_PATH_BYTES = 100
_ANCILLARY_BYTES = socket.CMSG_SPACE(array.array("i").itemsize)
_PARTS_AT_ONCE = 64


def listen(path: Path) -> socket.socket:
    """Opens a listening socket that only this user can reach (mode 0600).

    Raises:
        OSError: the folder is missing, or the name is taken.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        with _address(path) as address:
            listener.bind(address)
        listener.listen(64)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def connect(path: Path, *, timeout_s: float) -> socket.socket:
    """Connects to a worker; the socket comes back non-blocking.

    Raises:
        OSError: nobody listens there, or not within the time.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        with _address(path) as address:
            connection.connect(address)
        connection.setblocking(False)
    except BaseException:
        connection.close()
        raise
    return connection


def receive(connection: socket.socket, reader: FrameReader) -> list[Frame] | None:
    """Receives once; returns the frames that became whole, None when the other end has closed.

    Raises:
        BlockingIOError: there is nothing to receive now.
        ProtocolError: what came is no frame.
        OSError: the connection is broken.
    """
    flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    count, ancillary, received, _ = connection.recvmsg_into(
        [reader.space()], _ANCILLARY_BYTES, flags
    )
    if not ancillary:
        return reader.received(count) if count else None
    files = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files.frombytes(data[: len(data) - len(data) % files.itemsize])
    if len(files) > 1 or received & socket.MSG_CTRUNC:
        for file in files:
            os.close(file)
        raise ProtocolError("more than one file came with a frame")
    return reader.received(count, files) if count else None


class Output:
    """What is to be sent on one connection; keeps what the socket does not take at once."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting: deque[Outgoing] = deque()

    @property
    def empty(self) -> bool:
        """Says whether everything was handed to the system."""
        return not self._waiting

    def send(self, frame: Outgoing) -> bool:
        """Sends a frame, or keeps its rest; returns whether nothing is left to send.

        Raises:
            OSError: the connection is broken.
        """
        self._waiting.append(frame)
        return self.flush() if len(self._waiting) == 1 else False

    def flush(self) -> bool:
        """Sends what is waiting; returns whether nothing is left."""
        while self._waiting:
            rest = self._send(self._waiting[0])
            if rest is not None:
                self._waiting[0] = rest
                return False
            self._waiting.popleft()
        return True

    def close(self) -> None:
        """Forgets what was not sent, and closes its memory files."""
        while self._waiting:
            _close(self._waiting.popleft().memory_file)

    def _send(self, frame: Outgoing) -> Outgoing | None:
        parts: list[Buffer] = frame.parts
        if len(parts) > _PARTS_AT_ONCE:
            parts = [b"".join(parts)]
        ancillary = []
        if frame.memory_file is not None:
            file = array.array("i", [frame.memory_file])
            ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, file))
        try:
            sent = self._connection.sendmsg(parts, ancillary)
        except BlockingIOError:
            return frame
        _close(frame.memory_file)  # it went with the first byte
        size = sum(len(part) for part in parts)
        if sent == size:
            return None
        return Outgoing([memoryview(b"".join(parts))[sent:]])


def _close(file: int | None) -> None:
    if file is not None:
        os.close(file)


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """Gives an address short enough for the system, however deep the folder lies."""
    if len(os.fsencode(path)) <= _PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
