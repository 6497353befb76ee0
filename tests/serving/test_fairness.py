"""Two applications on one server: at ten times what one can do, the other keeps its promise.

Load is open: a question leaves when it is due, whatever became of the others, and its time counts
from that moment.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import uvloop

SECONDS = 2.5
ROW_MS = 20
"""What a row takes: one application can do 50 a second."""
OVERLOAD_RPS = 10 * 1000 // ROW_MS
CALM_RPS = 30
BUSY_SLO_MS = 2000.0
CALM_SLO_MS = 1000.0
CONNECTIONS = 200
LATE_S = 0.5
"""Who asks so late was itself held up, and learns nothing of the server."""


@dataclass
class Asked:
    """An application's questions: when each is due, and what became of it."""

    request: bytes
    rate: float
    idle: list[Asker] = field(default_factory=list)
    out: int = 0
    unsent: int = 0
    late_s: float = 0.0
    """The longest that a question left after it was due: time that this process was not given."""
    answered_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    refusals: set[bytes] = field(default_factory=set)

    async def ask(self, seconds: float) -> None:
        """Asks at an even rate, and waits for what is out."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(int(self.rate * seconds)):
            due = began + number / self.rate
            if (early := due - loop.time()) > 0.0:
                await asyncio.sleep(early)
            self.late_s = max(self.late_s, loop.time() - due)
            if not self.idle:
                self.unsent += 1
                continue
            self.out += 1
            self.idle.pop().ask(due)
            if number % 8 == 0:  # one that is behind lets the other have its turn
                await asyncio.sleep(0)
        async with asyncio.timeout(20):
            while self.out:
                await asyncio.sleep(0.01)

    def ended(self, asker: Asker, data: bytes, seconds: float) -> None:
        """Counts an answer or a refusal."""
        self.out -= 1
        self.idle.append(asker)
        if data.startswith(b"HTTP/1.1 200"):
            self.answered_s.append(seconds)
        else:
            self.refused_s.append(seconds)
            self.refusals.add(data.split(b" ", 2)[1])


class Asker(asyncio.Protocol):
    """A connection with one question at a time."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._transport: Any = None
        self._due = 0.0
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._asked.idle.append(self)

    def ask(self, due: float) -> None:
        self._due = due
        self._transport.write(self._asked.request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.split(b"content-length: ")[1].split(b"\r\n")[0]):
            data, self._data = self._data, b""
            self._asked.ended(self, data, asyncio.get_running_loop().time() - self._due)

    def close(self) -> None:
        self._transport.abort()


async def _both(port: int, asked: list[tuple[Asked, int]]) -> None:
    loop = asyncio.get_running_loop()
    for each, connections in asked:
        for _ in range(connections):
            await loop.create_connection(lambda each=each: Asker(each), "127.0.0.1", port)
    await asyncio.gather(*(each.ask(SECONDS) for each, _ in asked))
    for each, _ in asked:
        for asker in each.idle:
            asker.close()


def _asked(application: str, x: float, rate: float) -> Asked:
    body = json.dumps({"instances": [[x]]}).encode()
    head = f"POST /v1/models/{application}:predict HTTP/1.1\r\nhost: localhost\r\n"
    return Asked(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body, rate)


@pytest.fixture(scope="module")
def server(launch_slow: Any) -> Iterator[Any]:
    """A server with one gateway, with an application of each kind in it and in a worker."""
    plan = {"cache_bytes": 0, "coalesce": False}
    with launch_slow(TIDEMILL_SERVE_GATEWAYS="1", TIDEMILL_LOGS_QUERIES="none") as server:
        for place in ("gateway", "worker"):
            placed = {**plan, "placement": place}
            server.deploy(f"busy-{place}", "slow", plan=placed, slo_ms=BUSY_SLO_MS)
            server.deploy(f"calm-{place}", "slow", plan=placed, slo_ms=CALM_SLO_MS)
        yield server


@pytest.mark.parametrize("busy_in", ["worker", "gateway"])
@pytest.mark.parametrize("calm_in", ["worker", "gateway"])
def test_an_overloaded_application_does_not_starve_another(
    server: Any, busy_in: str, calm_in: str
) -> None:
    """One is asked ten times what it can do; the other's 99th percentile is within its SLO."""
    for _ in range(3):
        busy = _asked(f"busy-{busy_in}", ROW_MS, OVERLOAD_RPS)
        calm = _asked(f"calm-{calm_in}", 1, CALM_RPS)
        uvloop.run(_both(server.port, [(busy, CONNECTIONS), (calm, 20)]))
        if calm.late_s < LATE_S:
            break
    told = (
        f"asked at most {_ms([calm.late_s], 1.0)} late; "
        f"busy: {len(busy.answered_s)} answered, {len(busy.refused_s)} refused, "
        f"{busy.unsent} unsent; calm: {len(calm.answered_s)} answered, "
        f"{len(calm.refused_s)} refused, p50 {_ms(calm.answered_s, 0.5)}, "
        f"p99 {_ms(calm.answered_s, 0.99)}; busy's refusals p50 {_ms(busy.refused_s, 0.5)}"
    )
    assert not calm.unsent, told
    assert len(calm.refused_s) <= 0.01 * CALM_RPS * SECONDS, told
    assert np.quantile(calm.answered_s, 0.99) <= CALM_SLO_MS / 1000, told
    # The other one is overloaded indeed, and is told so; what it can do, it does.
    assert len(busy.refused_s) > 3 * len(busy.answered_s), told
    assert len(busy.answered_s) > 0.4 * SECONDS * 1000 / ROW_MS, told
    assert busy.refusals <= {b"503", b"504"}, told


def _ms(seconds: list[float], share: float) -> str:
    return f"{1000 * np.quantile(seconds, share):.1f} ms" if seconds else "none"
