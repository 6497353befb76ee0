"""Content codings: what was folded is unfolded, and never to more than is allowed."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.foundation.errors import InvalidInput, TooLarge
from tidemill.serving.edge import Edge
from tidemill.serving.encodings import (
    CODINGS,
    FOLD_AT_ONCE_BYTES,
    FOLD_FROM_BYTES,
    UNFOLD_AT_ONCE_BYTES,
    Coding,
    Unfolding,
    UnknownCoding,
    fold,
    preferred,
)
from tidemill.serving.exchange import Exchange
from tidemill.serving.limits import Limits

MIB = 1 << 20
THEIRS: dict[Coding, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
UNFOLDED: dict[Coding, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}
BODIES = st.binary(max_size=3000) | st.builds(
    lambda part, times: part * times, st.binary(min_size=1, max_size=9), st.integers(1, 40_000)
)


@settings(deadline=None)
@given(BODIES, st.sampled_from(CODINGS), st.integers(1, 100_000))
def test_what_others_folded_is_unfolded_whatever_the_steps(
    body: bytes, coding: Coding, work: int
) -> None:
    """Python's own streams, step by step, give the body, and it fits a limit of its very size."""
    unfolding = Unfolding(coding, THEIRS[coding](body), len(body))
    steps = 0
    while (found := unfolding.more(work)) is None:
        steps += 1
        assert steps < 1_000_000
    assert found == body
    assert UNFOLDED[coding](fold(body, coding)) == body


@settings(deadline=None)
@given(BODIES.filter(bool), st.sampled_from(CODINGS))
def test_one_byte_too_many_is_refused(body: bytes, coding: Coding) -> None:
    """The limit is exact."""
    with pytest.raises(TooLarge, match=f"unfolds to more than {len(body) - 1} bytes"):
        Unfolding(coding, THEIRS[coding](body), len(body) - 1).rest()


@settings(deadline=None)
@given(st.binary(max_size=500), st.sampled_from(CODINGS), st.data())
def test_a_damaged_stream_is_refused_or_read(
    body: bytes, coding: Coding, data: st.DataObject
) -> None:
    """Cut, continued or changed, a stream gives the body or an error of ours, and nothing else."""
    whole = THEIRS[coding](body)
    with pytest.raises(InvalidInput, match="ends too soon"):
        Unfolding(coding, whole[: data.draw(st.integers(0, len(whole) - 1))], 1000).rest()
    with pytest.raises(InvalidInput, match="follows its end"):
        Unfolding(coding, whole + data.draw(st.binary(min_size=1, max_size=9)), 1000).rest()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + 1 :]
    with contextlib.suppress(InvalidInput):
        assert len(Unfolding(coding, changed, 1000).rest()) <= 1000


def test_a_bomb_is_never_allocated() -> None:
    """A gigabyte of nothing in a megabyte is refused soon, within a few times the limit."""
    bomb = _bomb(1 << 30)
    assert len(bomb) < 2 * MIB
    tracemalloc.start()
    before = time.process_time()
    with pytest.raises(TooLarge):
        Unfolding("gzip", bomb, 8 * MIB).rest()
    spent, peak = time.process_time() - before, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert spent < 2.0
    assert peak < 24 * MIB


def test_a_stream_of_nothing_ends() -> None:
    """Blocks that hold nothing are work too: a step over them is as short as any other."""
    folder = zlib.compressobj()
    nothing = folder.compress(b"") + b"".join(
        folder.flush(zlib.Z_FULL_FLUSH) for _ in range(200_000)
    )
    nothing += b"\x00\x00\x00\xff\xff" * 400_000
    unfolding = Unfolding("deflate", nothing, MIB)
    before = time.process_time()
    assert unfolding.more(UNFOLD_AT_ONCE_BYTES) is None
    assert time.process_time() - before < 0.2
    with pytest.raises(InvalidInput, match="ends too soon"):
        unfolding.rest()


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "", "x" * 1000])
def test_another_coding_is_named(coding: str) -> None:
    """What is not known is refused, and what is known is said."""
    with pytest.raises(UnknownCoding, match="Send gzip or deflate") as refused:
        Unfolding(coding, b"", 10)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (b"gzip", "gzip"),
        (b"deflate, gzip", "deflate"),
        (b"gzip;q=0.5, deflate;q=0.8", "deflate"),
        (b"GZIP ; Q=1.0", "gzip"),
        (b"identity, gzip", None),
        (b"identity;q=0.1, gzip; q=0.2", "gzip"),
        (b"br, zstd", None),
        (b"gzip;q=0", None),
        (b"gzip;q=much", None),
        (b"gzip;q=nan", None),
        (b"*", None),
        (b"", None),
        (b",;,\xff", None),
    ],
)
def test_the_coding_that_a_client_likes_best(accept: bytes, coding: str | None) -> None:
    """The first with the highest weight, as Triton chooses; what is not understood is passed."""
    assert preferred(accept) == coding


