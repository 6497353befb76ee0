"""A load generator: keep-alive connections that each ask the next question once they are answered.

Run it in a process of its own:

    python -m bench.load --url http://127.0.0.1:8080/path --bodies bodies.jsonl --connections 8

It prints "started", then one JSON object: requests, seconds, latencies, errors, and what became of
the answers that were checked. ``--rate`` paces it instead, to check answers beside another
generator; the last questions are then waited for.
Bodies go round (``questions.py`` tells their file); ``--expected`` is a JSON list with one answer
per body. Headers for each request are lines of ``REQUEST_HEADERS`` in the environment: keys do not
belong into arguments that everybody on the machine can read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
from bench.answers import READERS, Answer, Reader, right
from bench.questions import HEADER_LENGTH, http_requests, read_bodies

_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
WAIT_S = 30.0
"""A paced generator waits for its last answers for at most so long; then it fails."""


@dataclass
class Load:
    """What the connections share: the questions, and what is found out."""

    requests: list[bytes]
    expected: list[Answer]
    read: Reader
    check_every: int
    interval_s: float
    latencies_s: list[float] = field(default_factory=list)
    bad_status: int = 0
    lost: int = 0
    checked: int = 0
    wrong: int = 0
    example: str = ""
    next_body: int = 0
    stopping: bool = False

    def take(self) -> int:
        """Returns the number of the next question."""
        taken = self.next_body
        self.next_body = (taken + 1) % len(self.requests)
        return taken

    def answered(
        self, number: int, status: int, body: bytes, header_bytes: int, seconds: float
    ) -> None:
        """Counts an answer and checks every so many."""
        self.latencies_s.append(seconds)
        if status != 200:
            self.bad_status += 1
            self.example = self.example or f"{status} {body[:200]!r}"
        elif self.expected and len(self.latencies_s) % self.check_every == 0:
            self.checked += 1
            if not right(self.read(body, header_bytes), self.expected[number]):
                self.wrong += 1
                self.example = self.example or body[:300].decode(errors="replace")

    def result(self, seconds: float) -> dict[str, Any]:
        """Returns all that was found out."""
        ordered = sorted(self.latencies_s)
        shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
        count = len(ordered)
        quantiles = {
            name: round(1000 * ordered[min(count - 1, int(share * count))], 4) if count else None
            for name, share in shares.items()
        }
        return {
            "requests": count,
            "seconds": seconds,
            "rps": round(count / seconds, 1),
            **quantiles,
            "errors": self.bad_status + self.lost,
            "checked": self.checked,
            "wrong": self.wrong,
            "example": self.example,
        }


class Connection(asyncio.Protocol):
    """One client: asks, waits for the whole answer, asks again."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._header_bytes = 0
        self._number = 0
        self._asked = 0.0
        self.waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks the first question."""
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Reads what arrived of an answer."""
        self._parser.feed_data(data)

    def connection_lost(self, _: Exception | None) -> None:
        """Counts a connection that the server closed."""
        self.waiting, self._transport = False, None
        if not self._load.stopping:
            self._load.lost += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        """Notes where binary tensors begin; called by the parser."""
        if name.lower() == _HEADER_LENGTH:
            self._header_bytes = int(value)

    def on_body(self, data: bytes) -> None:
        """Keeps a part of the body; called by the parser."""
        self._body += data

    def on_message_complete(self) -> None:
        """Counts the answer and asks again; called by the parser."""
        seconds = time.perf_counter() - self._asked
        self.waiting = False
        status = self._parser.get_status_code()
        body = bytes(self._body)
        self._load.answered(self._number, status, body, self._header_bytes, seconds)
        self._body.clear()
        self._header_bytes = 0
        if self._load.interval_s:
            asyncio.get_running_loop().call_later(self._load.interval_s, self._ask)
        else:
            self._ask()

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _ask(self) -> None:
        if self._load.stopping or self._transport is None:
            return
        self._number = self._load.take()
        self._asked = time.perf_counter()
        self.waiting = True
        self._transport.write(self._load.requests[self._number])


async def drive(load: Load, host: str, port: int, connections: int, seconds: float) -> float:
    """Loads a server for so many seconds; returns how many it were."""
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    opened = [
        (await loop.create_connection(lambda: Connection(load), host, port))[1]
        for _ in range(connections)
    ]
    print("started", flush=True)
    await asyncio.sleep(seconds)
    load.stopping = True
    took = time.perf_counter() - start
    if load.interval_s:
        async with asyncio.timeout(WAIT_S):
            while any(connection.waiting for connection in opened):  # noqa: ASYNC110 - the end
                await asyncio.sleep(0.01)
    for connection in opened:
        connection.close()
    return took


def main() -> None:
    """Reads the arguments, loads the server and prints what was found out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--expected", type=Path)
    parser.add_argument("--format", choices=sorted(READERS), default="plain")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--check-every", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0, help="questions a second and connection")
    options = parser.parse_args()
    bodies = read_bodies(options.bodies)
    headers = os.environ.get("REQUEST_HEADERS", "")
    load = Load(
        requests=http_requests(options.url, bodies, headers),
        expected=json.loads(options.expected.read_bytes()) if options.expected else [],
        read=READERS[options.format],
        check_every=options.check_every,
        interval_s=1.0 / options.rate if options.rate else 0.0,
    )
    parts = urlsplit(options.url)
    assert parts.hostname is not None
    assert parts.port is not None
    if sys.platform != "win32":
        import uvloop  # noqa: PLC0415

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    took = asyncio.run(
        drive(load, parts.hostname, parts.port, options.connections, options.seconds)
    )
    print(json.dumps(load.result(took)))


if __name__ == "__main__":
    main()
