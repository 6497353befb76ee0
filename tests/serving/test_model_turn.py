"""Rows of one turn go to a model together, and each ends as it would have by itself."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.fakes import Replica
from tests.serving.key_world import (
    FAMILIES,
    Everything,
    Kind,
    World,
    gateway,
    kept,
    parts,
    refused,
    turn,
)  # fmt: skip

from tidemill.data.ledger import LedgerWriter
from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import InvalidInput, Unavailable
from tidemill.models.signature import Batch, Column, Signature
from tidemill.serving import templates
from tidemill.serving.batcher import Batcher
from tidemill.serving.batching import SLICE_S, ServiceTime
from tidemill.serving.connection import MAX_PIPELINE
from tidemill.serving.replicas.replica import Done
from tidemill.serving.templates import InferReader, read_rows

SIGNATURE = Signature(
    (Column("x", "float32", (3,)),), (Column("y", "float64", (2,)), Column("word", "string"))
)
WIDE = Signature((Column("x", "float64", (40,)),), (Column("y", "float32"),))
BAD, WORSE, ODD, UNTOLD = -1.0, -2.0, -3.0, -4.0
COUNTED = (*FAMILIES, "tidemill_batch_rows", "tidemill_refused")


class Model(Replica):
    """Computes on the loop; some rows are refused, some break it, of some it says too little."""

    on_loop = True

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.sizes: list[int] = []

    def _answer(self, batch: Batch) -> Any:
        x = batch["x"]
        self.sizes.append(len(x))
        if (x == BAD).any():
            return InvalidInput("-1 is refused", remedy="Send another number.")
        if (x == WORSE).any():
            raise RuntimeError("nobody foresaw that")
        total = x.sum(axis=1, dtype=np.float64)
        if x.shape[1] == 40:
            return {"y": total.astype(np.float32)}
        words = np.array([f"w{value}" for value in total], object)
        words[(x == UNTOLD).any(axis=1)] = "\ud800"
        y = np.stack([total, -total], 1)
        return {"y": y[1:] if (x == ODD).any() else y, "word": words}


class Beside(Model):
    """Computes beside the loop: what it is given comes back in another turn."""

    on_loop = False
    capacity = 2

    def submit(self, batch: Batch, done: Done) -> None:
        result = self._answer(batch)
        self.in_flight += 1

        def land() -> None:
            self.in_flight -= 1
            done(result)

        asyncio.get_running_loop().call_soon(land)


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long batches took, which no two runs agree on, decides nothing here."""
    know = Batcher._know
    monkeypatch.setattr(Batcher, "_know", lambda batcher, _: know(batcher, ServiceTime()))


class Slow(FakeClock):
    """Whatever is done between two looks at it takes longer than a slice of the loop."""

    def monotonic(self) -> float:
        self.advance(1.5 * SLICE_S)
        return self.at


def model_kind(
    signature: Signature = SIGNATURE, slo_ms: float = 100.0, *, beside: bool = False
) -> Kind:
    model = Beside() if beside else Model()
    return Kind(signature=signature, model=True, replicas=[model], slo_ms=slo_ms)


def infer(data: str, *, more: str = "", tensor: str = "", shape: str = "[1,3]") -> bytes:
    said = f'{{"name":"x","shape":{shape},"datatype":"FP32"{tensor},"data":{data}}}'
    body = f'{{{more}"inputs":[{said}]}}'.encode()
    head = f"POST /v2/models/app/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def row(*numbers: float) -> bytes:
    return infer(json.dumps(numbers))


def tensor(*numbers: float, more: str = "", spare: bytes = b"", shape: str = "[1,3]") -> bytes:
    blob = np.array(numbers, np.float32).tobytes() + spare
    said = f'{{"name":"x","shape":{shape},"datatype":"FP32",'
    said += f'"parameters":{{"binary_data_size":{len(blob)}}}}}'
    head = f'{{{more}"inputs":[{said}]}}'.encode()
    sizes = f"inference-header-content-length: {len(head)}\r\ncontent-length: "
    asks = f"POST /v2/models/app/infer HTTP/1.1\r\nhost: x\r\n{sizes}{len(head) + len(blob)}"
    return asks.encode() + b"\r\n\r\n" + head + blob