# At the edge


class Echo:
    """Answers with so many bytes as ``/N`` says, after the body's length."""

    def find(self, _: bytes, target: bytes) -> Callable[[Exchange], None]:
        def answer(exchange: Exchange) -> None:
            said = json.dumps([len(exchange.body), exchange.body[:3].decode()]).encode()
            exchange.answer(said.ljust(int(target[1:])))

        return answer


@asynccontextmanager
async def served(limits: Limits | None = None) -> AsyncIterator[tuple[httpx.AsyncClient, Edge]]:
    edge = Edge(Echo(), limits or Limits(max_body_bytes=4 * MIB))
    edge.start()
    server = await asyncio.get_running_loop().create_server(edge.protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            client.headers["accept-encoding"] = "identity"
            yield client, edge
    finally:
        server.close()
        await edge.drain(0.0)
        await server.wait_closed()


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [0, 3, UNFOLD_AT_ONCE_BYTES - 1, 3 * MIB, 4 * MIB])
def test_a_folded_request_is_the_request(coding: Coding, size: int) -> None:
    """Small or large, the handler gets the body as it was, twice on one connection."""

    async def main() -> None:
        async with served() as (client, edge):
            body = fold(b"a" * size, coding)
            for _ in range(2):
                answer = await client.post(
                    "/9", content=body, headers={"content-encoding": coding.upper()}
                )
                assert answer.status_code == 200, answer.text
                assert answer.json() == [size, "a" * min(3, size)]
            assert edge.load.nbytes == 0

    run(main())


@pytest.mark.parametrize(
    ("coding", "body", "status", "said"),
    [
        ("br", b"x", 415, "'br' is not known"),
        ("gzip, deflate", b"x", 415, "'gzip, deflate' is not known"),
        ("gzip", b"", 400, "ends too soon"),
        ("gzip", b"plain text", 400, "not gzip"),
        ("deflate", gzip.compress(b"x" * 5 * MIB), 413, "more than 4194304 bytes"),
        ("gzip", fold(b"x" * 3 * MIB, "gzip")[:-1], 400, "ends too soon"),
    ],
)
def test_a_wrong_body_gets_its_status(coding: str, body: bytes, status: int, said: str) -> None:
    """Unknown codings, wrong data and bombs are told apart, and the connection stays."""

    async def main() -> None:
        async with served() as (client, edge):
            for _ in range(2):
                answer = await client.post("/9", content=body, headers={"content-encoding": coding})
                assert answer.status_code == status, answer.text
                assert said in answer.json()["error"]
                if status == 415:
                    assert answer.headers["accept-encoding"] == "gzip, deflate"
            plain = await client.post("/9", content=b"abc", headers={"content-encoding": ""})
            assert plain.json() == [3, "abc"]
            assert edge.load.nbytes == 0

    run(main())


def test_what_is_held_stays_bounded() -> None:
    """Bodies on their way out of their coding count with all that they may become."""

    async def main() -> None:
        limits = Limits(max_body_bytes=4 * MIB, max_held_bytes=9 * MIB)
        async with served(limits) as (client, edge):
            body, headers = fold(b"a" * 4 * MIB, "gzip"), {"content-encoding": "gzip"}
            answers = await asyncio.gather(
                *(client.post("/9", content=body, headers=headers) for _ in range(12))
            )
            statuses = {answer.status_code for answer in answers}
            assert statuses <= {200, 503}
            assert 200 in statuses
            assert all("allowed" in each.text for each in answers if each.status_code == 503)
            assert edge.load.nbytes == 0

    run(main())


