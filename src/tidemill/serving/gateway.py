"""A gateway process: ``python -m tidemill.serving.gateway --fd N --control-fd M``.

Answers queries on the listening socket that it inherited, by the assignments that its supervisor
sends. When told to stop, or when the supervisor is gone, it finishes what is in flight, seals its
ledger and exits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import resource
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path

import uvloop

from tidemill.data.ledger import LedgerWriter, open_ids
from tidemill.foundation.clock import SYSTEM_CLOCK, Clock
from tidemill.foundation.errors import NotReady, TidemillError
from tidemill.foundation.instruments import Instruments, render
from tidemill.foundation.instruments import Snapshot as Instrumented
from tidemill.foundation.logs import configure_logs, log, tell_trouble
from tidemill.serving.channel import (
    Activate,
    Activated,
    Channel,
    Collect,
    Drain,
    Drained,
    Failed,
    Hello,
    Inspect,
    Inspected,
    Keys,
    Prepare,
    Prepared,
    Said,
    Snapshot,
    Told,
)
from tidemill.serving.dataplane import DataPlane
from tidemill.serving.extensions import Extensions
from tidemill.serving.front import Front, Inside
from tidemill.serving.guard import Guard
from tidemill.serving.http_front import HttpFront
from tidemill.serving.native import is_native
from tidemill.serving.pace import Pace
from tidemill.serving.plan import Assignment
from tidemill.serving.processor import Processor
from tidemill.serving.query_log import QueryLog
from tidemill.serving.questions import Questions
from tidemill.serving.tracing import Tracing
from tidemill.serving.watching import QueryWatch, Watches
from tidemill_worker.process import share_heap, trim_memory

_ORPHAN_DRAIN_S = 1.0
_MAX_FILES = 65_536
_METRICS_WITHIN_S = 3.0
_LINES_A_SECOND = 50
_LINE_CHARACTERS = 8 << 10
_LAST_SPANS_S = 1.0


class Gateway:
    """Serves one socket for one supervisor.

    Args:
        hello: who this gateway is and how it is to serve.
        channel: the started channel to the supervisor.
        front: makes what speaks with clients; it is opened once the first assignment is live.
        clock: tells the time.
    """

    def __init__(
        self,
        hello: Hello,
        channel: Channel,
        front: Callable[[Inside], Front],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._hello = hello
        self._channel = channel
        self._questions = Questions(channel.send)
        self._instruments = Instruments()
        self._ledger = LedgerWriter(
            Path(hello.ledger_path),
            hello.gateway,
            sync_interval_s=hello.ledger.sync_interval_ms / 1000,
            segment_bytes=hello.ledger.segment_bytes,
            clock=clock,
        )
        self._tracing: Tracing | None = None
        if hello.serve.otlp_endpoint is not None:
            self._tracing = Tracing(hello.serve, self._instruments, clock, hello.gateway)
        self._guard = Guard(
            clock, self._instruments, labels_per_minute=hello.serve.labels_per_minute
        )
        watch, pace = self._watch(), Pace(clock)
        self._processor = Processor(
            self._ledger,
            self._instruments,
            clock,
            watch,
            open_ids(Path(hello.ledger_path), clock),
            pace=pace,
        )
        pace.answer = self._processor.catch_up
        plane = DataPlane(
            self._processor,
            ledger=self._ledger,
            instruments=self._instruments,
            clock=clock,
            collect=self._collect,
            guard=self._guard,
            pace=pace,
            max_label_age_s=hello.ledger.max_label_age_days * 86_400.0,
            server_name=hello.serve.server_name,
        )
        extensions = Extensions(
            self._processor,
            self._questions,
            controls=hello.serve.model_control == "explicit",
        )
        self._front = front(
            Inside(
                processor=self._processor,
                plane=plane,
                extensions=extensions,
                instruments=self._instruments,
                guard=self._guard,
                pace=pace,
                clock=clock,
                serve=hello.serve,
            )
        )
        self._opened = False
        self._retiring = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = log("serving.gateway")

    def _watch(self) -> QueryWatch | None:
        watches: list[QueryWatch] = []
        if self._hello.logs.queries != "none":
            watches.append(QueryLog(self._hello.logs, self._instruments))
        if self._tracing is not None:
            watches.append(self._tracing)
        if len(watches) == 1:
            return watches[0]
        return Watches(*watches) if watches else None

    async def run(self) -> None:
        """Obeys the supervisor until it says to drain or is gone, or SIGTERM comes."""
        self._log.info("gateway.started", native=is_native())
        self._ledger.start()
        if self._tracing is not None:
            self._tracing.start()
        self._front.start()
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        obeying = asyncio.create_task(self._obey())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((obeying, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        drain_s = obeying.result() if obeying.done() else self._hello.serve.drain_s
        obeying.cancel()
        await self._drain(drain_s)

    async def _obey(self) -> float:
        """Does what it is told; returns how long the last queries may take."""
        while (message := await self._channel.receive()) is not None:
            match message:
                case Prepare(assignment=assignment):
                    self._spawn(self._prepare(assignment))
                case Activate(revision=revision):
                    await self._activate(revision)
                case Keys():
                    self._guard.replace(message)
                case Collect(request=request):
                    self._channel.send(
                        Snapshot(
                            request=request,
                            instruments=self._shown(),
                            tallies=self._processor.tallies(),
                        )
                    )
                case Told():
                    self._questions.told(message)
                case Inspect(request=request, application=name):
                    self._channel.send(
                        Inspected(request=request, versions=self._processor.inspect(name))
                    )
                case Drain(timeout_s=timeout_s):
                    return timeout_s
                case _:
                    raise AssertionError(f"a supervisor said {type(message).__name__}")
        self._log.warning("supervisor.gone")
        return _ORPHAN_DRAIN_S

    async def _prepare(self, assignment: Assignment) -> None:
        revision = assignment.revision
        try:
            await self._processor.prepare(assignment)
        except TidemillError as error:
            self._channel.send(Failed(revision=revision, reason=str(error)))
        except Exception as error:  # noqa: BLE001 - the supervisor is told, whatever it was
            self._log.exception("prepare.failed", revision=revision)
            self._channel.send(Failed(revision=revision, reason=f"{type(error).__name__}: {error}"))
        else:
            self._channel.send(Prepared(revision=revision))

    async def _activate(self, revision: int) -> None:
        self._processor.activate(revision)
        if not self._opened:
            # What is loaded now stays: the collector need never look at it again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 20, 20)  # queries die by reference count
            trim_memory()
            self._opened = True
            await self._front.open()
        self._channel.send(Activated(revision=revision))
        self._spawn(self._retire(revision))

    async def _retire(self, revision: int) -> None:
        async with self._retiring:
            try:
                await self._processor.retire()
            except Exception:  # noqa: BLE001 - what is live goes on; the log has the rest
                self._log.exception("retire.failed", revision=revision)
            await asyncio.to_thread(trim_memory)  # loading takes more than what is loaded
            self._channel.send(Drained(revision=revision))

    async def _collect(self) -> bytes:
        """Returns the metrics of all gateways; its own if the supervisor does not answer."""
        try:
            return await self._questions.ask("metrics", within_s=_METRICS_WITHIN_S)
        except NotReady:
            return render([self._shown()])

    def _shown(self) -> Instrumented:
        self._processor.show_levels()
        return self._instruments.snapshot()

    async def _drain(self, timeout_s: float) -> None:
        began = asyncio.get_running_loop().time()
        await self._front.drain(timeout_s)
        spent = asyncio.get_running_loop().time() - began
        await self._processor.drain(max(0.1, timeout_s - spent))
        await asyncio.to_thread(self._ledger.close)
        if self._tracing is not None:
            await self._tracing.aclose(_LAST_SPANS_S)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def raise_file_limit() -> int:
    """Lets this process open as many files as it is allowed to; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


