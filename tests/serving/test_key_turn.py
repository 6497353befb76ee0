"""Keys of one turn are answered together, and each as it would have been by itself."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.serving.key_world import (
    BROKEN,
    FAMILIES,
    KNOWN,
    LOOKUP,
    ODD,
    UNFORESEEN,
    UNWRITABLE,
    Everything,
    World,
    gateway,
    kept,
    nameless,
    parts,
    refused,
    turn,
)

from tidemill.data.ledger import LedgerWriter, PlainRows
from tidemill.foundation.errors import InvalidInput, Unavailable
from tidemill.serving.channel import Keys
from tidemill.serving.connection import MAX_PIPELINE
from tidemill.serving.exchange import Exchange
from tidemill.serving.keys import Access, KeyRecord, new_key
from tidemill.serving.limits import Limits

ROUNDS = 4
"""A head is parsed once, known the second time, and from the third on only its key is looked at."""
USERS = [0, 5, 7, 5, KNOWN - 1, KNOWN + 3, UNWRITABLE - 1, ODD, BROKEN, 40]


async def asked(world: World, users: Sequence[int]) -> list[tuple[int, Any]]:
    """Asks for one user on a connection each, again and again: see ``ROUNDS``."""
    connections = [world.connect() for _ in users]
    for again in range(ROUNDS):
        for (connection, _), user in zip(connections, users, strict=True):
            connection.data_received(LOOKUP % ((user + again) % KNOWN, b""))
        await turn()
    return [answer for _, transport in connections for answer in parts(transport.written)]


@pytest.mark.parametrize("default", [None, {"y": [0.0, 0.0], "word": "none"}])
@pytest.mark.parametrize("users", [USERS, [3], [1, 2, 3], [KNOWN + 1] * 3, [ODD, 3, ODD - 1]])
def test_together_or_alone_each_key_gets_the_same(
    tmp_path: Path, users: list[int], default: Any
) -> None:
    """What is answered, counted and recorded, whether it is there, missing, damaged or odd."""
    found: list[Any] = []

    async def main(path: Path, watch: Any) -> None:
        async with gateway(path, watch, default) as world:
            said = await asked(world, users)
            ids = Counter(name for _, body in said for name in body.get("prediction_ids", ()))
            assert set(ids.values()) <= {1}
            counts = {family: world.counted(family) for family in FAMILIES}
            found.append(([nameless(each) for each in said], counts))

    watch = Everything()
    asyncio.run(main(tmp_path / "together", None))
    asyncio.run(main(tmp_path / "alone", watch))
    assert watch.seen == ROUNDS * len(users)
    assert found[0] == found[1]
    assert kept(tmp_path / "together") == kept(tmp_path / "alone")


@pytest.mark.parametrize("output", ["y", "word"])
def test_an_answer_of_one_column_is_kept_as_by_itself(tmp_path: Path, output: str) -> None:
    """A list, or a plain value: what the client gets, and what the ledger has."""
    found: list[Any] = []

    async def main(path: Path, watch: Any) -> None:
        async with gateway(path, watch, None, (output,)) as world:
            found.append([nameless(each) for each in await asked(world, [4, 5, 6])])

    asyncio.run(main(tmp_path / "together", None))
    asyncio.run(main(tmp_path / "alone", Everything()))
    assert found[0] == found[1]
    said = [2.0, -4] if output == "y" else "v1"
    assert found[0][0][1]["predictions"] == [said]
    assert kept(tmp_path / "together") == kept(tmp_path / "alone")


def test_the_keys_of_a_turn_are_one_question_to_the_table(tmp_path: Path) -> None:
    """It is asked once a turn, however many connections ask."""

    async def main() -> None:
        async with gateway(tmp_path) as world:
            said = await asked(world, [1, 2, 3, 4, 5])
            assert [status for status, _ in said] == [200] * 5 * ROUNDS
            assert said[ROUNDS][1]["predictions"] == [{"y": [1.0, -2.0], "word": "v1"}]
            assert world.tables[0].asked == [5] * ROUNDS

    asyncio.run(main())


@pytest.mark.parametrize("header", [b"", b"content-encoding: identity\r\n"])
def test_a_known_head_has_only_its_key_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: bytes
) -> None:
    """Nobody is asked any more who serves it, but where its key takes a closer look."""
    routed: list[bytes] = []

    async def main() -> None:
        async with gateway(tmp_path) as world:
            lookup = world.plane.lookup

            def noted(exchange: Exchange, name: str) -> None:
                routed.append(exchange.query)
                lookup(exchange, name)

            monkeypatch.setattr(world.edge.routes, "find", lambda *_: lambda e: noted(e, "app"))
            monkeypatch.setattr(
                world.edge.routes, "access", lambda _: Access(scope=None, application=None)
            )
            connection, transport = world.connect()
            for user in (b"%d" % at for at in range(6)):
                connection.data_received(LOOKUP.replace(b"%d", user) % header)
            for odd in (b"%37", b"+7", b"007", b"x", b"8&user=8", b"9"):
                connection.data_received(LOOKUP.replace(b"%d", odd.replace(b"%", b"%%")) % header)
            await turn()
            said = [body["predictions"][0]["y"][1] for _, body in parts(transport.written)
                    if "predictions" in body]  # fmt: skip
            assert said == [0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -7.0, -7.0, -9.0]
            assert refused(transport.written)[-3:] == [400, 400, 200]

    asyncio.run(main())
    assert routed == [b"user=0", b"user=1", b"user=%37", b"user=+7", b"user=x", b"user=8&user=8"]


def test_a_known_connection_asks_what_is_live(tmp_path: Path) -> None:
    """Once another version is live, what was known of a head is found again, for that one."""

    async def main() -> None:
        async with gateway(tmp_path) as world:
            connection, transport = world.connect()
            versions: list[str] = []
            for number in (1, 2, 3):
                if number > 1:
                    world.go_live(number)
                for user in range(4):
                    transport.written = b""
                    connection.data_received(LOOKUP % (user, b""))
                    await turn()
                    (status, body), = parts(transport.written)  # fmt: skip
                    assert status == 200
                    versions.append(body["model_version"])
                assert world.tables[-1].asked == [1] * 4
            assert versions == ["1"] * 4 + ["2"] * 4 + ["3"] * 4
            await world.processor.drain(1.0)
            transport.written = b""
            connection.data_received(LOOKUP % (1, b""))
            await turn()
            assert refused(transport.written) == [404]

    asyncio.run(main())


def test_a_gateway_that_holds_too_much_takes_no_known_key(tmp_path: Path) -> None:
    """A key costs nothing that it could hold, and is refused all the same, as any request."""

    async def main() -> None:
        async with gateway(tmp_path) as world:
            connection, transport = world.connect()
            for user in range(4):
                connection.data_received(LOOKUP % (user, b""))
            world.edge.load.nbytes += Limits().max_held_bytes + 1
            connection.data_received(LOOKUP % (4, b""))
            world.edge.load.nbytes -= Limits().max_held_bytes + 1
            connection.data_received(LOOKUP % (5, b""))
            await turn()
            assert refused(transport.written) == [200] * 4 + [503, 200]
            assert world.edge.load.nbytes == 0

    asyncio.run(main())


def test_keys_that_come_one_by_one_wait_in_order(tmp_path: Path) -> None:
    """Sent without waiting, in chunks of their own, up to as many as may wait and beyond."""

    async def main() -> None:
        async with gateway(tmp_path) as world:
            connection, transport = world.connect()
            for user in range(MAX_PIPELINE - 1):
                connection.data_received(LOOKUP % (user % 50, b""))
            assert transport.reading
            connection.data_received(LOOKUP % (KNOWN - 1, b""))
            assert not transport.reading
            await turn()
            assert transport.reading
            said = [body["predictions"][0]["y"][1] for _, body in parts(transport.written)]
            assert said == [-(at % 50) for at in range(MAX_PIPELINE - 1)] + [1 - KNOWN]

    asyncio.run(main())


def test_what_cannot_be_recorded_is_not_answered(tmp_path: Path) -> None:
    """A ledger that takes nothing costs each of the turn's keys its answer, and says why."""

    async def main() -> None:
        ledger = LedgerWriter(tmp_path, "gateway-0")  # it is not started
        world = World(ledger)
        said = await asked(world, [1, 2])
        assert [status for status, _ in said] == [503] * 2 * ROUNDS
        assert all("could not be recorded" in body["error"] for _, body in said)
        assert not world.counted("tidemill_answers")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "statuses"),
    [
        (Unavailable("an earlier sync failed"), [503, 503, 200, 200]),
        (InvalidInput("one of them cannot be kept"), [200] * 4),
    ],
)
def test_a_ledger_that_fails_once_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, statuses: list[int]
) -> None:
    """Those of that turn are told, unless it may be the fault of one of them; the next is fine."""

    async def main() -> None:
        async with gateway(tmp_path) as world:
            ledger, append = world.ledger, world.ledger.append_rows

            def fail(rows: PlainRows) -> None:
                monkeypatch.setattr(ledger, "append_rows", append)
                raise error

            monkeypatch.setattr(ledger, "append_rows", fail)
            (one, first), (other, second) = world.connect(), world.connect()
            for user in (1, 2):
                one.data_received(LOOKUP % (user, b""))
                other.data_received(LOOKUP % (user, b""))
                await turn()
            said = zip(parts(first.written), parts(second.written), strict=True)
            assert [status for both in said for status, _ in both] == statuses

    asyncio.run(main())
    assert len(kept(tmp_path)) == statuses.count(200)


