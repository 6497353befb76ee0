"""Tables on another host: asked once a turn, and done without when they do not answer."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from tidemill.control.architecture import architecture, as_text
from tidemill.control.rollout import build_live_table
from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.errors import Unavailable
from tidemill.foundation.home import open_home
from tidemill.foundation.instruments import Counter
from tidemill.foundation.settings import Settings, TablesSettings
from tidemill.serving import lookups
from tidemill.serving.lookups import Found, Lookups

SOON_S = 10.0


class FakeTable:
    """Answers each key with itself, after what a test has it wait for."""

    def __init__(self, wait: Callable[[], Awaitable[None]] | None = None) -> None:
        self.wait = wait
        self.asked: list[list[bytes]] = []
        self.closed = False

    info: Any = None

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Is not asked so."""
        raise AssertionError(keys)

    def close(self) -> None:
        """Is not closed so."""
        raise AssertionError

    async def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Answers."""
        self.asked.append(list(keys))
        if self.wait is not None:
            await self.wait()
        return [None if key == b"none" else key for key in keys]

    async def aclose(self) -> None:
        """Is closed."""
        self.closed = True


def run(table: FakeTable, act: Callable[[Lookups, list[Found]], Awaitable[None]]) -> Any:
    """Asks a table on a loop; returns what was told, in its order, and how often it failed."""
    told: list[Found] = []
    failures = Counter()

    async def main() -> None:
        asking = Lookups(table, SYSTEM_CLOCK, failures)
        await act(asking, told)
        await asking.aclose()

    asyncio.run(main())
    assert table.closed
    return told, failures.value


def soon() -> float:
    """A deadline that is far."""
    return SYSTEM_CLOCK.monotonic() + SOON_S


def test_what_is_asked_in_one_turn_goes_together() -> None:
    """Each is told its own part; what comes a turn later goes by itself."""
    table = FakeTable()

    async def act(asking: Lookups, told: list[Found]) -> None:
        for keys in ([b"a", b"none"], [], [b"b"]):
            asking.ask(keys, soon(), told.append)
        await asyncio.sleep(0.01)
        asking.ask([b"c"], soon(), told.append)

    assert run(table, act) == ([[b"a", None], [], [b"b"], [b"c"]], 0)
    assert table.asked == [[b"a", b"none", b"b"], [b"c"]]


def test_one_that_is_in_a_hurry_is_told_first_and_the_others_get_their_answer() -> None:
    """A question is given up after half of what is left to it, by itself."""
    table = FakeTable(lambda: asyncio.sleep(0.03))

    async def act(asking: Lookups, told: list[Found]) -> None:
        asking.ask([b"a"], SYSTEM_CLOCK.monotonic() + 0.01, told.append)
        asking.ask([b"b"], soon(), told.append)

    assert run(table, act) == ([None, [b"b"]], 1)


def test_a_table_that_hangs_is_given_up_and_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it while it rests; then it is asked again."""
    monkeypatch.setattr(lookups, "REST_S", 0.5)
    table = FakeTable(lambda: asyncio.sleep(100))

    async def act(asking: Lookups, told: list[Found]) -> None:
        asking.ask([b"a"], soon(), told.append)
        while not told:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        asking.ask([b"b"], soon(), told.append)
        assert told == [None, None]
        table.wait = None
        await asyncio.sleep(0.55)
        asking.ask([b"c"], soon(), told.append)

    assert run(table, act) == ([None, None, [b"c"]], 2)
    assert table.asked == [[b"a"], [b"c"]]


@pytest.mark.parametrize("error", [Unavailable("gone"), ZeroDivisionError("a bug")])
def test_whatever_goes_wrong_everybody_is_told(error: Exception) -> None:
    """A typed error or a bug."""

    async def fail() -> None:
        raise error

    async def act(asking: Lookups, told: list[Found]) -> None:
        asking.ask([b"a"], soon(), told.append)
        asking.ask([b"b"], soon(), told.append)

    assert run(FakeTable(fail), act) == ([None, None], 2)