class _Teller:
    """Tells the supervisor the lines of this gateway's log that matter, but never a flood.

    Args:
        channel: to the supervisor.
        loop: the thread that the channel lives on.
        clock: measures how many there are.
    """

    def __init__(self, channel: Channel, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._channel = channel
        self._loop = loop
        self._clock = clock
        self._second = 0
        self._told = 0

    def __call__(self, line: str) -> None:
        second = int(self._clock.monotonic())
        if second != self._second:
            self._second, self._told = second, 0
        self._told += 1
        if self._told <= _LINES_A_SECOND:
            said = Said(line=line[:_LINE_CHARACTERS])
            with contextlib.suppress(RuntimeError):  # the loop is closed: this is the end
                self._loop.call_soon_threadsafe(self._channel.send, said)


async def _run(
    fd: int, control_fd: int, front: Callable[[socket.socket, int, Inside], Front]
) -> None:
    channel = Channel(socket.socket(fileno=control_fd))
    await channel.start()
    hello = await channel.receive()
    if isinstance(hello, Hello):
        configure_logs(hello.logs.level, hello.logs.format)
        tell_trouble(_Teller(channel, asyncio.get_running_loop(), SYSTEM_CLOCK))
        listener, max_files = socket.socket(fileno=fd), raise_file_limit()
        await Gateway(hello, channel, partial(front, listener, max_files)).run()
    tell_trouble(None)
    await channel.aclose()


def run_gateway(
    module: str,
    front: Callable[[socket.socket, int, Inside], Front],
    arguments: Sequence[str] | None = None,
) -> int:
    """Runs a gateway until it is told to stop.

    Args:
        module: its name, for whoever asks for help.
        front: makes what speaks with clients, of the inherited socket, of how many files this
            process may open, and of what answers.
        arguments: of the command line; by default those of this process.
    """
    parser = argparse.ArgumentParser(prog=module)
    parser.add_argument("--fd", type=int, required=True, help="the socket that clients come to")
    parser.add_argument("--control-fd", type=int, required=True, help="the supervisor's channel")
    options = parser.parse_args(arguments)
    share_heap()
    uvloop.run(_run(options.fd, options.control_fd, front))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a gateway for HTTP."""
    return run_gateway("tidemill.serving.gateway", HttpFront, arguments)


if __name__ == "__main__":
    sys.exit(main())
