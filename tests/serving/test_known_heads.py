"""Request heads that the edge knows by heart: they change nothing but the time that it takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.serving.fakes import Transport

from tidemill.foundation.clock import FakeClock
from tidemill.serving import shared
from tidemill.serving.connection import MAX_REMEMBERED_HEAD_BYTES
from tidemill.serving.edge import Edge
from tidemill.serving.encodings import CODINGS, FOLD_FROM_BYTES, fold
from tidemill.serving.exchange import Exchange, Handler
from tidemill.serving.limits import Limits

REQUESTS = (
    b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc",
    b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nxyz",
    b"POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n\r\n\r\n",
    b"POST /b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET /c HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /c HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    b"HEAD /c HTTP/1.1\r\nhost: x\r\n\r\n",
    *(
        b"%b /q%b HTTP/1.1\r\nhost: x\r\n\r\n" % (method, query)
        for method in (b"GET", b"HEAD")
        for query in (b"", b"?", b"?k=1", b"?k=2&y=%20+", b"?a?b", b"?k=1#f", b"?\xc3\xa9", b"?\t")
    ),
    b"GET /q?k=3 HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab",
    b"GET /q?k=4 HTTP/1.1\r\nhost: y\r\n\r\n",
    b"\r\n\r\nGET /c HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST /d HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\nq",
    b"POST /e HTTP/1.1\r\nhost: x\r\nsec-fetch-site: cross-site\r\ncontent-length: 1\r\n\r\nq",
    (
        b"POST /f HTTP/1.1\r\nhost: x\r\n"
        b"inference-header-content-length: 2\r\ncontent-length: 2\r\n\r\nqq"
    ),
    b"POST /f HTTP/1.1\r\nhost: x\r\ncontent-encoding: odd\r\ncontent-length: 2\r\n\r\nqq",
    *(
        b"POST /g HTTP/1.1\r\nhost: x\r\ncontent-encoding: %b\r\ncontent-length: %d\r\n\r\n%b"
        % (coding.encode(), len(body), body)
        for coding in CODINGS
        for body in (
            fold(b"abc", coding),
            fold(b"xyz", coding),
            b"not at all",
            fold(b"a" * 99, coding),
        )
    ),
    b"GET /long HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\n\r\n",
    b"POST /t HTTP/1.1\r\nhost: x\r\n"
    b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nA: b\r\n\r\n".replace(
        b"A: b", b"content-encoding: gzip"
    ),
)
LAST = (
    b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    b"GET /old HTTP/1.0\r\n\r\n",
    (
        b"POST /both HTTP/1.1\r\nhost: x\r\n"
        b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    b"what is this\r\n\r\n",
)


class Echo:
    """Answers with what it was asked."""

    def find(self, method: bytes, target: bytes) -> Handler:
        def answer(exchange: Exchange) -> None:
            path = target.partition(b"?")[0]
            said = [method.decode(), path.decode(), exchange.body.decode()]
            said.append(exchange.query.decode("latin-1"))
            filler = "x" * FOLD_FROM_BYTES if target == b"/long" else ""
            exchange.answer(json.dumps([*said, exchange.header_length, filler]).encode())

        return answer


class Forgetful(Edge):
    """Remembers no head, so that each is parsed."""

    def remember(self, head_bytes: bytes, head: Any, body_bytes: int) -> None:
        pass


def answers(edge: Edge, chunks: Sequence[bytes]) -> tuple[bytes, bool]:
    connection, transport = edge.protocol(), Transport()
    connection.connection_made(transport)
    for chunk in chunks:
        connection.data_received(chunk)
    connection.connection_lost(None)
    return transport.written, transport.closed


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Requests on one connection, mostly one in a chunk, now and then cut or run together."""
    requests = draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=8))
    if draw(st.booleans()):
        requests = [*requests, draw(st.sampled_from(LAST)), draw(st.sampled_from(REQUESTS))]
    chunks: list[bytes] = []
    for request in requests:
        how = draw(st.sampled_from(("whole", "whole", "whole", "cut", "joined")))
        if how == "cut":
            at = draw(st.integers(0, len(request)))
            chunks += [request[:at], request[at:]]
        elif how == "joined" and chunks:
            chunks[-1] += request
        else:
            chunks.append(request)
    return [chunk for chunk in chunks if chunk]


@given(st.lists(streams(), min_size=2, max_size=4))
def test_a_known_head_is_answered_as_a_parsed_one(connections: list[list[bytes]]) -> None:
    """Whatever was seen before, and however it is cut, the bytes that come back are the same."""
    clock = FakeClock()
    knowing = Edge(Echo(), Limits(max_body_bytes=64), clock)
    parsing = Forgetful(Echo(), Limits(max_body_bytes=64), clock)
    for chunks in connections:
        assert answers(knowing, chunks) == answers(parsing, chunks)
    assert not parsing.heads


def test_an_empty_line_is_nobodys_head() -> None:
    """What a client sends between its requests is never taken for the request before."""
    edge, blank = Edge(Echo(), Limits(), FakeClock()), b"\r\n\r\n"
    assert (
        answers(edge, [b"GET /c HT", b"TP/1.1\r\nhost: x\r\n\r\n", blank])[0].count(b"200 OK") == 1
    )
    assert blank not in edge.heads
    assert answers(edge, [blank]) == (b"", False)


def test_a_head_is_known_from_its_second_time_and_the_memory_is_bounded() -> None:
    """The usual request is remembered; ever new heads do not fill the memory."""
    edge = Edge(Echo(), Limits(), FakeClock())
    answers(edge, [REQUESTS[0]])
    assert [known[1] for known in edge.heads.values()] == [3]
    for number in range(shared.MAX_REMEMBERED_HEADS + 10):
        answers(edge, [b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % number])
    assert len(edge.heads) <= shared.MAX_REMEMBERED_HEADS
    long = b"GET /a HTTP/1.1\r\nhost: x\r\nx: " + b"y" * MAX_REMEMBERED_HEAD_BYTES + b"\r\n\r\n"
    assert answers(edge, [long])[0].startswith(b"HTTP/1.1 200")
    assert all(len(head) <= MAX_REMEMBERED_HEAD_BYTES for head in edge.heads)


def test_heads_that_differ_in_the_query_alone_are_one() -> None:
    """Ever new keys are asked for at the price of one head."""
    edge = Edge(Echo(), Limits(), FakeClock())
    for number in range(100):
        said = answers(edge, [b"GET /q?k=%d HTTP/1.1\r\nhost: x\r\n\r\n" % number])[0]
        assert b'"k=%d"' % number in said
    assert list(edge.heads) == [b"GET /q? HTTP/1.1\r\nhost: x\r\n\r\n"]


AGAIN = b"GET /q?%b HTTP/1.1\r\nhost: x\r\n\r\n"


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(
                [
                    *(b"", b"k=2", b"a b", b"#", b"%zz", b"k" * MAX_REMEMBERED_HEAD_BYTES),
                    *(b"k HTTP/1.1\r\nhost: x\r\n\r\nGET /q?j", b"k HTTP/1.1\r\nhost: y\r\nz: "),
                ]
            ),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_query_on_a_known_connection_hides_nothing(queries: list[bytes]) -> None:
    """Whatever stands for the query, the bytes that come back are those of a parsed request."""
    asked = [AGAIN % query for query in (b"k=1", b"k=2", b"k=3", *queries)]
    clock = FakeClock()
    known = answers(Edge(Echo(), Limits(), clock), asked)
    assert known == answers(Forgetful(Echo(), Limits(), clock), asked)
