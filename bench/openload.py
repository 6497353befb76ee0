"""An open-loop load generator: questions leave when they are due, whatever became of the others.

    python -m bench.openload --url URL --bodies FILE --rate 5000 --seconds 2 --slo-ms 20

Arrivals are a Poisson process. A latency counts from the moment when the question was due, so that
a generator or a server that falls behind is not excused. Each question takes a connection of its
own while it is out; one for which none is left is counted as unsent: then the server is behind by
as many as there are connections. ``silent_ms`` is the longest time in which it answered nobody,
though it was asked: a stall. Prints one JSON object. With ``--until-closed`` it ends earlier, once
its standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop
from bench.answers import READERS, Answer, Reader, right
from bench.questions import http_requests, read_bodies

TICK_S = 0.0002
"""Questions that are due within so long leave together, when a kernel timer rings: uvloop's own are
a millisecond wide. Where none is due, it does not ring: each time it would take the processor from
a server that shares it."""
WAIT_S = 3.0
"""Answers that are out at the end are waited for so long, then they are lost."""
CHECK_EVERY = 64
_OPENED_AT_ONCE = 64
_CLOCK_MONOTONIC = 1


@dataclass
class Load:
    """What is to be asked, and what became of it."""

    requests: list[bytes]
    expected: list[Answer]
    read: Reader
    due_s: list[float]
    idle: list[Connection] = field(default_factory=list)
    next: int = 0
    start: float = 0.0
    unsent: int = 0
    lost: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    answered_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    checked: int = 0
    wrong: int = 0
    example: str = ""
    cpu_s: float = 0.0
    heard_s: float = 0.0
    silent_s: float = 0.0

    def send_due(self) -> None:
        """Sends every question that is due by now."""
        now = time.perf_counter() - self.start
        requests, due, idle = self.requests, self.due_s, self.idle
        number, count = self.next, len(requests)
        while number < len(due) and due[number] <= now:
            self.lags_s.append(now - due[number])
            if idle:
                idle.pop().ask(number, requests[number % count])
            else:
                self.unsent += 1
            number += 1
            if number % 16 == 0:
                now = time.perf_counter() - self.start
        self.next = number

    def left_s(self) -> float | None:
        """Returns in how long the next question is due; None where all were asked."""
        if self.next >= len(self.due_s):
            return None
        return self.due_s[self.next] - (time.perf_counter() - self.start)

    def answered(self, connection: Connection, number: int, status: int, data: bytes) -> None:
        """Counts an answer; some are checked."""
        now = time.perf_counter() - self.start
        seconds = now - self.due_s[number]
        # What this one waited for, nobody else was told anything, either.
        self.silent_s = max(self.silent_s, min(now - self.heard_s, seconds))
        self.heard_s = now
        self.idle.append(connection)
        self.statuses[status] += 1
        if status != 200:
            self.refused_s.append(seconds)
            self.example = self.example or data[-200:].decode(errors="replace")
            return
        self.answered_s.append(seconds)
        if data and self.expected:
            self.checked += 1
            body = data.partition(b"\r\n\r\n")[2]
            if not right(self.read(body, 0), self.expected[number % len(self.expected)]):
                self.wrong += 1

    def stop(self) -> None:
        """Asks what was not asked yet no more."""
        del self.due_s[self.next :]

    def done(self) -> int:
        """Returns for how many questions it is known what became of them."""
        return self.unsent + self.lost + len(self.answered_s) + len(self.refused_s)


class Connection(asyncio.Protocol):
    """One client: its question is answered before it asks the next."""

    __slots__ = ("_data", "_keeps", "_load", "_number", "_parser", "_transport")

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._number = -1
        self._data = b""
        self._keeps = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Is ready to ask."""
        self._transport = cast("asyncio.Transport", transport)
        self._load.idle.append(self)

    def ask(self, number: int, request: bytes) -> None:
        """Sends a question."""
        self._number = number
        self._keeps = number % CHECK_EVERY == 0
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Reads what arrived; an answer is kept only to be checked."""
        if self._keeps:
            self._data += data
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Counts the answer; called by the parser."""
        number, data = self._number, self._data
        self._number, self._data = -1, b""
        self._load.answered(self, number, self._parser.get_status_code(), data)

    def connection_lost(self, _: Exception | None) -> None:
        """Counts the question that was out."""
        if self._number >= 0:
            self._load.lost += 1
            self._number = -1
        with contextlib.suppress(ValueError):
            self._load.idle.remove(self)

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.abort()


