"""Keys of one turn are answered together, and each as it would have been by itself."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tidemill.data.ledger import LedgerWriter, PlainRows, read_ledger
from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.errors import Corrupted, InvalidInput, Unavailable
from tidemill.foundation.instruments import Instruments
from tidemill.models.signature import Column, Signature
from tidemill.serving.application import Application
from tidemill.serving.batcher import Batcher
from tidemill.serving.cache import Cache
from tidemill.serving.channel import Keys
from tidemill.serving.connection import MAX_PIPELINE, Limits
from tidemill.serving.dataplane import DataPlane
from tidemill.serving.edge import Edge
from tidemill.serving.extensions import Extensions
from tidemill.serving.guard import Guard
from tidemill.serving.keys import KeyRecord, new_key
from tidemill.serving.measures import Measures
from tidemill.serving.openapi import ApiDocument
from tidemill.serving.plan import Deployment, Live, VersionAssignment
from tidemill.serving.processor import Processor
from tidemill.serving.questions import Questions
from tidemill.serving.routes import PathRoutes
from tidemill.serving.version import LiveVersion
from tidemill.tables.answer import encode_answer
from tidemill.tables.key import KeyEncoder
from tidemill.tables.table import Table

SIGNATURE = Signature(
    (Column("user", "int64"), Column("x", "float64")),
    (Column("y", "float64", (2,)), Column("word", "string")),
)
KEY = KeyEncoder([("user", "int64")])
LOOKUP = b"GET /v1/models/app:lookup?user=%d HTTP/1.1\r\nhost: x\r\n%b\r\n"
UNFORESEEN, BROKEN, UNWRITABLE, ODD = 55, 66, 77, 88
KNOWN = 100


class Known:
    """A table of the users 0 to 99; it fails where one is that is broken, or worse."""

    info: Any = SimpleNamespace(as_of=0.0, built_at=0.0)

    def __init__(self, version: int = 1, outputs: Sequence[str] = ("y", "word")) -> None:
        self.asked: list[int] = []
        self._rows = {
            KEY.one([user]): encode_answer(
                {
                    name: value
                    for name, value in (("y", [user / 2, -user]), ("word", f"v{version}"))
                    if name in outputs
                }
            )
            for user in range(KNOWN)
        }
        self._rows[KEY.one([UNWRITABLE])] = encode_answer({"y": [1.0, 2.0], "word": "a"}).replace(
            b"\xa1a", b"\xa1\xff"
        )
        self._rows[KEY.one([ODD])] = encode_answer({"y": 1.0, "word": "no list"})

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.asked.append(len(keys))
        if KEY.one([UNFORESEEN]) in keys:
            raise RuntimeError("nobody foresaw that")
        if KEY.one([BROKEN]) in keys:
            raise Corrupted("the file is damaged", remedy="")
        return [self._rows.get(key) for key in keys]

    def close(self) -> None:
        """Nothing to give back."""


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        """Goes on."""

    def pause_reading(self) -> None:
        """Goes on."""

    def resume_reading(self) -> None:
        """Goes on."""


class Everything:
    """Watches each query, so that none is answered with others."""

    every = True

    def __init__(self) -> None:
        self.seen = 0

    def ended(self, query: Any, now: float) -> None:
        self.seen += 1

    def wants(self, _: float) -> bool:
        return False


class World:
    """One gateway's insides, from the bytes of a client to the ledger."""

    def __init__(
        self,
        ledger: LedgerWriter,
        watch: Any = None,
        default: Any = None,
        outputs: Sequence[str] = ("y", "word"),
    ) -> None:
        self.instruments, self.ledger = Instruments(), ledger
        given = tuple(each for each in SIGNATURE.outputs if each.name in outputs)
        self.signature = Signature(SIGNATURE.inputs, given)
        self.outputs = outputs
        self.default = default
        self.processor = Processor(ledger, self.instruments, SYSTEM_CLOCK, watch)
        self.guard = Guard(SYSTEM_CLOCK, self.instruments, labels_per_minute=9)
        self.guard.replace(Keys(required=False))
        plane = DataPlane(
            self.processor,
            ledger=ledger,
            instruments=self.instruments,
            clock=SYSTEM_CLOCK,
            collect=cast("Any", None),
        )
        extensions = Extensions(
            self.processor, Questions(cast("Any", lambda _: None)), controls=False
        )
        document = ApiDocument(self.processor, self.guard, max_body_bytes=1, max_header_bytes=1)
        routes = PathRoutes(plane, extensions, document)
        self.edge = Edge(routes, Limits(), SYSTEM_CLOCK, self.instruments, self.guard)
        self.tables: list[Known] = []
        self.go_live(1)

    def go_live(self, number: int, **terms: Any) -> None:
        """Has a version of this number answer, with a table of its own."""
        table = Known(number, self.outputs)
        self.tables.append(table)
        application = self.application(number, table, **terms)
        self.processor._staged[number] = {"app": application}
        self.processor.activate(number)

    def application(self, number: int, table: Known, **terms: Any) -> Application:
        measures = Measures(self.instruments, "app")
        live = Live(model="m", version=number)
        version = LiveVersion(
            assignment=VersionAssignment(live=live, folder="nowhere", replicas=()),
            identity=(number,),
            signature=self.signature,
            platform="onnx",
            table=cast("Table", table),
            key=KEY,
            cache=Cache(0, None),
            batcher=Batcher(
                clock=SYSTEM_CLOCK,
                max_batch=64,
                max_queue=1000,
                max_queue_bytes=1 << 20,
                finish=lambda query: self.processor._from_replica(version, query),
                observer=measures.of(number),
            ),
            coalesces=False,
            clock=SYSTEM_CLOCK,
            measures=measures.of(number),
        )
        deployment = Deployment(
            application="app",
            revision=number,
            versions=(live,),
            key=("user",),
            default=self.default,
            **terms,
        )
        return Application(
            deployment=deployment, versions=(version,), signature=self.signature, measures=measures
        )

    def connect(self) -> tuple[Any, Transport]:
        connection, transport = cast("Any", self.edge.protocol()), Transport()
        connection.connection_made(transport)
        return connection, transport

    def counted(self, name: str) -> dict[tuple[str, ...], Any]:
        """What a family shows, without what is nothing; of distributions, how many."""
        shown = self.instruments.snapshot()[name]
        rows = {tuple(labels): state for labels, state in shown["rows"]}
        if shown["kind"] == "histogram":
            rows = {labels: sum(state[0]) for labels, state in rows.items()}
        return {labels: state for labels, state in rows.items() if state}


