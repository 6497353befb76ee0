"""Versions are swapped under load: no query fails, and each is answered by one version only."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from tidemill.control.deployments import rollback
from tidemill.control.rollout import build_live_table

KEYED = 25
"""The table of version 2 knows x below this."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer: when it was asked and given, by which version, from where."""

    asked: float
    given: float
    version: int
    sources: tuple[str, ...]


@dataclass
class Load:
    """Threads that ask all the time, each on one connection that must never be closed."""

    server: Any
    application: str
    stop: threading.Event = field(default_factory=threading.Event)
    seen: list[Seen] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(4)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, seed: int) -> None:
        connection = self.server.connection()
        draw = random.Random(seed)
        connection.connect()
        socket = connection.sock
        try:
            while not self.stop.wait(0.002):
                xs = [draw.randrange(50) for _ in range(draw.choice([1, 1, 3]))]
                self._take(ask(connection, self.application, xs), xs)
                if connection.sock is not socket:
                    self.wrong.append("the connection was closed")
                    return
        except (OSError, http.client.HTTPException, KeyError, ValueError) as error:
            self.wrong.append(repr(error))
        finally:
            connection.close()

    def _take(self, answer: tuple[Seen, list[int]], xs: list[int]) -> None:
        seen, ys = answer
        self.seen.append(seen)
        if ys != [x + 1000 * seen.version for x in xs]:
            self.wrong.append(f"version {seen.version} answered {ys} to {xs}")
        for x, source in zip(xs, seen.sources, strict=True):
            if (source == "table") != (seen.version == 2 and x < KEYED):
                self.wrong.append(f"version {seen.version} answered {x} from the {source}")


def ask(
    connection: http.client.HTTPConnection, application: str, xs: list[int]
) -> tuple[Seen, list[int]]:
    """Asks for some x; says who answered, and what."""
    asked = time.monotonic()
    if len(xs) == 1:
        body = {"instances": xs}
        connection.request("POST", f"/v1/models/{application}:predict", json.dumps(body))
    else:
        tensor = {"name": "x", "shape": [len(xs)], "datatype": "INT64", "data": xs}
        connection.request(
            "POST", f"/v2/models/{application}/infer", json.dumps({"inputs": [tensor]})
        )
    response = connection.getresponse()
    answer = json.loads(response.read())
    given = time.monotonic()
    if response.status != 200:
        raise ValueError(f"{response.status}: {answer}")
    if len(xs) == 1:
        ys, sources = answer["predictions"], answer["sources"]
    else:
        parameters = answer["parameters"]
        ys = answer["outputs"][0]["data"]
        sources = [parameters["source"]] * len(xs)
        if "sources" in parameters:
            sources = parameters["sources"].split(",")
        assert str(parameters["version"]) == answer["model_version"]
    return Seen(asked, given, int(answer["model_version"]), tuple(sources)), ys


class Swaps:
    """Deploys and rolls back, and remembers from when until when each version was the only one."""

    def __init__(self, server: Any, application: str, table: str, placement: str) -> None:
        self._server = server
        self._application = application
        self._table = table
        self._plan = {"placement": placement}
        self._since = time.monotonic()
        self._live = 2
        self.periods: list[tuple[float, float, int]] = []

    def deploy(self, version: int) -> None:
        """Makes a version live; version 2 has its table."""
        self._ends()
        table = self._table if version == 2 else None
        self._server.deploy(
            self._application,
            "add",
            version,
            table=table,
            plan=self._plan,
            slo_ms=10_000.0,
            key=("x",),
        )
        self._begins(version)

    def roll_back(self) -> int:
        """Brings the version before back; returns it."""
        self._ends()
        back = rollback(self._server.home, self._application, by="tests", reason="a test")
        assert back.table == (self._table if back.to_version == 2 else None)

        def live() -> bool:
            applications = self._server.health()["applications"]
            return bool(applications[self._application] >= back.revision)

        self._server.until(live, "the rollback")
        self._begins(back.to_version)
        return back.to_version

    def end(self) -> None:
        """Ends the last period."""
        self._ends()

    def _ends(self) -> None:
        self.periods.append((self._since, time.monotonic(), self._live))

    def _begins(self, version: int) -> None:
        self._since, self._live = time.monotonic(), version
        self._check_now()
        time.sleep(0.1)

    def _check_now(self) -> None:
        """What was cached or in a table before the swap is not answered after it."""
        connection = self._server.connection()
        for x in (0, 1, KEYED - 1, KEYED, 49):
            seen, ys = ask(connection, self._application, [x])
            assert (seen.version, ys) == (self._live, [x + 1000 * self._live])
            assert (seen.sources == ("table",)) == (self._live == 2 and x < KEYED)
        connection.close()


