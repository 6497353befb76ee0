"""The methods of ``inference.GRPCInferenceService``: who may call them, inference, streams."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc

from tidemill.foundation.errors import DeadlineExceeded, InvalidInput, Overloaded, TidemillError
from tidemill.models.signature import Batch
from tidemill.serving.application import Application
from tidemill.serving.dataplane import unwritable
from tidemill.serving.front import Inside
from tidemill.serving.keys import Access, Principal
from tidemill.serving.query import Query
from tidemill.serving.routes import version_of
from tidemill.serving.rpc.operations import NAMES, Operations, access_of
from tidemill.serving.rpc.statuses import details_of, status_of
from tidemill.serving.rpc.tensors import Asked, decode_infer, read_infer, write_error, write_infer

SERVICE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/Check"
MAX_STREAM_PENDING = 64
"""Requests of one stream that may wait for their answers, at most."""

MAX_STREAMS_OPEN = 512
"""Streams open in one gateway, at most: an idle one is nobody's harm, many are."""

_HEADERS = frozenset({"authorization", "traceparent"})
_NOT_SERVED = {
    "SystemSharedMemory": "shared memory of clients is not taken: it would let a client change "
    "what was checked",
    "CudaSharedMemory": "shared memory of clients is not taken: it would let a client change "
    "what was checked",
    "TraceSetting": "traces are set by serve.otlp_endpoint and serve.otlp_ratio",
    "LogSettings": "logs are set by logs.level and logs.queries",
}


class Asker:
    """Who waits for a query's answer; ``traceparent`` is for whoever traces it."""

    __slots__ = ("answered", "nbytes", "stream", "traceparent")

    def __init__(self, *, nbytes: int, stream: bool, traceparent: bytes) -> None:
        self.nbytes = nbytes
        self.stream = stream
        self.traceparent = traceparent
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()


