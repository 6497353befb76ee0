"""The worker's loop: takes batches from every gateway's connection and answers them, one by one."""

from __future__ import annotations

import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable

from tidemill_worker import sockets
from tidemill_worker.frames import (
    ANSWER,
    PREDICT,
    Batch,
    Frame,
    FrameReader,
    Outgoing,
    ProtocolError,
    decode_batch,
    encode_batch,
    encode_failure,
    encode_greeting,
)

Predict = Callable[[Batch], Batch]

_MAX_WAITING = 16
_KNOWN_FROM = 20
_HUNG_FACTOR = 20.0
_HUNG_FROM_S = 5.0


class Server:
    """Answers batches until it is told to stop and every connection has ended.

    A batch that the model fails on gets an error frame. A batch that runs longer than
    ``overrun_s`` ends the process, at once and whatever the model is doing: its callers see the
    connection drop. Once it is known how long batches take, so does one that hangs; see
    ``hung_after_s``.

    Args:
        listener: a listening Unix socket; closed by ``run``.
        predict: the model, arrays in, arrays out.
        overrun_s: how long one batch may take.
    """

    def __init__(self, listener: socket.socket, predict: Predict, *, overrun_s: float) -> None:
        self._listener = listener
        self._predict = predict
        self._overrun_s = overrun_s
        self._longest_s = 0.0
        self._most_rows = 1
        self._batches = 0
        self._connections: dict[int, _Connection] = {}

    def run(self) -> None:
        """Serves until SIGTERM has come and the last connection has closed."""
        with selectors.DefaultSelector() as selector, _stop_signal() as stopped:
            self._listener.setblocking(False)
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(stopped, selectors.EVENT_READ)
            while self._connections or self._listener.fileno() >= 0:
                busy = any(connection.answerable for connection in self._connections.values())
                for key, _ in selector.select(0 if busy else None):
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    elif key.fileobj is stopped:
                        selector.unregister(stopped)
                        selector.unregister(self._listener)
                        self._listener.close()
                    else:
                        self._connections[key.fd].ready()
                for fd, connection in list(self._connections.items()):
                    self._turn(selector, fd, connection)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError:  # whoever knocked is gone, or there are no descriptors left for it
            return
        accepted.setblocking(False)
        connection = _Connection(accepted)
        self._connections[accepted.fileno()] = connection
        connection.send(encode_greeting())
        connection.watch(selector)

    def _turn(self, selector: selectors.BaseSelector, fd: int, connection: _Connection) -> None:
        """Answers the oldest batch of one connection, so that none waits for another's queue."""
        if connection.answerable:
            connection.send(self._answer(connection.batches.popleft()))
        if not connection.open:
            del self._connections[fd]
            connection.close(selector)
        else:
            connection.watch(selector)

    def _answer(self, frame: Frame) -> Outgoing:
        began = time.monotonic()
        try:
            answers = self._watched(decode_batch(frame))
            took_us = int(1e6 * (time.monotonic() - began))
            return encode_batch(ANSWER, frame.request_id, answers, took_us=took_us)
        except Exception as error:  # noqa: BLE001 - a model may raise anything; the caller is told
            return encode_failure(frame.request_id, error)

    def _watched(self, batch: Batch) -> Batch:
        """Asks the model; whatever it does, the process ends if it hangs."""
        rows = max((array.shape[0] for array in batch.values() if array.ndim), default=0)
        began, allowed_s = time.monotonic(), self._overrun_s
        if self._batches >= _KNOWN_FROM:
            allowed_s = min(allowed_s, hung_after_s(rows, self._longest_s, self._most_rows))
        signal.setitimer(signal.ITIMER_REAL, allowed_s)
        try:
            return self._predict(batch)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._longest_s = max(self._longest_s, time.monotonic() - began)
            self._most_rows = max(self._most_rows, rows)
            self._batches += 1


def hung_after_s(rows: int, longest_s: float, most_rows: int) -> float:
    """Returns after how many seconds a batch hangs: twenty times the longest so far, or five.

    One of more rows than any before it may take longer by as much.

    Example:
        >>> hung_after_s(64, 0.5, 64), hung_after_s(1, 0.001, 64), hung_after_s(640, 0.5, 64)
        (10.0, 5.0, 100.0)
    """
    return max(_HUNG_FROM_S, _HUNG_FACTOR * longest_s * max(1.0, rows / most_rows))


class _Connection:
    """One gateway's connection: the batches it sent and the answers it has not taken yet."""

    def __init__(self, accepted: socket.socket) -> None:
        self._socket = accepted
        self._reader = FrameReader()
        self.output = sockets.Output(accepted)
        self.batches: deque[Frame] = deque()
        self.open = True
        self._watched = 0

    @property
    def answerable(self) -> bool:
        """Says whether there is a batch to answer, and room for the answer."""
        return self.open and bool(self.batches) and self.output.empty

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Waits for what can be used: no batch is read while many wait or an answer is stuck."""
        wanted = 0
        if not self.output.empty:
            wanted = selectors.EVENT_WRITE
        elif len(self.batches) < _MAX_WAITING:
            wanted = selectors.EVENT_READ
        if wanted == self._watched:
            return
        if self._watched:
            selector.unregister(self._socket)
        if wanted:
            selector.register(self._socket, wanted)
        self._watched = wanted

    def ready(self) -> None:
        """Reads or writes what can be, without blocking."""
        try:
            if not self.output.empty:
                self.output.flush()
                return
            frames = sockets.receive(self._socket, self._reader)
            if frames is None:
                self.open = False
            else:
                self._take(frames)
        except BlockingIOError:
            return
        except (OSError, ProtocolError):
            self.open = False

    def send(self, frame: Outgoing) -> None:
        try:
            self.output.send(frame)
        except OSError:
            self.open = False

    def _take(self, frames: list[Frame]) -> None:
        if any(frame.kind != PREDICT for frame in frames):
            raise ProtocolError("a gateway may only send batches")
        self.batches.extend(frames)

    def close(self, selector: selectors.BaseSelector) -> None:
        if self._watched:
            selector.unregister(self._socket)
        self.output.close()
        self._reader.close()
        self._socket.close()


class _stop_signal:  # noqa: N801 - used as a verb
    """Gives a socket that becomes readable when SIGTERM comes."""

    def __enter__(self) -> socket.socket:
        self._near, self._far = socket.socketpair()
        self._far.setblocking(False)
        self._handler = signal.signal(signal.SIGTERM, lambda *_: None)
        self._wakeup = signal.set_wakeup_fd(self._far.fileno(), warn_on_full_buffer=False)
        return self._near

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGTERM, self._handler)
        self._near.close()
        self._far.close()
