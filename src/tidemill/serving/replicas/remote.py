"""A model in another server: one v2 request per batch, over a few kept connections."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from pathlib import Path

from tidemill.foundation.errors import (
    InvalidInput,
    NotReady,
    Overloaded,
    TidemillError,
    WorkerLost,
)
from tidemill.foundation.logs import log
from tidemill.models.format import read_manifest
from tidemill.models.signature import Batch, Signature
from tidemill.serving.replicas.address import Address, RemoteModel
from tidemill.serving.replicas.failure import model_failed
from tidemill.serving.replicas.http_connection import HttpConnection, Response
from tidemill.serving.replicas.remote_wire import read_answer, read_error, write_request
from tidemill.serving.replicas.replica import Done

MAX_WAITING = 1024
"""Batches over ``capacity`` that may wait for a connection."""

_FIRST_PROBE_S = 0.1
_LAST_PROBE_S = 5.0
_CONNECT_S = 3.0
_PROBE_S = 2.0
_GONE = frozenset({429, 502, 503, 504})
"""Statuses that say that the server, not the batch, is in trouble."""


class _Asked:
    """A batch under way: the request, who wants to know, and whether it was sent again."""

    __slots__ = ("again", "done", "request", "rows")

    def __init__(self, request: bytes, rows: int, done: Done) -> None:
        self.request = request
        self.rows = rows
        self.done = done
        self.again = False


class RemoteReplica:
    """One model of another server, as this gateway sees it.

    It is alive while the server says that the model is ready. When a connection breaks, its batch
    ends with ``WorkerLost`` and the server is asked, later and later, until it is ready again;
    then ``revived`` is called. ``start`` waits for no server that is away.

    Args:
        folder: the model's folder, whose signature holds for what the server answers.
        model: where it answers.
        timeout_s: how long one batch may take.
        token: a bearer token for the server.
        capacity: connections, and so batches that may be out.
    """

    on_loop = False

    def __init__(
        self,
        folder: Path,
        model: RemoteModel,
        *,
        timeout_s: float,
        token: str | None = None,
        capacity: int = 2,
    ) -> None:
        self._folder = folder
        self._model = model
        self._address: Address = model.address
        self._timeout_s = timeout_s
        self._head = _head(self._address, token)
        self.capacity = capacity
        self._signature: Signature | None = None
        self._ssl: ssl.SSLContext | None = None
        self._idle: list[HttpConnection] = []
        self._open: set[HttpConnection] = set()
        self._opening = 0
        self._waiting: deque[_Asked] = deque()
        self._out = 0
        self._ready = False
        self._closing = False
        self._prober: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._quiet: asyncio.Event | None = None
        self.revived: Callable[[], None] = _nobody

    @property
    def name(self) -> str:
        """Host and port of the server."""
        return self._address.authority

    @property
    def alive(self) -> bool:
        """Says whether the server was ready when last heard of."""
        return self._ready and not self._closing

    @property
    def in_flight(self) -> int:
        """How many batches are out."""
        return self._out

    async def start(self) -> None:
        """Reads the signature and asks whether the model is ready; goes on asking if not.

        Raises:
            TidemillError: the model's folder cannot be read.
        """
        manifest = await asyncio.to_thread(read_manifest, self._folder)
        self._signature = manifest.signature
        if self._address.tls:
            self._ssl = await asyncio.to_thread(ssl.create_default_context)
        self._ready = await self._probe()
        if not self._ready:
            self._down("it is not ready")

    def submit(self, batch: Batch, done: Done) -> None:
        """Sends a batch; ``done`` is called when its answers, an error or the end have come."""
        if not self.alive or self._signature is None:
            done(WorkerLost(f"the remote server {self.name} is gone", remedy="Retry."))
            return
        if len(self._waiting) >= MAX_WAITING:
            done(Overloaded(f"{MAX_WAITING} batches wait for {self.name}", remedy="Retry."))
            return
        try:
            body, header_length = write_request(batch, self._signature, binary=self._model.binary)
        except (InvalidInput, LookupError, TypeError, ValueError) as error:
            done(error if isinstance(error, InvalidInput) else InvalidInput(f"no batch: {error}"))
            return
        rows = len(next(iter(batch.values())))
        self._out += 1
        self._waiting.append(_Asked(self._post(body, header_length), rows, done))
        self._send()

    def collect(self) -> None:
        """Leaves it to the event loop, which parses what another server says."""

    async def aclose(self) -> None:
        """Waits for what is out, then closes the connections."""
        if self._out:
            self._quiet = asyncio.Event()
            await self._quiet.wait()
        self._closing = True
        tasks = [*self._tasks, *([] if self._prober is None else [self._prober])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self._open):
            connection.fail("closed")

    # Sending

    def _send(self) -> None:
        """Gives what waits to idle connections; opens more while there may be more."""
        while self._waiting and self._idle:
            connection = self._idle.pop()
            if connection.open:
                self._ask(connection, self._waiting.popleft())
        missing = min(len(self._waiting), self.capacity - len(self._open)) - self._opening
        for _ in range(missing):
            self._opening += 1
            task = asyncio.get_running_loop().create_task(self._grow())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _grow(self) -> None:
        try:
            connection = await self._connect()
        except (OSError, TimeoutError) as error:
            self._opening -= 1
            self._lose(f"it cannot be reached: {str(error) or 'no answer'}")
            return
        self._opening -= 1
        self._idle.append(connection)
        self._send()

    async def _connect(self) -> HttpConnection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_S):
            _, connection = await loop.create_connection(
                lambda: HttpConnection(self._closed),
                self._address.host,
                self._address.port,
                ssl=self._ssl,
            )
        self._open.add(connection)
        return connection

    def _ask(self, connection: HttpConnection, asked: _Asked) -> None:
        def heard(result: Response | str) -> None:
            if isinstance(result, str):
                self._broken(connection, asked, result)
            else:
                if connection.open:
                    self._idle.append(connection)
                self._end(asked, self._judged(result, asked.rows))

        connection.ask(asked.request, heard, within_s=self._timeout_s)

    def _broken(self, connection: HttpConnection, asked: _Asked, why: str) -> None:
        if connection.was_stale and not asked.again and self.alive:
            # A kept connection that the server had closed meanwhile: nothing was lost yet.
            asked.again = True
            self._waiting.appendleft(asked)
            return
        self._end(asked, self._lost(why))
        self._down(why)

    def _closed(self, connection: HttpConnection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self.alive:
            self._send()

    def _judged(self, response: Response, rows: int) -> Batch | TidemillError:
        assert self._signature is not None
        status = response.status
        if status == 200:
            try:
                return read_answer(response.body, response.header_length, self._signature, rows)
            except TidemillError as error:
                return error
        said = read_error(response.body) or "it does not say why"
        if status in _GONE:
            self._down(f"status {status}: {said}")
            return self._lost(f"status {status}: {said}")
        if status in {401, 403, 404}:
            return NotReady(
                f"the remote model at {self.name} answers {status}: {said}",
                remedy="See that it is loaded there, and that serve.remote_tokens has its token.",
            )
        if 400 <= status < 500:
            return InvalidInput(f"the remote model refuses the rows: {said}")
        return model_failed(f"status {status}", said)

    def _end(self, asked: _Asked, result: Batch | TidemillError) -> None:
        self._out -= 1
        asked.done(result)
        if self._quiet is not None and not self._out:
            self._quiet.set()
        if self.alive:
            self._send()

    # Trouble

    def _lost(self, why: str) -> WorkerLost:
        return WorkerLost(f"the remote server {self.name} was lost: {why}", remedy="Retry.")

    def _lose(self, why: str) -> None:
        """Ends what waits; what other connections still wait for may yet come."""
        self._down(why)
        waiting, self._waiting = self._waiting, deque()
        for asked in waiting:
            self._end(asked, self._lost(why))

    def _down(self, why: str) -> None:
        if self._closing:
            return
        if self._ready or self._prober is None:
            log("serving.replicas").warning("remote.lost", server=self.name, why=why)
        self._ready = False
        if self._prober is None:
            self._prober = asyncio.get_running_loop().create_task(self._revive())
            asyncio.get_running_loop().call_soon(self._forsake, why)

    def _forsake(self, why: str) -> None:
        """Ends what waits for a connection of a server that was lost."""
        if not self._ready:
            waiting, self._waiting = self._waiting, deque()
            for asked in waiting:
                self._end(asked, self._lost(why))

    async def _revive(self) -> None:
        """Asks until the model is ready again."""
        delay_s = _FIRST_PROBE_S
        while True:
            await asyncio.sleep(delay_s)
            if await self._probe():
                break
            delay_s = min(2 * delay_s, _LAST_PROBE_S)
        self._prober = None
        self._ready = True
        log("serving.replicas").info("remote.back", server=self.name)
        self.revived()

    async def _probe(self) -> bool:
        """Says whether the server is there and the model ready, on a connection of its own."""
        heard: asyncio.Future[Response | str] = asyncio.get_running_loop().create_future()

        def hear(result: Response | str) -> None:
            if not heard.done():
                heard.set_result(result)

        try:
            connection = await self._connect()
        except (OSError, TimeoutError):
            return False
        request = b"GET %s/ready HTTP/1.1\r\n%s\r\n" % (self._address.path.encode(), self._head)
        try:
            connection.ask(request, hear, within_s=_PROBE_S)
            answer = await heard
        finally:
            connection.fail("the probe is over")
        return isinstance(answer, Response) and answer.status == 200

    def _post(self, body: bytes, header_length: int | None) -> bytes:
        extra = b"content-type: application/json\r\n"
        if header_length is not None:
            extra = (
                b"content-type: application/octet-stream\r\n"
                b"inference-header-content-length: %d\r\n" % header_length
            )
        return b"POST %s/infer HTTP/1.1\r\n%s%scontent-length: %d\r\n\r\n%s" % (
            self._address.path.encode(),
            self._head,
            extra,
            len(body),
            body,
        )


def _head(address: Address, token: str | None) -> bytes:
    head = b"host: %s\r\naccept: */*\r\n" % address.authority.encode()
    if token is not None:
        head += b"authorization: Bearer %s\r\n" % token.encode()
    return head


def _nobody() -> None:
    """Nobody waits for the server's return."""
