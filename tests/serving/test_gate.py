"""Requests that are turned away before anybody has read them: cheap, in order, counted."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.serving.fakes import Transport

from tidemill.foundation.clock import FakeClock
from tidemill.foundation.instruments import Instruments
from tidemill.serving.application import Application
from tidemill.serving.edge import Edge
from tidemill.serving.exchange import Exchange, Handler
from tidemill.serving.gate import Gate
from tidemill.serving.guard import Guard
from tidemill.serving.keys import Access
from tidemill.serving.limits import Limits
from tidemill.serving.pace import Pace

CLIENTS, QUESTIONS, ROW_MS, SLO_MS = 16, 40, 5, 30.0
GONE = b"HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\n\r\n"


class Shut:
    """A gate that is shut, and counts who came."""

    response = GONE

    def __init__(self) -> None:
        self.turned = 0
        self.shut = True

    def turns_away(self, _: float) -> bool:
        self.turned += self.shut
        return self.shut


class Reader:
    """Answers what it reads, later if it is asked to, and has a gate."""

    def __init__(self) -> None:
        self.gate = Shut()
        self.read = 0
        self.later: list[Exchange] = []

    def access(self, _: Handler) -> Access:
        return Access(scope=None, application=None, whole=False)

    def find(self, _method: bytes, target: bytes) -> Handler:
        def answer(exchange: Exchange) -> None:
            self.read += 1
            exchange.head.gate = self.gate
            if target == b"/later":
                self.later.append(exchange)
            else:
                exchange.answer(exchange.body)

        return answer


def request(path: bytes, *more: bytes) -> bytes:
    lines = b"".join(each + b"\r\n" for each in more)
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: 2\r\n\r\n{}" % (path, lines)


def connected(edge: Edge) -> tuple[Any, Transport]:
    connection, transport = edge.protocol(), Transport()
    connection.connection_made(transport)
    return connection, transport


def test_who_comes_to_a_shut_gate_is_not_read() -> None:
    """Its head is known, so the gate answers; once it is open, requests are read again."""
    routes = Reader()
    connection, transport = connected(Edge(routes, Limits(), FakeClock()))
    for _ in range(3):
        connection.data_received(request(b"/a"))
    assert (routes.read, routes.gate.turned) == (1, 2)
    assert transport.written.endswith(GONE * 2)
    routes.gate.shut = False
    connection.data_received(request(b"/a"))
    assert routes.read == 2
    assert transport.written.endswith(b"{}")


def test_nobody_is_turned_away_before_those_who_came_first() -> None:
    """While an answer is owed on the connection, the next request is read, and waits its turn."""
    routes = Reader()
    connection, transport = connected(Edge(routes, Limits(), FakeClock()))
    connection.data_received(request(b"/a"))
    connection.data_received(request(b"/later"))
    before = transport.written
    connection.data_received(request(b"/a"))
    assert (routes.read, routes.gate.turned) == (3, 0)
    assert transport.written == before
    routes.later[0].answer(b"first")
    assert transport.written.index(b"first") < transport.written.rindex(b"{}")


def test_a_gate_lets_nobody_pass_whose_key_is_gone() -> None:
    """Who may not ask is told that, and not that too much is asked."""
    routes = Reader()
    guard = Guard(FakeClock(), Instruments(), labels_per_minute=1)
    guard.table = None
    connection, transport = connected(Edge(routes, Limits(), FakeClock(), guard=guard))
    for _ in range(2):
        connection.data_received(request(b"/a"))
    assert (routes.read, routes.gate.turned) == (1, 1)
    guard.table = cast("Any", SimpleNamespace(principal=lambda *_: None))
    connection.data_received(request(b"/a"))
    assert routes.gate.turned == 1


def test_a_page_s_refusal_says_that_it_may_read_it() -> None:
    """What an answer must carry for a web page, it carries: the gate's response would not."""
    routes = Reader()
    edge = Edge(routes, Limits(), FakeClock())
    connection, _ = connected(edge)
    connection.data_received(request(b"/a"))
    for head, _length in edge.heads.values():
        head.answer_headers = b"access-control-allow-origin: x\r\n"
    connection.data_received(request(b"/a"))
    assert (routes.read, routes.gate.turned) == (2, 0)