class Service:
    """Finds and serves the methods, as a gRPC generic handler.

    Keys are looked at before a message is read.

    Args:
        inside: what answers.
        max_held_bytes: requests that may be held at the same time, in bytes.
        read_timeout_s: how long a message may take to arrive; see ``sweep``.
    """

    def __init__(self, inside: Inside, *, max_held_bytes: int, read_timeout_s: float) -> None:
        self._processor = inside.processor
        self._plane = inside.plane
        self._guard = inside.guard
        self._clock = inside.clock
        self._operations = Operations(inside)
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0
        self._read_timeout_s = read_timeout_s
        self._arriving: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._streams = 0
        self._refused = inside.instruments.counter(
            "tidemill_refused", "Requests refused before they became a query.", ("kind",)
        )

    def service(self, details: Any) -> Any:
        """Returns what serves a call; None for a method that nobody knows."""
        path: str = details.method
        if path == HEALTH:
            return grpc.stream_unary_rpc_method_handler(self._check)
        method = path.removeprefix(SERVICE)
        if method == path:
            return None
        if method not in NAMES:
            return _not_served(method)
        sent = {
            name: _bytes(value)
            for name, value in details.invocation_metadata or ()
            if name in _HEADERS
        }
        try:
            principal = self._identified(method, sent.get("authorization", b""))
        except TidemillError as error:
            return _ending(status_of(error), details_of(error))
        return self._handler(method, principal, sent.get("traceparent", b""))

    def _identified(self, method: str, authorization: bytes) -> Principal | None:
        return None if access_of(method).scope is None else self._guard.identify(authorization)

    def _handler(self, method: str, principal: Principal | None, traceparent: bytes) -> Any:
        if method == "ModelInfer":
            handle = partial(self._infer, principal, traceparent)
            return grpc.stream_unary_rpc_method_handler(handle)
        if method == "ModelStreamInfer":
            stream = partial(self._stream, principal, traceparent)
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.stream_unary_rpc_method_handler(partial(self._operate, method, principal))

    def sweep(self) -> None:
        """Ends calls whose messages are too slow to arrive; call it every second."""
        late = self._clock.monotonic() - self._read_timeout_s
        for task in [task for task, since in self._arriving.items() if since < late]:
            self._late.add(task)
            task.cancel()

    async def _message(self, context: Any) -> bytes:
        """Returns the one message of a call: the library reads it only when it is asked for.

        Raises:
            InvalidInput: there is none.
            DeadlineExceeded: it takes too long to arrive.
        """
        task = asyncio.current_task()
        assert task is not None
        self._arriving[task] = self._clock.monotonic()
        try:
            body = await context.read()
        except asyncio.CancelledError:
            if task not in self._late:
                raise  # the client has given up
            task.uncancel()
            raise DeadlineExceeded(
                f"the message has not arrived within {self._read_timeout_s:g} s",
                remedy="Send it sooner.",
            ) from None
        finally:
            del self._arriving[task]
            self._late.discard(task)
        if body is grpc.aio.EOF:
            raise InvalidInput("the call has no message", remedy="Send one.")
        message: bytes = body
        return message

    async def _check(self, _: Any, context: Any) -> bytes:
        try:
            return await self._operations.check(await self._message(context))
        except TidemillError as error:
            return await self._abort(context, error)

    async def _operate(
        self, method: str, principal: Principal | None, _: Any, context: Any
    ) -> bytes:
        try:
            return await self._operations.serve(method, await self._message(context), principal)
        except TidemillError as error:
            return await self._abort(context, error)

    async def _infer(
        self, principal: Principal | None, traceparent: bytes, _: Any, context: Any
    ) -> bytes:
        try:
            body = await self._message(context)
            asker = Asker(nbytes=len(body), stream=False, traceparent=traceparent)
            self._submit(decode_infer(body), asker, principal, context.time_remaining())
        except TidemillError as error:
            self._refused.of(type(error).__name__).value += 1
            return await self._abort(context, error)
        try:
            return await asker.answered
        except TidemillError as error:
            return await self._abort(context, error)

    async def _stream(
        self, principal: Principal | None, traceparent: bytes, _: Any, context: Any
    ) -> None:
        """Answers the requests of a stream in their order; one that fails does not end it."""
        pending: asyncio.Queue[tuple[str, asyncio.Future[bytes]] | None] = asyncio.Queue()
        room = asyncio.Semaphore(MAX_STREAM_PENDING)

        async def read() -> None:
            try:
                while (await room.acquire()) and (body := await context.read()) is not grpc.aio.EOF:
                    pending.put_nowait(self._begin(body, principal, traceparent, context))
            finally:
                pending.put_nowait(None)

        if self._streams >= MAX_STREAMS_OPEN:
            await self._abort(context, Overloaded(f"{self._streams} streams are open already"))
        self._streams += 1
        reading = asyncio.create_task(read())
        try:
            while (begun := await pending.get()) is not None:
                identity, answered = begun
                try:
                    answer = await answered
                except TidemillError as error:
                    answer = write_error(identity, details_of(error))
                await context.write(answer)
                room.release()
        finally:
            self._streams -= 1
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _begin(
        self, body: bytes, principal: Principal | None, traceparent: bytes, context: Any
    ) -> tuple[str, asyncio.Future[bytes]]:
        """Takes one request of a stream: returns its id, and where its answer will be."""
        asker = Asker(nbytes=len(body), stream=True, traceparent=traceparent)
        identity = ""
        try:
            message = decode_infer(body)
            identity = message.id
            self._submit(message, asker, principal, context.time_remaining())
        except TidemillError as error:
            self._refused.of(type(error).__name__).value += 1
            asker.answered.set_exception(error)
        return identity, asker.answered

    def _submit(
        self, message: Any, asker: Asker, principal: Principal | None, remaining_s: float | None
    ) -> None:
        """Makes a query of a request.

        Raises:
            TidemillError: it cannot become one.
        """
        arrived = self._clock.monotonic()
        name = message.model_name
        if principal is not None:
            self._guard.permit(principal, Access(scope="query", application=name))
        application = self._processor.application(name)
        version = version_of(message.model_version or None)
        if self._held_bytes + asker.nbytes > self._max_held_bytes:
            raise Overloaded(
                f"requests of {self._held_bytes} bytes are held already",
                remedy="Retry in a moment.",
            )
        form, inputs, n, by_key = self._read(message, application)
        asked = form.asked
        allowed_s = application.allowed_s(asked.timeout_s)
        if remaining_s is not None:
            allowed_s = min(allowed_s, remaining_s)
        query = Query(
            inputs=inputs,
            n=n,
            arrived=arrived,
            deadline=arrived + allowed_s,
            done=self._ended,
            context=asker,
            request=form,
            event_time=asked.event_time,
        )
        query.nbytes = asker.nbytes
        query.priority = asked.priority
        self._held_bytes += asker.nbytes
        take = self._processor.look_up if by_key else self._processor.submit
        try:
            take(application, query, version)
        except TidemillError:
            self._held_bytes -= asker.nbytes
            raise

    def _read(self, message: Any, application: Application) -> tuple[Asked, Batch, int, bool]:
        """Returns what a request asks for, its inputs, n, and whether they are the key alone.

        Raises:
            InvalidInput: it has neither all inputs nor the key alone.
        """
        try:
            return *read_infer(message, application.signature), False
        except InvalidInput as refusal:
            if not application.deployment.key:
                raise
            names = {each.name for each in message.inputs}
            key = self._plane.key_reader(application).narrow(names, refusal)
        return *read_infer(message, key), True

    def _ended(self, query: Query) -> None:
        """Answers who waits, if somebody still does."""
        asker: Asker = query.context
        self._held_bytes -= asker.nbytes
        if asker.answered.done():  # the call was cancelled
            return
        error = query.error
        if error is None:
            try:
                asker.answered.set_result(write_infer(query, stream=asker.stream))
            except Exception as reason:  # noqa: BLE001 - whoever waits is told
                error = unwritable(query.version, reason)
        if error is not None:
            asker.answered.set_exception(error)

    async def _abort(self, context: Any, error: TidemillError) -> bytes:
        await context.abort(status_of(error), details_of(error))
        raise AssertionError("an aborted call goes on")


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _not_served(method: str) -> Any:
    """Returns what refuses a method that clients know; None for one that nobody knows."""
    for known, why in _NOT_SERVED.items():
        if method.startswith(known):
            return _ending(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not served: {why}.")
    return None


def _ending(status: Any, said: str) -> Any:
    """Returns what ends a call at once, without reading its message."""

    async def end(_: Any, context: Any) -> None:
        await context.abort(status, said)

    return grpc.stream_stream_rpc_method_handler(end)
