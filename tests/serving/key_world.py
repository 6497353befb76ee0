"""One gateway's insides with a table of keys, from the bytes of a client to the ledger."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tests.serving.fakes import Transport

from tidemill.data.ledger import LedgerWriter, read_ledger
from tidemill.foundation.clock import Clock, FakeClock
from tidemill.foundation.errors import Corrupted
from tidemill.foundation.instruments import Instruments
from tidemill.models.signature import Column, Signature
from tidemill.serving import channel
from tidemill.serving.application import Application
from tidemill.serving.batcher import Batcher
from tidemill.serving.cache import Cache
from tidemill.serving.dataplane import DataPlane
from tidemill.serving.edge import Edge
from tidemill.serving.extensions import Extensions
from tidemill.serving.features import StoredFeatures
from tidemill.serving.guard import Guard
from tidemill.serving.limits import Limits
from tidemill.serving.measures import Measures
from tidemill.serving.openapi import ApiDocument
from tidemill.serving.plan import Deployment, Live, VersionAssignment
from tidemill.serving.processor import Processor
from tidemill.serving.questions import Questions
from tidemill.serving.routes import PathRoutes
from tidemill.serving.version import LiveVersion
from tidemill.tables.answer import encode_answer
from tidemill.tables.key import KeyEncoder
from tidemill.tables.represented import Keys
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
        self.closed = False
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
        assert not self.closed
        self.asked.append(len(keys))
        if KEY.one([UNFORESEEN]) in keys:
            raise RuntimeError("nobody foresaw that")
        if KEY.one([BROKEN]) in keys:
            raise Corrupted("the file is damaged", remedy="")
        return [self._rows.get(key) for key in keys]

    def close(self) -> None:
        self.closed = True


class Everything:
    """Watches each query, so that none is answered with others."""

    every = True

    def __init__(self) -> None:
        self.seen = 0

    def ended(self, query: Any, now: float) -> None:
        self.seen += 1

    def wants(self, _: float) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is live, if that is anything but the users; ``model``: without a table."""

    signature: Signature = SIGNATURE
    key: Keys = KEY
    table: Any = None
    features: StoredFeatures | None = None
    replicas: Sequence[Any] = ()
    model: bool = False
    slo_ms: float = 100.0


class World:
    """One gateway's insides, from the bytes of a client to the ledger.

    No time passes in it but what its clock is moved: however slow the machine, nobody is late.
    """

    def __init__(
        self,
        ledger: LedgerWriter,
        watch: Any = None,
        default: Any = None,
        outputs: Sequence[str] = ("y", "word"),
        *,
        kind: Kind | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.kind = kind or Kind()
        self.clock = clock or FakeClock(at=1.0e9)
        self.instruments, self.ledger = Instruments(), ledger
        self.signature = self.kind.signature
        if kind is None:
            given = tuple(each for each in SIGNATURE.outputs if each.name in outputs)
            self.signature = Signature(SIGNATURE.inputs, given)
        self.outputs = outputs
        self.default = default
        self.processor = Processor(ledger, self.instruments, self.clock, watch)
        self.guard = Guard(self.clock, self.instruments, labels_per_minute=9)
        self.guard.replace(channel.Keys(required=False))
        self.plane = plane = DataPlane(
            self.processor,
            ledger=ledger,
            instruments=self.instruments,
            clock=self.clock,
            collect=cast("Any", None),
        )
        extensions = Extensions(
            self.processor, Questions(cast("Any", lambda _: None)), controls=False
        )
        document = ApiDocument(self.processor, self.guard, max_body_bytes=1, max_header_bytes=1)
        routes = PathRoutes(plane, extensions, document)
        self.edge = Edge(routes, Limits(), self.clock, self.instruments, self.guard)
        self.tables: list[Any] = []
        self.go_live(1)

    def go_live(self, number: int, **terms: Any) -> None:
        """Has a version of this number answer, with a table of its own."""
        table = None if self.kind.model else self.kind.table or Known(number, self.outputs)
        self.tables.append(table)
        application = self.application(number, table, **terms)
        self.processor._staged[number] = {"app": application}
        self.processor.activate(number)

    def application(self, number: int, table: Any, name: str = "app", **terms: Any) -> Application:
        measures = Measures(self.instruments, name)
        live = Live(model="m", version=number)
        version = LiveVersion(
            assignment=VersionAssignment(live=live, folder="nowhere", replicas=()),
            identity=(number,),
            signature=self.signature,
            platform="onnx",
            table=cast("Table", table),
            key=None if self.kind.model else self.kind.key,
            features=self.kind.features,
            cache=Cache(0, None),
            batcher=Batcher(
                clock=self.clock,
                max_batch=64,
                max_queue=1000,
                max_queue_bytes=1 << 20,
                finish=lambda query: self.processor._from_replica(version, query),
                observer=measures.of(number),
            ),
            coalesces=False,
            clock=self.clock,
            measures=measures.of(number),
        )
        version.batcher.set_replicas(self.kind.replicas)
        deployment = Deployment(
            application=name,
            revision=number,
            versions=(live,),
            key=version.key_columns,
            default=self.default,
            slo_ms=self.kind.slo_ms,
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
async def gateway(path: Path, *given: Any, **named: Any) -> AsyncIterator[World]:
    with LedgerWriter(path, "gateway-0") as ledger:
        yield World(ledger, *given, **named)


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def parts(written: bytes) -> list[tuple[int, Any]]:
    """The status of each answer, and its body, or what precedes binary tensors there."""
    found = []
    while written:
        head, _, rest = written.partition(b"\r\n\r\n")
        size = int(cast("Any", re.search(rb"\ncontent-length: (\d+)", head))[1])
        json_size = re.search(rb"inference-header-content-length: (\d+)", head)
        said = rest[: int(json_size[1]) if json_size else size]
        found.append((int(head.split()[1]), json.loads(said)))
        written = rest[size:]
    return found


def nameless(answer: tuple[int, Any]) -> Any:
    """An answer without its id."""
    status, body = answer
    return status, {name: value for name, value in body.items() if name != "prediction_ids"}


def refused(written: bytes) -> list[int]:
    return [status for status, _ in parts(written)]


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