Y_IN_BINARY = '"outputs":[{"name":"y","parameters":{"binary_data":true}}],'
GOOD = [row(value, 1, 0.5) for value in range(9)]
STRANGE = (
    "[1,2,true]", "[1,2,null]", '[1,2,"3"]', "[1,2]", "[1,2,3,4]", "[[1,2,3]]", "[1,2,3],[4,5,6]",
    "[]", "[1,2,1e400]", "[1,2,1e39]", "[1,2,NaN]", "[1,2,[3]]", "[1,2,3", "[1,2,3]]", "[1,,3]",
    "[1,2,{}]", "[ 1 ,\t2,\n3 ]", "[1,2,-0.0]", "[10000000000000000000000,2,3]", '["],[",2,3]',
)  # fmt: skip
OTHER = (
    infer("[1,2,3]", more='"id":"mine",'),
    infer("[1,2,3]", more='"parameters":{"timeout":500000},'),
    infer("[1,2,3]", more='"parameters":{"timeout":-1},'),
    infer("[1,2,3]", more='"parameters":{"priority":2},'),
    infer("[1,2,3]", more='"parameters":{"binary_data_output":true},'),
    infer("[1,2,3]", more='"outputs":[{"name":"y"}],'),
    infer("[1,2,3]", more='"outputs":[{"name":"z"}],'),
    infer("[1,2,3,4,5,6]", shape="[2,3]"),
    infer("[1,2,3]").replace(b"app/infer", b"app/versions/1/infer"),
    infer("[1,2,3]").replace(b"app/infer", b"app/versions/9/infer"),
    infer("[1,2,3]").replace(b"app/infer", b"none/infer"),
)


def nameless(answer: tuple[int, Any]) -> Any:
    status, body = answer
    body.get("parameters", {}).pop("prediction_id", None)
    return status, body


async def asked(world: World, requests: Sequence[bytes]) -> list[Any]:
    """Sends each on a connection of its own, twice, after some that are known by then."""
    connections = [world.connect() for _ in requests]
    warm = world.connect()
    for _ in range(2):
        warm[0].data_received(GOOD[0])
        await turn()
        for (connection, _), request in zip(connections, requests, strict=True):
            connection.data_received(request)
        for _ in range(3):
            await turn()
    assert len(parts(warm[1].written)) == 2
    return [[nameless(each) for each in parts(t.written)] for _, t in connections]


def both(
    path: Path,
    requests: Sequence[bytes],
    default: Any = None,
    *,
    slow: bool = False,
    beside: bool = False,
) -> tuple[Any, list[int]]:
    """Returns what is answered together, once it was seen to be what is answered alone."""
    found: list[Any] = []
    sizes: list[list[int]] = []

    async def main(folder: Path, watch: Any) -> None:
        kind = model_kind(slo_ms=1e6 if slow else 100.0, beside=beside)
        clock = Slow() if slow else None
        sizes.append(kind.replicas[0].sizes)
        async with gateway(folder, watch, default, kind=kind, clock=clock) as world:
            said = await asked(world, requests)
            counts = {family: world.counted(family) for family in COUNTED}
            found.append((said, counts, world.ledger.counts.predictions))

    asyncio.run(main(path / "together", None))
    asyncio.run(main(path / "alone", Everything()))
    assert found[0] == found[1]
    assert sizes[0] == sizes[1]
    assert kept(path / "together") == kept(path / "alone")
    return found[0][0], sizes[0]