def with_table(server: Any, application: str, placement: str, folder: Path) -> Swaps:
    """Makes version 2 live with a table."""
    plan = {"placement": placement}
    server.deploy(application, "add", 2, plan=plan, slo_ms=10_000.0, key=("x",))
    source = folder / "keyed.csv"
    source.write_text("x\n" + "".join(f"{x}\n" for x in range(KEYED)))
    built = build_live_table(server.home, application, source, key=None, by="tests")

    def live() -> bool:
        return bool(server.health()["applications"][application] >= built.revision)

    server.until(live, "the table")
    return Swaps(server, application, built.table.id, placement)


def check(load: Load, swaps: Swaps, versions: set[int]) -> None:
    """No query failed; each was answered by the version of its moment; all sources took part."""
    assert load.wrong == []
    assert len(load.seen) > 100
    assert {seen.version for seen in load.seen} == versions
    assert {source for seen in load.seen for source in seen.sources} == {"table", "cache", "model"}
    within = 0
    for since, until, version in swaps.periods:
        alone = [seen for seen in load.seen if since <= seen.asked and seen.given <= until]
        assert {seen.version for seen in alone} <= {version}
        within += len(alone)
    assert within > 50


def errors_of(server: Any, application: str) -> list[str]:
    """The application's errors and defaults in the metrics."""
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    kinds = ("tidemill_errors_total", "tidemill_defaults_total")
    return [line for line in lines if line.startswith(kinds) and f'"{application}"' in line]


def test_versions_swap_under_load(server: Any, tmp_path: Path) -> None:
    """Eight swaps, back and forth and rolled back: nothing fails, nothing stale is answered."""
    swaps = with_table(server, "swapped", "gateway", tmp_path)
    with Load(server, "swapped") as load:
        for version in (1, 2, 3, 1, 3, 2):
            swaps.deploy(version)
        assert swaps.roll_back() == 3
        assert swaps.roll_back() == 1
        swaps.end()
    check(load, swaps, {1, 2, 3})
    assert errors_of(server, "swapped") == []


def test_versions_in_workers_swap_under_load(server: Any, tmp_path: Path) -> None:
    """Worker processes come and go with their versions, and no query notices."""
    swaps = with_table(server, "swapped-workers", "worker", tmp_path)
    with Load(server, "swapped-workers") as load:
        swaps.deploy(1)
        assert swaps.roll_back() == 2
        swaps.end()
    check(load, swaps, {1, 2})
    assert errors_of(server, "swapped-workers") == []


def test_queries_under_way_are_answered_by_their_version(server: Any) -> None:
    """What waits or is worked on when its version goes is still answered, after the swap."""
    plan = {"placement": "worker", "cache_bytes": 0, "coalesce": False, "max_batch": 3}
    answers: list[tuple[int, list[float]]] = []

    def wait_long() -> None:
        connection = server.connection()
        connection.request("POST", "/v1/models/under-way:predict", b'{"instances":[[250]]}')
        response = connection.getresponse()
        answers.append((response.status, json.loads(response.read())["predictions"]))
        connection.close()

    for attempt in range(3):  # too few may be left when the swap comes: try again with more
        server.deploy("under-way", "slow", plan={**plan, "max_queue": 70}, slo_ms=30_000.0)
        answers.clear()
        threads = [threading.Thread(target=wait_long) for _ in range(8 * (attempt + 1))]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        server.deploy("under-way", "slow", plan={**plan, "max_queue": 77}, slo_ms=30_000.0)
        under_way = len(threads) - len(answers)
        for thread in threads:
            thread.join(30)
        assert answers == [(200, [500.0])] * len(threads)
        if under_way > 3:  # some of them wait for a batch of their own
            break
    assert under_way > 3


@pytest.mark.parametrize("placement", ["gateway", "worker"])
def test_the_plan_changes_under_load(server: Any, placement: str) -> None:
    """A change of the plan alone swaps queue and cache, and no query notices."""
    application = f"planned-{placement}"
    plan = {"placement": placement}
    server.deploy(application, "add", 1, plan=plan, slo_ms=10_000.0)
    with Load(server, application) as load:
        for max_batch in (1, 3, 64):
            server.deploy(application, "add", 1, plan={**plan, "max_batch": max_batch})
            time.sleep(0.1)
    assert load.wrong == []
    assert {seen.version for seen in load.seen} == {1}
    assert errors_of(server, application) == []
