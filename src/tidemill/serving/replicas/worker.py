"""A model in a worker process: one frame per batch on its Unix socket."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

from tidemill.foundation import errors
from tidemill.foundation.errors import ModelFailed, TidemillError, Unavailable, WorkerLost
from tidemill.foundation.logs import log
from tidemill.models.signature import Batch
from tidemill.serving.replicas.failure import model_failed
from tidemill.serving.replicas.replica import Done
from tidemill_worker import frames, sockets

_CONNECT_S = 10.0
_KINDS: dict[str, type[TidemillError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, TidemillError)
}


class WorkerReplica:
    """One gateway's connection to a worker process; several batches may be under way.

    When the connection drops, every outstanding ``done`` gets ``WorkerLost`` at once.

    Args:
        path: the worker's socket.
        capacity: batches that may be out: one in the model, the next one waiting for it.
    """

    on_loop = False

    def __init__(self, path: Path, *, capacity: int = 2) -> None:
        self._path = path
        self.capacity = capacity
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        self._reader = frames.FrameReader()
        self._output: sockets.Output | None = None
        self._outstanding: dict[int, Done] = {}
        self._next_id = 0
        self._quiet: asyncio.Event | None = None

    @property
    def name(self) -> str:
        """The name of its socket."""
        return self._path.stem

    @property
    def alive(self) -> bool:
        """Says whether the connection stands."""
        return self._socket is not None

    @property
    def in_flight(self) -> int:
        """How many batches are out."""
        return len(self._outstanding)

    async def start(self) -> None:
        """Connects, and hears the worker's greeting.

        Raises:
            Unavailable: nobody answers there, or speaks another protocol.
        """
        self._loop = asyncio.get_running_loop()
        try:
            connection, self._reader = await asyncio.to_thread(_greeted, self._path)
        except (OSError, frames.ProtocolError) as error:
            raise Unavailable(
                f"the worker at {self._path.name!r} cannot be reached: {error}",
                remedy="It is started again by itself; look at the log for why it ended.",
            ) from error
        self._socket = connection
        self._output = sockets.Output(connection)
        self._loop.add_reader(connection.fileno(), self._readable)

    def submit(self, batch: Batch, done: Done) -> None:
        """Sends a batch; ``done`` is called when its answers, an error or the end have come."""
        if self._output is None:
            done(WorkerLost("the worker is gone", remedy="Retry."))
            return
        self._next_id += 1
        request_id = self._next_id
        try:
            frame = frames.encode_batch(frames.PREDICT, request_id, batch)
        except (TypeError, ValueError) as error:
            done(errors.InvalidInput(f"the batch cannot be sent to a worker: {error}"))
            return
        self._outstanding[request_id] = done
        waiting = not self._output.empty
        try:
            if not self._output.send(frame) and not waiting:
                self._watch_writable()
        except OSError as error:
            self._lose(f"the connection to the worker broke: {error}")

    def collect(self) -> None:
        """Takes the answers that the worker has sent by now, before the loop comes to them."""
        if self._outstanding:  # else nothing can come but the worker's end, which can wait
            self._readable()

    async def aclose(self) -> None:
        """Waits for what is out, then closes the connection."""
        if self._outstanding:
            self._quiet = asyncio.Event()
            await self._quiet.wait()
        self._disconnect()

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            received = sockets.receive(self._socket, self._reader)
            if received is None:
                self._lose("the worker process ended")
                return
            for frame in received:
                self._take(frame)
        except BlockingIOError:
            return
        except (OSError, frames.ProtocolError) as error:
            self._lose(f"the connection to the worker broke: {error}")

    def _take(self, frame: frames.Frame) -> None:
        result: Batch | TidemillError
        if frame.kind == frames.ANSWER:
            result = frames.decode_batch(frame)
        elif frame.kind == frames.ERROR:
            result = _error(frames.decode_failure(frame))
        else:
            raise frames.ProtocolError(f"a frame of kind {frame.kind} came from a worker")
        done = self._outstanding.pop(frame.request_id, None)
        if done is None:
            raise frames.ProtocolError(f"an answer came to batch {frame.request_id}, never sent")
        done(result, frame.took_us / 1e6)
        self._settle()

    def _watch_writable(self) -> None:
        assert self._loop is not None
        assert self._socket is not None
        self._loop.add_writer(self._socket.fileno(), self._writable)

    def _writable(self) -> None:
        assert self._loop is not None
        assert self._output is not None
        assert self._socket is not None
        try:
            if self._output.flush():
                self._loop.remove_writer(self._socket.fileno())
        except OSError as error:
            self._lose(f"the connection to the worker broke: {error}")

    def _lose(self, why: str) -> None:
        self._disconnect()
        outstanding, self._outstanding = self._outstanding, {}
        log("serving.replicas").warning(
            "worker.lost", socket=self._path.name, why=why, batches=len(outstanding)
        )
        for done in outstanding.values():
            done(WorkerLost(why, remedy="Retry."))
        self._settle()

    def _settle(self) -> None:
        if self._quiet is not None and not self._outstanding:
            self._quiet.set()

    def _disconnect(self) -> None:
        connection, self._socket = self._socket, None
        output, self._output = self._output, None
        if connection is None or output is None or self._loop is None:
            return
        self._loop.remove_reader(connection.fileno())
        self._loop.remove_writer(connection.fileno())
        output.close()
        self._reader.close()
        connection.close()


def _greeted(path: Path) -> tuple[socket.socket, frames.FrameReader]:
    """Connects and waits for the worker's first words."""
    connection = sockets.connect(path, timeout_s=_CONNECT_S)
    reader = frames.FrameReader()
    try:
        connection.settimeout(_CONNECT_S)
        received: list[frames.Frame] | None = []
        while received == []:
            received = sockets.receive(connection, reader)
        _check_greeting(received)
        connection.setblocking(False)
    except BaseException:
        connection.close()
        raise
    return connection, reader


def _check_greeting(received: list[frames.Frame] | None) -> None:
    if received is None:
        raise frames.ProtocolError("it closed the connection")
    frames.decode_greeting(received[0])


def _error(failure: frames.Failure) -> TidemillError:
    """Returns the error that a worker described: one of ours, or what its model raised."""
    kind: Any = _KINDS.get(failure.kind)
    if kind is None or kind is ModelFailed:
        return model_failed(failure.kind, failure.what)
    error: TidemillError = kind(failure.what, remedy=failure.remedy)
    return error