def test_what_nobody_foresaw_costs_one_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a key brings to fail, the others of its turn are answered, and it is counted.

    The log tells once why those of a turn could not be looked up together.
    """

    async def main() -> None:
        async with gateway(tmp_path) as world:
            await asked(world, [1, BROKEN, 3])
            assert "table.not_together" not in capsys.readouterr().err
            for times in (1, 2):
                said = await asked(world, [1, UNFORESEEN, 3])
                assert [status for status, _ in said] == [200] * 4 + [500] + [200] * 7
                assert world.counted("tidemill_refused") == {("internal",): times}
            assert capsys.readouterr().err.count('"table.not_together"') == 1
            assert world.counted("tidemill_queries")["app", "1", "met"] == 11 + 2 * 11

    asyncio.run(main())


def test_keys_are_answered_by_what_was_live_when_they_came(tmp_path: Path) -> None:
    """A version that goes live within a turn answers what comes from then on."""

    async def main() -> None:
        async with gateway(tmp_path) as world:
            (one, first), (other, second) = world.connect(), world.connect()
            one.data_received(LOOKUP % (1, b""))
            world.go_live(2)
            assert first.written  # and not later, when its table may be closed
            other.data_received(LOOKUP % (1, b""))
            one.data_received(LOOKUP % (1, b""))
            await turn()
            versions = [body["model_version"] for _, body in parts(first.written + second.written)]
            assert versions == ["1", "2", "2"]

    asyncio.run(main())


def test_a_table_that_is_too_old_answers_none_of_them(tmp_path: Path) -> None:
    """Each is refused and counted as by itself; a younger table answers again."""

    async def main() -> None:
        async with gateway(tmp_path) as world:
            world.go_live(2, max_age_s=1.0)
            said = await asked(world, [1, 2, 3])
            assert [status for status, _ in said] == [503] * 3 * ROUNDS
            assert world.counted("tidemill_table_stale") == {("app", "2"): 3 * ROUNDS}
            world.go_live(3)
            assert [status for status, _ in await asked(world, [1])] == [200] * ROUNDS

    asyncio.run(main())


def test_answers_keep_their_order_among_other_requests(tmp_path: Path) -> None:
    """Pipelined: lookups, what is answered at once, refusals and bodies, cut anywhere."""
    live = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    body = json.dumps({"instances": [{"user": 4}]}).encode()
    post = b"POST /v1/models/app:predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
    mixed = [LOOKUP % (1, b""), live, LOOKUP % (KNOWN, b""), post % (len(body), body)]
    mixed += [LOOKUP % (2, b""), live.replace(b"live", b"dead"), LOOKUP % (3, b"")]
    stream, wanted = b"".join(mixed), [200, 200, 404, 200, 200, 404, 200]

    async def main() -> None:
        async with gateway(tmp_path) as world:
            for at in range(1, len(stream)):
                connection, transport = world.connect()
                for user in (8, 9):  # from now on its head is known
                    connection.data_received(LOOKUP % (user, b""))
                connection.data_received(stream[:at])
                if at % 2:
                    await turn()
                connection.data_received(stream[at:])
                await turn()
                said = parts(transport.written)
                assert [status for status, _ in said] == [200, 200, *wanted], at
                rows = [
                    answer["predictions"][0]["y"][1]
                    for _, answer in said
                    if "predictions" in answer
                ]
                assert rows == [-8.0, -9.0, -1.0, -4.0, -2.0, -3.0]

    asyncio.run(main())


def test_more_than_may_wait_are_answered_all_the_same(tmp_path: Path) -> None:
    """A client that sends more keys at once than may wait for their answers gets all, in order."""
    many = 3 * MAX_PIPELINE

    async def main() -> None:
        async with gateway(tmp_path) as world:
            connection, transport = world.connect()
            connection.data_received(b"".join(LOOKUP % (at % 50, b"") for at in range(many)))
            for _ in range(many):
                await turn()
            said = [body["predictions"][0]["y"][1] for _, body in parts(transport.written)]
            assert said == [-(at % 50) for at in range(many)]

    asyncio.run(main())


@pytest.mark.parametrize("known", [1, 2, 3, 4])
def test_a_key_that_counts_no_more_is_noticed_by_a_known_connection(
    tmp_path: Path, known: int
) -> None:
    """Revoked between two requests of one connection, whose heads are the same to the last byte."""
    key, digest = new_key()
    header = b"authorization: Bearer %b\r\n" % key.encode()
    record = KeyRecord(name="web", digest=digest, scopes=("query",))

    async def main() -> None:
        async with gateway(tmp_path) as world:
            world.guard.replace(Keys(required=True, keys=(record,)))
            connection, transport = world.connect()
            for user in range(known):
                connection.data_received(LOOKUP % (user, header))
                await turn()
            world.guard.replace(Keys(required=True))
            connection.data_received(LOOKUP % (9, header))
            await turn()
            world.guard.replace(Keys(required=True, keys=(record,)))
            connection.data_received(LOOKUP % (9, header))
            await turn()
            assert refused(transport.written) == [200] * known + [401, 200]

    asyncio.run(main())


def test_one_byte_of_a_head_makes_it_another(tmp_path: Path) -> None:
    """On a connection whose head is known, a head with any one byte changed is read anew."""
    key, digest = new_key()
    header = b"authorization: Bearer %b\r\n" % key.encode()
    record = KeyRecord(name="web", digest=digest, scopes=("query",))
    head = LOOKUP % (7, header)

    async def main() -> None:
        async with gateway(tmp_path) as world:
            world.guard.replace(Keys(required=True, keys=(record,)))
            allowed = set()
            for at in range(len(head)):
                connection, transport = world.connect()
                for _ in range(3):
                    connection.data_received(head)
                await turn()
                transport.written = b""
                changed = bytes([head[at] ^ 1])
                connection.data_received(head[:at] + changed + head[at + 1 :])
                await turn()
                fresh = World.connect(world)
                fresh[0].data_received(head[:at] + changed + head[at + 1 :])
                await turn()
                assert [nameless(each) for each in parts(transport.written)] == [
                    nameless(each) for each in parts(fresh[1].written)
                ], at
                if b"200 OK" in transport.written:
                    allowed.add(at)
            assert allowed  # what nothing hangs on
            assert allowed.isdisjoint(range(head.index(header), head.index(header) + len(header)))

    asyncio.run(main())


def test_a_connection_that_closes_says_so_with_its_last_answer(tmp_path: Path) -> None:
    """While the server drains, the answer to a known head tells the client that it is the last."""

    async def main() -> None:
        async with gateway(tmp_path) as world:
            connection, transport = world.connect()
            for user in (1, 2):
                connection.data_received(LOOKUP % (user, b""))
            await turn()
            assert b"connection: close" not in transport.written
            world.edge.draining = True
            connection.data_received(LOOKUP % (3, b""))
            await turn()
            assert transport.written.count(b"connection: close") == 1

    asyncio.run(main())