def test_a_server_answers_from_redis_and_from_the_model_when_that_is_gone(
    launch: Callable[..., Any], launch_redis: Callable[[], Any], tmp_path: Path
) -> None:
    """The same answers, with their source; the failures are counted."""
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": pa.array(range(50), pa.int64())}), rows)
    with launch_redis() as path:
        url = f"unix://{path}"
        with launch(TIDEMILL_TABLES_URL=url) as server, server.client() as client:
            settings = Settings(home=server.home.path, tables=TablesSettings(url=url))
            with open_home(settings) as home:
                built = build_live_table(home, "add", rows, key=("x",), by="tests")
            server.until(
                lambda: server.health()["applications"].get("add", 0) >= built.revision, "the table"
            )
            asked = {"instances": [{"x": 7}, {"x": 60}, {"x": 8}]}

            def sources() -> Any:
                many = client.post("/v1/models/add:predict", json=asked).raise_for_status().json()
                assert many["predictions"] == [1007, 1060, 1008]
                return many["sources"]

            # Where the machine is busy, Redis may not answer in time at first.
            server.until(lambda: sources() == ["table", "model", "table"], "answers of Redis")
            one = client.get("/v1/models/add:lookup?x=5").json()
            assert one["predictions"] == [1005]
            with redis.Redis.from_url(url) as stopping:
                stopping.shutdown(nosave=True)
            gone = client.get("/v1/models/add:lookup?x=5").raise_for_status().json()
            assert (gone["predictions"], gone["sources"]) == ([1005], ["model"])
            metrics = client.get("/metrics").text
            found = re.search(
                r'tidemill_table_failures(?:_total)?\{[^}]*"add"[^}]*\} (\d+)', metrics
            )
            assert found is not None
            assert int(found[1]) >= 1


def test_an_application_goes_live_while_redis_is_down_and_finds_its_table_later(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    """It answers by its model, says so, and takes the table up; also after Redis has lost it."""
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": pa.array(range(50), pa.int64())}), rows)
    with tempfile.TemporaryDirectory(prefix="tidemill-redis-") as folder:
        url = f"unix://{folder}/redis.sock"
        with launch(TIDEMILL_TABLES_URL=url) as server, server.client() as client:
            settings = Settings(home=server.home.path, tables=TablesSettings(url=url))

            def source() -> str:
                answer = client.get("/v1/models/add:lookup?x=5").raise_for_status().json()
                assert answer["predictions"] == [1005]
                found: str = answer["sources"][0]
                return found

            def shown() -> tuple[Any, str]:
                with open_home(settings) as home:
                    drawn = as_text(architecture(home, "add"))
                url = f"http://127.0.0.1:{server.admin_port}/admin/v1/applications/add"
                inspected = httpx.get(url).raise_for_status().json()
                (version,) = inspected["gateways"][0]["versions"]
                return version["table_answers"], drawn

            with open_home(settings) as home:
                built = build_live_table(home, "add", rows, key=("x",), by="tests")
            server.until(
                lambda: server.health()["applications"].get("add", 0) >= built.revision, "no table"
            )
            assert source() == "model"
            answers, drawn = shown()
            assert answers is False
            assert "not in Redis now: passed by" in drawn
            assert 'tidemill_table_answers{application="add",version="1"} 0' in re.sub(
                r"0\.0", "0", client.get("/metrics").text
            )
            for _ in range(2):  # the second one has lost all
                with _redis_at(folder):
                    server.until(lambda: source() == "table", "answers of Redis")
                    answers, drawn = shown()
                    assert answers is True
                    assert "not in Redis" not in drawn
                assert source() in {"model", "cache"}


def test_a_redis_that_hangs_holds_up_nobody_for_long(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    """It takes connections and says nothing: the supervisor and the gateway give it up soon."""
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": pa.array(range(50), pa.int64())}), rows)
    with socket.socket(socket.AF_UNIX) as silent, tempfile.TemporaryDirectory() as folder:
        silent.bind(f"{folder}/redis.sock")
        silent.listen(64)
        url = f"unix://{folder}/redis.sock"
        with launch(TIDEMILL_TABLES_URL=url) as server, server.client() as client:
            with open_home(Settings(home=server.home.path)) as home:
                built = build_live_table(home, "add", rows, key=("x",), by="tests")
            server.until(
                lambda: server.health()["applications"].get("add", 0) >= built.revision, "no table"
            )
            answer = client.get("/v1/models/add:lookup?x=5").raise_for_status().json()
            assert (answer["predictions"], answer["sources"]) == ([1005], ["model"])


@contextmanager
def _redis_at(folder: str) -> Iterator[None]:
    """A Redis that keeps nothing, at a socket in the folder, until it is killed."""
    options = ("--port", "0", "--unixsocket", f"{folder}/redis.sock", "--save", "")
    server = subprocess.Popen(
        ("redis-server", *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        server.kill()
        server.wait()