@asynccontextmanager
async def gateway(path: Path, *given: Any) -> AsyncIterator[World]:
    with LedgerWriter(path, "gateway-0") as ledger:
        yield World(ledger, *given)


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def parts(written: bytes) -> list[tuple[int, Any]]:
    """The status and body of each answer."""
    found = []
    while written:
        head, _, rest = written.partition(b"\r\n\r\n")
        size = int(cast("Any", re.search(rb"content-length: (\d+)", head))[1])
        found.append((int(head.split()[1]), json.loads(rest[:size])))
        written = rest[size:]
    return found


def nameless(answer: tuple[int, Any]) -> Any:
    """An answer without its id."""
    status, body = answer
    return status, {name: value for name, value in body.items() if name != "prediction_ids"}


async def asked(world: World, users: Sequence[int]) -> list[tuple[int, Any]]:
    """Asks for one user on a connection each, twice: by a head that is read, and by a known one."""
    connections = [world.connect() for _ in users]
    for again in (0, 1):
        for (connection, _), user in zip(connections, users, strict=True):
            connection.data_received(LOOKUP % ((user + again) % KNOWN, b""))
        await turn()
    return [answer for _, transport in connections for answer in parts(transport.written)]


def kept(path: Path) -> list[str]:
    """The ledger's predictions but for ids and times, in any order."""
    rows = read_ledger(path).predictions.to_pylist()
    for row in rows:
        for name in ("prediction_id", "request_id", "time", "sequence"):
            row.pop(name, None)
    return sorted(map(repr, rows))


FAMILIES = (
    "tidemill_queries",
    "tidemill_answers",
    "tidemill_query_seconds",
    "tidemill_stage_seconds",
    "tidemill_errors",
    "tidemill_defaults",
    "tidemill_table_failures",
    "tidemill_table_stale",
    "tidemill_error_seconds",
)
USERS = [0, 5, 7, 5, KNOWN - 1, KNOWN + 3, UNWRITABLE - 1, ODD, BROKEN, 40]


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
    assert watch.seen == 2 * len(users)
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
            assert [status for status, _ in said] == [200] * 10
            assert said[2][1]["predictions"] == [{"y": [1.0, -2.0], "word": "v1"}]
            assert world.tables[0].asked == [5, 5]

    asyncio.run(main())


def test_what_cannot_be_recorded_is_not_answered(tmp_path: Path) -> None:
    """A ledger that takes nothing costs each of the turn's keys its answer, and says why."""

    async def main() -> None:
        ledger = LedgerWriter(tmp_path, "gateway-0")  # it is not started
        world = World(ledger)
        said = await asked(world, [1, 2])
        assert [status for status, _ in said] == [503] * 4
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


def test_what_nobody_foresaw_costs_one_request(tmp_path: Path) -> None:
    """Whatever a key brings to fail, the others of its turn are answered, and it is counted."""

    async def main() -> None:
        async with gateway(tmp_path) as world:
            said = await asked(world, [1, UNFORESEEN, 3])
            assert [status for status, _ in said] == [200, 200, 500, 200, 200, 200]
            assert world.counted("tidemill_refused") == {("internal",): 1}
            assert world.counted("tidemill_queries") == {("app", "1", "met"): 5}

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
            assert [status for status, _ in said] == [503] * 6
            assert world.counted("tidemill_table_stale") == {("app", "2"): 6}
            world.go_live(3)
            assert [status for status, _ in await asked(world, [1])] == [200] * 2

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


def refused(written: bytes) -> list[int]:
    return [status for status, _ in parts(written)]


@pytest.mark.parametrize("known", [1, 2, 3])
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
            allowed = 0
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
                allowed += b"200 OK" in transport.written
            secret = len(key)
            assert allowed <= len(head) - secret

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