class Timer:
    """A timer of the kernel that rings once, as a file that can be read then.

    Raises:
        OSError: the system has none.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self.file: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, flags)
        if self.file < 0:
            raise OSError(ctypes.get_errno(), "no timer")

    def ring_in(self, seconds: float) -> None:
        """Rings after so long, more than none, and not at any time that it was to ring before."""
        whole, part = divmod(int(1e9 * seconds), 1_000_000_000)
        # struct itimerspec: interval and first expiry, each seconds and nanoseconds.
        once = (ctypes.c_long * 4)(0, 0, whole, part)
        if self._libc.timerfd_settime(self.file, 0, once, None) != 0:
            raise OSError(ctypes.get_errno(), "the timer cannot be set")

    def rang(self) -> None:
        """Takes note that it has rung."""
        os.read(self.file, 8)

    def close(self) -> None:
        """Gives it back."""
        os.close(self.file)


async def drive(
    load: Load, host: str, port: int, connections: int, *, until_closed: bool = False
) -> None:
    """Opens the connections, asks everything when it is due, and waits for what is out."""
    loop = asyncio.get_running_loop()
    opened: list[Connection] = []
    while len(opened) < connections:
        some = min(_OPENED_AT_ONCE, connections - len(opened))
        made = [loop.create_connection(lambda: Connection(load), host, port) for _ in range(some)]
        opened += [cast("Connection", each[1]) for each in await asyncio.gather(*made)]
    gc.collect()
    gc.disable()
    timer = Timer()
    ended = loop.create_future()

    def tick() -> None:
        timer.rang()
        load.send_due()
        left_s = load.left_s()
        if left_s is not None:
            timer.ring_in(max(TICK_S, left_s))
        elif not ended.done():
            ended.set_result(None)

    before = time.process_time()
    load.start = time.perf_counter()
    loop.add_reader(timer.file, tick)
    timer.ring_in(TICK_S)
    if until_closed:
        loop.run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: load.stop())
    try:
        await ended
        give_up = time.perf_counter() + WAIT_S
        while load.done() < len(load.due_s) and time.perf_counter() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    finally:
        loop.remove_reader(timer.file)
        timer.close()
        gc.enable()
    load.cpu_s = time.process_time() - before
    load.lost += len(load.due_s) - load.done()
    for connection in opened:
        connection.close()


def result(load: Load, *, rate: float, seconds: float, slo_s: float) -> dict[str, Any]:
    """Returns all that was found out; goodput is what was answered within the SLO.

    Of all questions those are the slowest that were never answered: they count with ``WAIT_S``.
    """
    answered, refused = np.array(load.answered_s), np.array(load.refused_s)
    never = np.full(load.lost + load.unsent, WAIT_S)
    everything = np.concatenate([answered, refused, never])
    return {
        "rate": rate,
        "offered": len(load.due_s),
        "offered_rps": round(len(load.due_s) / seconds, 1),
        "answered": len(answered),
        "goodput_rps": round(int((answered <= slo_s).sum()) / seconds, 1),
        "late": int((answered > slo_s).sum()),
        "refused": len(refused),
        "statuses": {str(status): count for status, count in load.statuses.items()},
        "lost": load.lost,
        "unsent": load.unsent,
        "p50_ms": _quantile(answered, 0.5),
        "p99_ms": _quantile(answered, 0.99),
        "refused_p99_ms": _quantile(refused, 0.99),
        "all_p99_ms": _quantile(everything, 0.99),
        "lag_p99_ms": _quantile(np.array(load.lags_s), 0.99),
        "silent_ms": round(1000 * load.silent_s, 1),
        "generator_cpu_us": round(1e6 * load.cpu_s / max(1, len(load.due_s)), 1),
        "checked": load.checked,
        "wrong": load.wrong,
        "example": load.example,
    }


def main() -> None:
    """Reads the arguments, loads the server and prints what was found out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--expected", type=Path)
    parser.add_argument("--format", choices=sorted(READERS), default="plain")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--slo-ms", type=float, default=20.0)
    parser.add_argument("--connections", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--until-closed", action="store_true", help="until standard input ends")
    options = parser.parse_args()
    _allow_files(options.connections + 64)
    gaps = np.random.default_rng(options.seed).exponential(
        1.0 / options.rate, int(2 * options.rate * options.seconds) + 64
    )
    due = np.cumsum(gaps)
    load = Load(
        requests=http_requests(
            options.url, read_bodies(options.bodies), os.environ.get("REQUEST_HEADERS", "")
        ),
        expected=json.loads(options.expected.read_bytes()) if options.expected else [],
        read=READERS[options.format],
        due_s=due[due < options.seconds].tolist(),
    )
    parts = urlsplit(options.url)
    assert parts.hostname is not None
    assert parts.port is not None
    until_closed = options.until_closed
    began = time.monotonic()
    uvloop.run(
        drive(load, parts.hostname, parts.port, options.connections, until_closed=until_closed)
    )
    seconds = time.monotonic() - began if until_closed else options.seconds
    slo_s = options.slo_ms / 1000
    print(json.dumps(result(load, rate=options.rate, seconds=seconds, slo_s=slo_s)))


def _quantile(values: np.ndarray, share: float) -> float | None:
    return round(1000 * float(np.quantile(values, share)), 4) if len(values) else None


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


if __name__ == "__main__":
    main()
