"""Keys of a turn end as each would by itself, whatever they are made of, and none is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.serving.fakes import Replica, Transport
from tests.serving.key_world import (
    FAMILIES,
    KNOWN,
    LOOKUP,
    Everything,
    Kind,
    Known,
    World,
    gateway,
    kept,
    nameless,
    parts,
    refused,
    turn,
)  # fmt: skip

from tidemill.models.signature import Batch, Column, Signature
from tidemill.serving import row_writer
from tidemill.serving.connection import MAX_PIPELINE
from tidemill.serving.features import open_features
from tidemill.tables.answer import encode_answer, encode_answers
from tidemill.tables.build import TableBuilder
from tidemill.tables.key import KeyEncoder
from tidemill.tables.represented import keys_of
from tidemill.tables.table import TableInfo

ROUNDS = 4
"""A head is parsed once, known the second time, and from the third on only its key is looked at."""
CITIES = Signature(
    (Column("city", "string"), Column("user", "int64"), Column("x", "float64")),
    (Column("y", "float32"), Column("z", "float16", (2,))),
)
COLUMNS = {"city": "string", "user": "int64"}


class Rows:
    """A table of two cities and the users 10 and 20, by some of their columns."""

    info: Any = SimpleNamespace(as_of=0.0, built_at=0.0)

    def __init__(self, names: Sequence[str], represent: dict[str, str]) -> None:
        self.key = keys_of([(name, COLUMNS[name]) for name in names], represent)
        self.asked: list[int] = []
        self._rows = {
            self.key.one([{"city": city, "user": user}[name] for name in names]): encode_answer(
                {"y": user + 0.1 * len(city), "z": [0.1, user + 0.3]}
            )
            for city in ("oslo", "bergen")
            for user in (10, 20)
        }

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.asked.append(len(keys))
        return [self._rows.get(key) for key in keys]

    def close(self) -> None:
        """Nothing to give back."""


def measured(batch: Batch) -> Batch:
    """Returns x and the length of each city."""
    long = np.array([*map(len, batch["city"])], np.float16)
    return {"y": batch["x"].astype(np.float32), "z": np.stack([long, long], 1)}


def said(city: str, user: int) -> tuple[str, list[Any]]:
    """What the table answers: the nearest that the columns' types hold."""
    z = np.array([0.1, user + 0.3], np.float16).tolist()
    return "table", [{"y": np.float32(user + 0.1 * len(city)).item(), "z": z}]


OSLO, BERGEN, MODEL = said("oslo", 10), said("bergen", 20), ("model", [{"y": 0.5, "z": [6.0, 6.0]}])


@pytest.mark.parametrize(
    ("names", "represent", "asked"),
    [
        (
            ("city", "user"),
            {},
            {
                b"city=oslo&user=10": OSLO,
                b"user=20&city=bergen": BERGEN,
                b"city=oslo&user=99": None,
                b"city=bergen&user=20": BERGEN,
            },
        ),
        (
            ("user", "city"),
            {},
            {b"user=20&city=bergen": BERGEN, b"city=oslo&user=10": OSLO, b"user=10&city=": None},
        ),
        (
            ("city", "user"),
            {"user": "step(10)", "city": "text"},
            {
                b"city=Oslo&user=8": OSLO,
                b"city=BERGEN&user=24": BERGEN,
                b"city=oslo&user=27": None,
                b"city=oslo&user=12": OSLO,
            },
        ),
        (("user",), {}, {b"user=20": BERGEN, b"user=30": MODEL, b"user=7": None}),
        (("user",), {"user": "step(10)"}, {b"user=22": BERGEN, b"user=30": MODEL, b"user=1": None}),
    ],
)
def test_any_key_gets_together_what_it_gets_alone(
    tmp_path: Path,
    names: Sequence[str],
    represent: dict[str, str],
    asked: dict[bytes, tuple[str, list[Any]] | None],
) -> None:
    """Of several columns in any order, represented, of narrow numbers, or with stored features."""
    found: list[Any] = []
    info = TableInfo(
        application="app", model="m", version=1, key=(("user", "int64"),), as_of=0.0,
        kind="features", inputs=tuple((each.name, each.type) for each in CITIES.inputs),
    )  # fmt: skip
    with TableBuilder(tmp_path / "features") as builder:
        values = {"city": np.array(["bergen"], object), "x": np.array([0.5])}
        builder.put(KeyEncoder(info.key).many([np.array([30])]), encode_answers(values))
        builder.commit(info)

    async def main(path: Path, watch: Any) -> list[int]:
        table, features = Rows(names, represent), open_features(tmp_path / "features", CITIES)
        kind = Kind(
            signature=CITIES,
            key=table.key,
            table=table,
            features=features,
            replicas=[Replica(measured)],
        )
        async with gateway(path, watch, kind=kind) as world:
            connections = [world.connect() for _ in asked]
            for _ in range(ROUNDS):
                for (connection, _), query in zip(connections, asked, strict=True):
                    connection.data_received((LOOKUP % (0, b"")).replace(b"user=0", query))
                for _ in range(9):
                    await turn()
            answers = [
                answer for _, transport in connections for answer in parts(transport.written)
            ]
            counts = {family: world.counted(family) for family in FAMILIES}
            found.append(([nameless(each) for each in answers], counts))
        features.close()
        return table.asked

    assert asyncio.run(main(tmp_path / "together", None)) == [len(asked)] * ROUNDS
    assert asyncio.run(main(tmp_path / "alone", Everything())) == [1] * len(asked) * ROUNDS
    assert found[0] == found[1]
    assert [
        (body["sources"][0], body["predictions"]) if status == 200 else None
        for status, body in found[0][0]
    ] == [said for said in asked.values() for _ in range(ROUNDS)]
    assert kept(tmp_path / "together") == kept(tmp_path / "alone")