def test_a_body_that_may_become_all_that_is_held_is_taken() -> None:
    """Where bodies may be as large as all that a gateway holds, a folded one still may."""

    async def main() -> None:
        limits = Limits(max_body_bytes=4 * MIB, max_held_bytes=4 * MIB)
        async with served(limits) as (client, _):
            body = fold(b"a" * 4 * MIB, "gzip")
            answer = await client.post("/9", content=body, headers={"content-encoding": "gzip"})
            assert answer.json()[0] == 4 * MIB

    run(main())


def test_the_loop_goes_on_while_a_body_unfolds() -> None:
    """Other clients are answered while large bodies are unfolded and large answers folded."""

    async def main() -> None:
        limits = Limits(max_body_bytes=64 * MIB, max_held_bytes=1 << 30)
        async with served(limits) as (client, _):
            body = fold(b"abcdefgh" * (8 * MIB), "gzip")
            large = client.post("/9", content=body, headers={"content-encoding": "gzip"})
            waiting = asyncio.create_task(large)
            await asyncio.sleep(0)
            small = 0
            while not waiting.done():
                assert (await client.post("/9", content=b"abc")).status_code == 200
                small += 1
            assert (await waiting).json()[0] == 64 * MIB
            assert small >= 3

    run(main())


@pytest.mark.parametrize("coding", CODINGS)
def test_answers_are_folded_for_who_asks(coding: Coding) -> None:
    """Small ones go as they are; folded ones say so, and come back as they were."""

    async def main() -> None:
        async with served() as (client, _):
            headers = {"accept-encoding": f"identity;q=0.1, {coding}"}
            for size in (10, FOLD_FROM_BYTES - 1, FOLD_FROM_BYTES, FOLD_AT_ONCE_BYTES + 1, MIB):
                answer = await client.post(f"/{size}", content=b"abc", headers=headers)
                assert len(answer.content) == size
                assert answer.json() == [3, "abc"]
                said = answer.headers.get("content-encoding")
                assert said == (coding if size >= FOLD_FROM_BYTES else None)
                assert "vary" not in answer.headers  # no cache keeps what was posted
                if said:
                    assert int(answer.headers["content-length"]) < size / 10
            plain = await client.post(f"/{MIB}", content=b"abc")
            assert "content-encoding" not in plain.headers
            for asked in (headers, {"accept-encoding": "identity"}):
                got = await client.get(f"/{MIB}", headers=asked)
                assert got.headers["vary"] == "accept-encoding"

    run(main())


def test_folded_answers_keep_their_order_on_a_connection() -> None:
    """A large answer that is folded elsewhere is not overtaken by the small one after it."""

    async def main() -> None:
        async with served() as (client, _):
            reader, writer = await asyncio.open_connection(
                client.base_url.host, client.base_url.port
            )
            head = "GET /%d HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\n%s\r\n"
            end = "connection: close\r\n"
            writer.write((head % (MIB, "") + head % (9, end)).encode())
            got = await reader.read()
            writer.close()
            first, _, rest = got.partition(b"\r\n\r\n")
            assert b"content-encoding: gzip" in first
            folded, _, last = rest.partition(b"HTTP/1.1 200 OK")
            assert len(gzip.decompress(folded)) == MIB
            assert last.endswith(b'[0, ""]  ')

    run(main())


def test_no_body_is_folded_for_head_or_errors() -> None:
    """HEAD has no body whatever is accepted; an error is plain."""

    async def main() -> None:
        async with served() as (client, _):
            headers = {"accept-encoding": "gzip"}
            head = await client.head(f"/{MIB}", headers=headers)
            assert (head.status_code, head.content) == (200, b"")
            wrong = await client.post(
                "/9", content=b"x", headers={**headers, "content-encoding": "br"}
            )
            assert "content-encoding" not in wrong.headers

    run(main())


def _bomb(size: int) -> bytes:
    """Returns a stream of so many zeros; a part that is flushed whole may come again and again."""
    folder = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    head = folder.compress(b"\0") + folder.flush(zlib.Z_FULL_FLUSH)
    part = folder.compress(bytes(MIB)) + folder.flush(zlib.Z_FULL_FLUSH)
    return head + part * (size // MIB)
