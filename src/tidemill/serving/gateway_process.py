"""A gateway process as its supervisor sees it: what it has, what it is asked, what it answers."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tidemill.foundation.errors import WorkerLost
from tidemill.foundation.instruments import Snapshot as Instruments
from tidemill.serving import native
from tidemill.serving.channel import (
    Activate,
    Activated,
    Asked,
    Channel,
    Collect,
    Drain,
    Drained,
    Failed,
    Hello,
    Inspect,
    Inspected,
    Keys,
    Message,
    Prepare,
    Prepared,
    Said,
    Snapshot,
    Told,
)
from tidemill.serving.children import Child
from tidemill.serving.plan import Assignment
from tidemill.serving.statistics import Tally

MODULE = "tidemill.serving.gateway"
_ANSWER_WITHIN_S = 1.0
_PREPARE_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an assignment could not be prepared; ``died`` if the gateway did not survive it."""

    reason: str
    died: bool = False


class GatewayProcess:
    """One gateway process, from ``start`` until ``ended`` returns.

    Every question ends: with the gateway's answer, or with ``WorkerLost`` if it died.

    Args:
        listener: the socket that queries come in on.
        asked: called when this gateway asks for something; ``tell`` answers.
        said: told each line of its log that is a warning or worse.
        module: what the process runs.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        asked: Callable[[GatewayProcess, Asked], None],
        said: Callable[[str], None],
        module: str = MODULE,
    ) -> None:
        self._listener = listener
        self._asked = asked
        self._said = said
        self._module = module
        self._child: Child | None = None
        self._channel: Channel | None = None
        self._reader: asyncio.Task[None] | None = None
        self._prepared: asyncio.Future[Failure | None] | None = None
        self._activated: asyncio.Future[None] | None = None
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._requests = itertools.count(1)
        self._drains = asyncio.Condition()
        self._drained = 0
        self._gone = False
        self._draining = False
        self.activations = 0
        self.assignment: Assignment | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._child is not None
        return self._child.pid

    async def start(self, hello: Hello) -> None:
        """Starts the process and greets it."""
        ours, theirs = socket.socketpair()
        with theirs:
            fds = (self._listener.fileno(), theirs.fileno())
            run = [native.MODULE, self._module] if hello.serve.native else [self._module]
            command = [sys.executable, "-P", "-m", *run]
            command += ["--fd", str(fds[0]), "--control-fd", str(fds[1])]
            self._child = Child(command, pass_fds=fds)
            self._channel = Channel(ours)
            try:
                self._child.start()
            except BaseException:
                ours.close()
                raise
        await self._channel.start()
        self._channel.send(hello)
        self._reader = asyncio.create_task(self._read())

    async def prepare(self, assignment: Assignment) -> Failure | None:
        """Has it load an assignment beside what is live; returns why it could not, or None."""
        self._prepared = self._question()
        self._send(Prepare(assignment=assignment))
        try:
            return await asyncio.wait_for(self._prepared, _PREPARE_WITHIN_S)
        except TimeoutError:
            self.kill()
            reason = f"the gateway has not loaded it within {_PREPARE_WITHIN_S:.0f} s"
            return Failure(reason=reason, died=True)
        except WorkerLost:
            return Failure(reason="the gateway process died while it loaded it", died=True)

    async def activate(self, assignment: Assignment) -> None:
        """Has it answer by the assignment that it prepared.

        Raises:
            WorkerLost: it died.
        """
        self._activated = self._question()
        self.activations += 1
        self.assignment = assignment
        self._send(Activate(revision=assignment.revision))
        await self._activated

    async def drained(self, activations: int, *, timeout_s: float) -> bool:
        """Waits until what was live before so many activations is given back; says whether."""
        try:
            async with asyncio.timeout(timeout_s), self._drains:
                await self._drains.wait_for(lambda: self._gone or self._drained >= activations)
        except TimeoutError:
            return False
        return True

    async def snapshot(self) -> Instruments | None:
        """Returns what its instruments show; None if it does not say so soon."""
        shown = await self._collect()
        return None if shown is None else shown.instruments

    async def tallies(self) -> list[Tally]:
        """Returns its inference statistics; none if it does not say so soon."""
        shown = await self._collect()
        return [] if shown is None else shown.tallies

    async def _collect(self) -> Snapshot | None:
        request = next(self._requests)
        shown: Snapshot | None = await self._ask(request, Collect(request=request))
        return shown

    async def inspect(self, application: str) -> list[dict[str, Any]] | None:
        """Returns what it knows of an application's versions; None if it does not say so soon."""
        request = next(self._requests)
        asked = Inspect(request=request, application=application)
        found: list[dict[str, Any]] | None = await self._ask(request, asked)
        return found

    def tell(self, answer: Told) -> None:
        """Answers what it asked."""
        self._send(answer)

    def admit(self, keys: Keys) -> None:
        """Has it let in those whose keys count from now on."""
        self._send(keys)

    def drain(self, timeout_s: float) -> None:
        """Has it finish what is in flight, for at most so long, and exit."""
        self._draining = True
        self._send(Drain(timeout_s=timeout_s))

    async def ended(self) -> str:
        """Returns how the process ended, once it has."""
        assert self._child is not None
        return await self._child.wait()

    async def ended_within(self, grace_s: float) -> bool:
        """Waits for its end, kills it after the grace; says whether it ended by itself."""
        if self._child is None:
            return True
        polite = await self._child.ended_within(grace_s)
        await self._close()
        return polite

    def kill(self) -> None:
        """Ends it at once."""
        if self._child is not None:
            self._child.signal(signal.SIGKILL)

    async def _ask(self, request: int, message: Message) -> Any:
        """Sends a numbered question; returns its answer, None if none comes soon."""
        future = self._answers[request] = self._question()
        self._send(message)
        try:
            return await asyncio.wait_for(future, _ANSWER_WITHIN_S)
        except (TimeoutError, WorkerLost):
            return None
        finally:
            self._answers.pop(request, None)

    def _send(self, message: Message) -> None:
        if self._channel is not None and not self._gone:
            self._channel.send(message)

    def _question(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._gone:
            future.set_exception(_died())
        return future

    async def _read(self) -> None:
        assert self._channel is not None
        while (message := await self._channel.receive()) is not None:
            await self._take(message)
        self._gone = True
        if not self._draining:
            self.kill()  # without its channel it cannot be told anything: it is as good as dead
        for future in (self._prepared, self._activated, *self._answers.values()):
            if future is not None and not future.done():
                future.set_exception(_died())
        async with self._drains:
            self._drains.notify_all()

    async def _take(self, message: Message) -> None:
        match message:
            case Prepared():
                _settle(self._prepared, None)
            case Failed(reason=reason):
                _settle(self._prepared, Failure(reason=reason))
            case Activated():
                _settle(self._activated, None)
            case Drained():
                async with self._drains:
                    self._drained += 1
                    self._drains.notify_all()
            case Snapshot(request=request):
                _settle(self._answers.get(request), message)
            case Inspected(request=request, versions=versions):
                _settle(self._answers.get(request), versions)
            case Said(line=line):
                self._said(line)
            case Asked():
                self._asked(self, message)
            case _:
                raise AssertionError(f"a gateway said {type(message).__name__}")

    async def _close(self) -> None:
        if self._reader is not None:
            await self._reader
        if self._channel is not None:
            await self._channel.aclose()


def _settle(future: asyncio.Future[Any] | None, value: object) -> None:
    if future is not None and not future.done():
        future.set_result(value)


def _died() -> WorkerLost:
    return WorkerLost("the gateway process ended before it answered")