def test_rows_of_a_turn_are_one_batch_and_one_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are answered as by themselves, with no query of any."""
    said, sizes = both(tmp_path, GOOD)
    assert [status for each in said for status, _ in each] == [200] * 18
    assert max(sizes) > 1

    async def main() -> None:
        async with gateway(tmp_path / "more", kind=model_kind()) as world:
            first, _ = world.connect()
            for _ in range(9):
                first.data_received(GOOD[0])
                await turn()
            monkeypatch.setattr(world.plane, "_query", lambda *_: pytest.fail("a query is made"))
            monkeypatch.setattr(
                LedgerWriter,
                "append_predictions",
                lambda _, rows: pytest.fail("one by one") if rows else None,
            )
            connections = [world.connect() for _ in range(2)]
            for connection, _ in connections:
                connection.data_received(GOOD[1])
            await turn()
            assert [refused(transport.written) for _, transport in connections] == [[200]] * 2

    asyncio.run(main())


@pytest.mark.parametrize("default", [None, {"y": [0.0, 0.0], "word": "none"}])
@pytest.mark.parametrize("value", [BAD, WORSE, ODD, UNTOLD])
def test_a_row_that_the_model_fails_on_costs_only_itself(
    tmp_path: Path, value: float, default: Any
) -> None:
    """Those that were in its batch are asked again without it; with the same counts."""
    said, _ = both(tmp_path, [*GOOD[:3], row(value, 0, 0), *GOOD[3:6]], default)
    statuses = [[status for status, _ in each] for each in said]
    if value != UNTOLD:
        assert statuses[:3] == statuses[4:] == [[200, 200]] * 3
        assert (200 in statuses[3]) == (value == WORSE and default is not None)


@pytest.mark.parametrize("value", [1.0, BAD, WORSE, ODD, UNTOLD])
def test_rows_that_a_worker_answers_end_alike(tmp_path: Path, value: float) -> None:
    """The same batches, answers, counts and records, though they wait until it is free."""
    _, sizes = both(tmp_path, [*GOOD[:3], row(value, 0, 0), *GOOD[3:6], *OTHER[:2]], beside=True)
    assert max(sizes) > 1


@pytest.mark.parametrize("value", [BAD, WORSE, ODD, UNTOLD])
def test_rows_that_are_sent_a_slice_at_a_time_end_alike(tmp_path: Path, value: float) -> None:
    """However long each batch keeps the loop: the same batches, answers and counts."""
    both(tmp_path, [*GOOD[:3], row(value, 0, 0), *GOOD[3:6], *OTHER[:2]], slow=True)


@pytest.mark.parametrize("data", STRANGE)
def test_what_is_not_plainly_numbers_is_read_by_itself(tmp_path: Path, data: str) -> None:
    """It is answered or refused as ever, and so are those that came in the same turn."""
    both(tmp_path, [*GOOD[:2], infer(data), *GOOD[2:4], infer(data)])


def test_what_asks_for_more_goes_its_own_way(tmp_path: Path) -> None:
    """Its own name, time, priority, outputs, shape or version: amid others that do not."""
    mixed = [each for pair in zip(OTHER, [*GOOD, *GOOD], strict=False) for each in pair]
    both(tmp_path, mixed)
    both(tmp_path / "spaced", [infer("[1,2,3]", tensor=" "), GOOD[0], infer("[4,5,6]", tensor=" ")])


STRANGE_TENSORS = (
    tensor(1, 2, np.nan), tensor(1, -np.inf, 3), tensor(1, 2), tensor(1, 2, 3, 4),
    tensor(1, 2, 3, spare=b"+"), tensor(1, 2, 3, 4, 5, 6, shape="[2,3]"), tensor(BAD, 0, 0),
    tensor(WORSE, 0, 0), tensor(ODD, 0, 0), tensor(1, 2, 3, more='"id":"mine",'),
    tensor(1, 2, 3, more='"parameters":{"binary_data_output":true},'), row(1, 2, 3), row(BAD, 0, 0),
)  # fmt: skip


@pytest.mark.parametrize("strange", STRANGE_TENSORS)
@pytest.mark.parametrize("more", ["", Y_IN_BINARY])
def test_binary_tensors_end_as_they_would_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strange: bytes, more: str
) -> None:
    """Amid others of their kind, and amid those that are JSON."""
    monkeypatch.setattr(templates, "LEARN_EVERY", 2)  # of the usual ones, the second is learned
    usual = [tensor(value, 1, 0.5, more=more) for value in range(4)]
    both(tmp_path / "kind", [*usual[:2], strange, *usual[2:]])
    both(tmp_path / "mixed", [*usual[:2], strange, *usual[2:], GOOD[0], usual[0]])


def test_binary_tensors_are_answered_byte_for_byte_as_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is answered in binary, too; with no query of any once their form is known."""

    async def main(folder: Path, watch: Any) -> list[bytes]:
        async with gateway(folder, watch, kind=model_kind()) as world:
            connections = [world.connect() for _ in range(8)]
            for again in range(3):
                if again == 2 and watch is None:
                    monkeypatch.setattr(world.plane, "_query", lambda *_: pytest.fail("a query"))
                for at, (connection, _) in enumerate(connections):
                    connection.data_received(tensor(at, again, 1, more=Y_IN_BINARY))
                await turn()
            written = [transport.written for _, transport in connections]
        return [re.sub(rb'"prediction_id":"[^"]+"', b"", each) for each in written]

    together = asyncio.run(main(tmp_path / "together", None))
    assert together == asyncio.run(main(tmp_path / "alone", Everything()))
    assert together[3].endswith(np.array([6.0, -6.0]).tobytes())


def test_rows_too_large_for_lists_are_recorded_as_bytes(tmp_path: Path) -> None:
    """As a query's own are."""
    data = json.dumps([0.5 * value for value in range(40)])
    request = infer(data, shape="[1,40]").replace(b"FP32", b"FP64")

    async def main(folder: Path, watch: Any) -> None:
        async with gateway(folder, watch, kind=model_kind(WIDE)) as world:
            connections = [world.connect() for _ in range(4)]
            for _ in range(4):
                for connection, _ in connections:
                    connection.data_received(request)
                await turn()
            assert [refused(t.written) for _, t in connections] == [[200] * 4] * 4

    asyncio.run(main(tmp_path / "together", None))
    asyncio.run(main(tmp_path / "alone", Everything()))
    assert kept(tmp_path / "together") == kept(tmp_path / "alone")