def asked(*, batch_s: float, doubtful: bool = False, closed_until: float = 0.0) -> Any:
    """An application with an SLO of 20 ms, whose batches of one take so long."""
    batcher = SimpleNamespace(
        closed_until=closed_until,
        closed_for_s=0.02,
        law=SimpleNamespace(predict=lambda _: batch_s),
        doubtful=lambda _: doubtful,
    )
    return SimpleNamespace(
        slo_s=0.02,
        deployment=SimpleNamespace(default=None),
        only=SimpleNamespace(table=None, keyed=False, batcher=batcher),
    )


@pytest.mark.parametrize(
    ("application", "waited_s", "hopeless"),
    [
        (asked(batch_s=0.001), 0.004, False),
        (asked(batch_s=0.001), 0.008, True),  # it would be answered in time, but so would others
        (asked(batch_s=0.012), 0.004, False),  # the model's own time is not the loop's
        (asked(batch_s=0.018), 0.004, True),
        (asked(batch_s=0.018, doubtful=True), 0.004, False),  # nobody knows whether that is so
        (asked(batch_s=0.001, closed_until=130.0), 0.0, True),
        (asked(batch_s=0.001, closed_until=130.0, doubtful=True), 0.0, False),
    ],
)
def test_under_a_load_that_lasts_the_loop_gets_half_of_the_slo(
    application: Any, waited_s: float, *, hopeless: bool
) -> None:
    """By then it is about to be answered here; a model elsewhere may take all that is left."""
    found = Application.hopeless(
        application, 100.0, 100.0 + waited_s, soonest_s=0.003, patience_s=0.01
    )
    assert found is hopeless


def test_an_open_gate_shuts_within_a_turn() -> None:
    """That nothing has waited is found once a turn; that the queue is closed, for each request.

    Once shut, it stays so for that turn, whatever becomes of the queue.
    """

    async def main() -> None:
        clock = FakeClock(at=100.0)
        pace, refused = Pace(clock), Counter[str]()
        application = asked(batch_s=0.001)
        application.name, application.deployment.slo_ms = "app", 20.0
        for name in ("closed_to", "hopeless"):
            bound = getattr(Application, name).__get__(application)
            setattr(application, name, bound)
        processor = SimpleNamespace(
            applications={"app": application},
            refused_unread=lambda *_, **__: None,
            refuse=lambda *_, times, **__: refused.update(refused=times),
        )
        gate = Gate(application, cast("Any", processor), pace)
        turned = []
        for closed_until in (0.0, 0.0, 130.0, 130.0, 0.0):
            application.only.batcher.closed_until = closed_until
            turned.append(gate.turns_away(pace.arrival()))
        await asyncio.sleep(0)
        assert turned == [False, False, True, True, True]
        assert refused == {"refused": 3}
        application.only.batcher.closed_until = 0.0
        clock.advance(0.001)
        assert not gate.turns_away(pace.arrival())

    asyncio.run(main())


def test_every_request_of_an_overload_is_counted_as_it_ended(launch_slow: Any) -> None:
    """Answered, late or refused, read or not: the metrics tell what the clients were told."""
    with launch_slow(TIDEMILL_SERVE_GATEWAYS="1") as server:
        plan = {"cache_bytes": 0, "coalesce": False, "placement": "gateway"}
        server.deploy("hurried", "slow", plan=plan, slo_ms=SLO_MS)

        def ask(_: int) -> Counter[int]:
            with server.client() as client:
                body = {"instances": [[ROW_MS]]}
                posts = (
                    client.post("/v1/models/hurried:predict", json=body) for _ in range(QUESTIONS)
                )
                return Counter(response.status_code for response in posts)

        with ThreadPoolExecutor(CLIENTS) as pool:
            told: Counter[int] = sum(pool.map(ask, range(CLIENTS)), Counter())
        assert set(told) <= {200, 504}
        assert told[504] > 0, "the load was none"
        with server.client() as client:
            page = client.get("/metrics").text
        counted: dict[str, float] = {}
        for line in page.splitlines():
            found = re.match(r'tidemill_queries_total.*"hurried".*slo="(\w+)".* ([0-9.]+)$', line)
            if found:
                counted[found[1]] = float(found[2])
        assert counted["refused"] + counted["missed"] + counted["met"] == CLIENTS * QUESTIONS
        assert counted["met"] <= told[200]  # one that was answered late was answered
        assert counted["refused"] <= told[504] <= counted["refused"] + counted["missed"]