@pytest.mark.parametrize(
    ("whose", "part", "told"),
    [
        ("version", "look_up_rows", False),
        ("measures", "answered", False),
        ("row_writer", "RowWriter", False),
        ("plane", "looked_up", True),
    ],
)
def test_a_turn_that_fails_costs_its_own_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str, part: str, *, told: bool
) -> None:
    """Whatever of it raises: who asked is told, another application's are answered, as is later."""

    async def main() -> None:
        async with gateway(tmp_path) as world:
            app = world.processor.applications["app"]
            world.processor.applications["other"] = world.application(3, Known(3), "other")
            owners = {"version": app.only, "measures": app.measures, "plane": world.plane}
            owner = owners.get(whose, row_writer)
            usual = getattr(owner, part)

            def fail(*given: Any, **named: Any) -> None:
                monkeypatch.setattr(owner, part, usual)
                if told:
                    usual(*given, **named)
                raise RuntimeError("nobody foresaw that")

            monkeypatch.setattr(owner, part, fail)
            connections = [world.connect() for _ in range(3)]
            for _ in range(2):
                for (connection, _), name in zip(
                    connections, (b"app", b"app", b"other"), strict=True
                ):
                    connection.data_received((LOOKUP % (1, b"")).replace(b"app", name))
                await turn()
            statuses = [refused(transport.written) for _, transport in connections]
            assert statuses == [[200 if told else 500, 200]] * 2 + [[200, 200]]
            refusals = world.counted("tidemill_refused")
            assert refusals == ({} if told else {("ModelFailed",): 2})

    asyncio.run(main())


def late(world: World, user: int) -> Transport:
    """Has version 2 go live while a key waits for version 1, many times.

    It was read as others were answered, when that was still live.
    """
    connection, transport = world.connect()
    connection.data_received(LOOKUP % (user, b"") * 2 * MAX_PIPELINE)
    world.go_live(2)
    assert len(parts(transport.written)) < 2 * MAX_PIPELINE
    return transport


def test_what_ends_late_leaves_how_requests_are_read_now(tmp_path: Path) -> None:
    """A key that the table of before lacks is read as before, and nothing else is."""

    async def main() -> None:
        async with gateway(tmp_path) as world:
            transport, live = late(world, KNOWN), world.processor.applications["app"]
            reader = world.plane.key_reader(live)
            await turn()
            assert world.plane.key_reader(live) is reader
            await turn()
            assert refused(transport.written) == [404] * 2 * MAX_PIPELINE

    asyncio.run(main())


def test_keys_that_wait_are_looked_up_before_their_table_is_closed(tmp_path: Path) -> None:
    """A version that is retired answers what it was asked while it was live."""

    async def main() -> None:
        async with gateway(tmp_path) as world:
            before = world.processor.applications["app"].only
            transport = late(world, 1)
            world.processor._loader.loaded.append(before)
            await world.processor.retire()
            assert world.tables[0].closed
            await turn()
            ended = parts(transport.written)
            assert [status for status, _ in ended] == [200] * 2 * MAX_PIPELINE
            assert {body["model_version"] for _, body in ended} == {"1"}

    asyncio.run(main())