@pytest.mark.parametrize("error", [Unavailable("the disk is full"), InvalidInput("it is odd")])
def test_what_cannot_be_recorded_is_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """If it was the fault of one of them, each is tried by itself."""

    async def main() -> None:
        async with gateway(tmp_path, kind=model_kind()) as world:
            connections = [world.connect() for _ in range(3)]

            def fail(*_: Any) -> None:
                raise error

            for broken in (False, True):
                if broken:
                    monkeypatch.setattr(LedgerWriter, "append_rows", fail)
                for connection, _ in connections:
                    connection.data_received(GOOD[0])
                await turn()
            ok = 503 if isinstance(error, Unavailable) else 200
            assert [refused(t.written) for _, t in connections] == [[200, ok]] * 3

    asyncio.run(main())


@pytest.mark.parametrize(
    ("whose", "told"), [("measures", False), ("reading", True), ("plane", True)]
)
def test_a_turn_that_fails_costs_its_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str, *, told: bool
) -> None:
    """Whatever of it raises: who asked is told, and what is asked later is answered.

    What raises as they are read together costs nobody: each is read by itself then.
    """

    async def main() -> None:
        async with gateway(tmp_path, kind=model_kind()) as world:
            app = world.processor.applications["app"]
            owner, part = {
                "measures": (app.measures, "answered"),
                "reading": (world.plane, "read_rows"),
                "plane": (world.plane, "predicted"),
            }[whose]
            connections = [world.connect() for _ in range(3)]
            for connection, _ in connections:
                connection.data_received(GOOD[0])
            await turn()
            usual = getattr(owner, part)

            def fail(*given: Any) -> None:
                monkeypatch.setattr(owner, part, usual)
                if told:
                    usual(*given)
                raise RuntimeError("nobody foresaw that")

            monkeypatch.setattr(owner, part, fail)
            for _ in range(2):
                for connection, _ in connections:
                    connection.data_received(GOOD[0])
                await turn()
            statuses = [refused(transport.written) for _, transport in connections]
            assert statuses == [[200, 200 if told else 500, 200]] * 3

    asyncio.run(main())


def test_rows_that_wait_are_answered_by_the_version_that_was_live(tmp_path: Path) -> None:
    """Another goes live before their turn: none is lost, and none is another's."""

    async def main() -> None:
        async with gateway(tmp_path, kind=model_kind()) as world:
            connection, transport = world.connect()
            connection.data_received(GOOD[0])
            await turn()
            before = world.processor.applications["app"].only
            connection.data_received(GOOD[1])
            world.processor._loader.loaded.append(before)
            world.go_live(2)
            retiring = asyncio.create_task(world.processor.retire())
            connection.data_received(GOOD[2])
            await turn()
            await asyncio.wait_for(retiring, 5)
            versions = [body["model_version"] for _, body in parts(transport.written)]
            assert versions == ["1", "1", "2"]

    asyncio.run(main())


def test_a_pipelined_client_gets_its_answers_in_order(tmp_path: Path) -> None:
    """Many at once, some of which are refused, and some read as others are answered."""

    async def main() -> None:
        async with gateway(tmp_path, kind=model_kind()) as world:
            connection, transport = world.connect()
            connection.data_received(GOOD[0])
            await turn()
            transport.written = b""
            requests = [*GOOD, infer("[1,2]"), *GOOD] * (MAX_PIPELINE // 8)
            connection.data_received(b"".join(requests))
            for _ in range(60):
                await turn()
            first = [
                (status, body.get("outputs", [{}])[0].get("data", [None])[0])
                for status, body in parts(transport.written)
            ]
            once = [(200, 1.5 + value) for value in range(9)]
            assert first == [*once, (400, None), *once] * (MAX_PIPELINE // 8)

    asyncio.run(main())


PIECES = st.sampled_from(
    ["1", "-2.5", "3e2", ",", "]", "[", '"', "true", "null", "1,2,3", " ", "{}"]
)
TEXT = st.lists(PIECES, max_size=6).map(lambda parts: f"[{''.join(parts)}]".encode())


@given(st.lists(TEXT | st.sampled_from([b"[1,2,3]", b"[-0.5, 1e3,7]"]), min_size=1, max_size=5))
def test_rows_read_together_are_those_read_alone(texts: list[bytes]) -> None:
    """All of them, if each is plainly a row, and else none."""
    reader = InferReader(SIGNATURE)
    reader.read(GOOD[0].partition(b"\r\n\r\n")[2], None)
    reader.read(GOOD[0].partition(b"\r\n\r\n")[2], None)
    found = reader.plain(GOOD[0].partition(b"\r\n\r\n")[2], None)
    assert found is not None
    template = found[0]
    alone = [read_rows(template, [text]) for text in texts]
    whole = read_rows(template, texts)
    if whole is None:
        assert any(each is None for each in alone)
    else:
        each = [batch["x"] for batch in alone if batch is not None]
        assert np.array_equal(np.concatenate(each), whole["x"])
        assert len(each) == len(texts)
        for text, one in zip(texts, each, strict=True):
            assert json.loads(text) == pytest.approx(one[0].tolist())
