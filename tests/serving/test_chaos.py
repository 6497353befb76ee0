"""Everything at once, under load: processes are killed, versions swapped, replicas come and go.

Each answer is counted and compared with what its version's model says. A connection that breaks
counts too: only a gateway's death may break one, and then one retry succeeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tidemill.control.applications import set_replicas
from tidemill.control.deployments import get_deployment, rollback
from tidemill.data.ledger import read_ledger

CLIENTS = 16
ROUNDS = 2
PAUSE_S = 0.4


@dataclass
class Counts:
    """What the clients saw, all together."""

    answers: int = 0
    broken: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    retries_failed: list[str] = field(default_factory=list)
    labels: dict[str, float] = field(default_factory=dict)
    versions: set[int] = field(default_factory=set)


class Broken(Exception):  # noqa: N818 - reads as a sentence
    """The connection ended before the answer was whole."""


class Client:
    """One connection, kept as long as it lasts, that asks all the time and returns some labels."""

    def __init__(self, port: int, counts: Counts, seed: int) -> None:
        self._port = port
        self._counts = counts
        self._draw = random.Random(seed)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.last = False

    async def run(self, stop: asyncio.Event) -> None:
        """Asks until it is told to stop, or the server says that it has had its last answer."""
        while not stop.is_set() and not self.last:
            x = self._draw.randrange(1_000_000)
            answer = await self._surely(
                lambda x=x: self._post("/v1/models/app:predict", {"instances": [x]}),
            )
            if answer is None:
                continue
            version = int(answer["model_version"])
            self._counts.answers += 1
            self._counts.versions.add(version)
            if answer["predictions"] != [x + 1000 * version]:
                self._counts.wrong.append(f"{x}: {answer}")
            if self._draw.random() < 0.05 and not self.last:
                await self._label(answer["prediction_ids"][0], float(x))
        self.close()

    async def _label(self, prediction_id: str, label: float) -> None:
        body = [{"prediction_id": prediction_id, "label": label}]
        taken = await self._surely(lambda: self._post("/v1/models/app:feedback", body))
        if taken is not None:
            self._counts.labels[prediction_id] = label  # it was acknowledged: it must be there

    async def _surely(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Asks; after a broken connection, once more on a new one."""
        try:
            return await ask()
        except Broken:
            self._counts.broken += 1
        except ValueError as error:
            self._counts.failed.append(str(error))
            return None
        try:
            return await ask()
        except (Broken, ValueError) as error:
            self._counts.retries_failed.append(repr(error))
            return None

    async def _post(self, path: str, body: Any) -> Any:
        data = json.dumps(body).encode()
        lines = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}"
        head = f"{lines}\r\n\r\n".encode()
        try:
            async with asyncio.timeout(20):
                if self._writer is None:
                    opened = await asyncio.open_connection("127.0.0.1", self._port)
                    self._reader, self._writer = opened
                assert self._reader is not None
                self._writer.write(head + data)
                said = await self._reader.readuntil(b"\r\n\r\n")
                length = int(said.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                text = await self._reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise Broken from error
        self.last = b"connection: close" in said.lower()
        if not said.startswith(b"HTTP/1.1 200"):
            raise ValueError(said.splitlines()[0].decode() + " " + text.decode())
        return json.loads(text)

    def close(self) -> None:
        """Ends the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Chaos:
    """What is done to the server while clients ask."""

    def __init__(self, server: Any, seed: int) -> None:
        self._server = server
        self._draw = random.Random(seed)
        self._version = 1
        self.gateways_killed = 0
        self.workers_killed = 0

    def kill_a_gateway(self) -> None:
        """Ends one of the gateways at once; another process has taken its place on return."""
        pid = self._draw.choice(self._server.health()["gateways"])["pid"]
        os.kill(pid, signal.SIGKILL)
        self.gateways_killed += 1
        self._server.until(lambda: self._all_serve(without=pid), "a new gateway")

    def kill_a_worker(self) -> None:
        """Ends one of the workers at once."""
        pid = self._draw.choice(self._workers())["pid"]
        os.kill(pid, signal.SIGKILL)
        self.workers_killed += 1
        self._server.until(
            lambda: pid not in [each["pid"] for each in self._workers()], "a new worker"
        )

    def swap(self) -> None:
        """Makes the next version live."""
        self._version = self._version % 3 + 1
        plan = {"placement": "worker", "replicas": 2, "cache_bytes": 0}
        self._server.deploy("app", "add", self._version, plan=plan, slo_ms=10_000.0)

    def roll_back(self) -> None:
        """Makes live what was live before."""
        back = rollback(self._server.home, "app", by="tests", reason="a test")
        self._version = back.to_version
        self._server.go_live(get_deployment(self._server.home, "app"))

    def scale_up(self) -> None:
        """Four workers."""
        self._scale(4)

    def scale_down(self) -> None:
        """One worker."""
        self._scale(1)

    def _scale(self, replicas: int) -> None:
        done = set_replicas(self._server.home, "app", replicas, by="tests", reason="a test")
        self._server.go_live(done)
        self._server.until(lambda: len(self._workers()) == replicas, f"{replicas} workers")

    def _workers(self) -> list[dict[str, Any]]:
        workers: list[dict[str, Any]] = self._server.health()["workers"]
        return [each for each in workers if each["application"] == "app"]

    def _all_serve(self, *, without: int) -> bool:
        health = self._server.health()
        return all(
            each["pid"] not in (None, without) and each["revision"] == health["revision_wanted"]
            for each in health["gateways"]
        )


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_answered_wrongly_and_nothing_is_lost(launch: Any, seed: int) -> None:
    """Kills, swaps, rollbacks and scaling in any order, then the end: every request is counted."""
    with launch(TIDEMILL_SERVE_GATEWAYS="2") as server:
        chaos = Chaos(server, seed)
        chaos.swap()
        counts = Counts()
        asyncio.run(_storm(server, chaos, counts, seed))
        assert server.process.wait(30) == 0
    told = f"{counts.answers} answers, {counts.broken} broken, {chaos.gateways_killed} kills"
    assert counts.wrong == [], told
    assert counts.failed == [], told
    assert counts.retries_failed == [], told
    # A gateway that dies takes what was in flight in it: at most one request of each client.
    assert counts.broken <= chaos.gateways_killed * CLIENTS, told
    assert chaos.gateways_killed >= ROUNDS
    assert chaos.workers_killed >= ROUNDS
    assert len(counts.versions) > 1
    assert counts.answers > 100
    ledger = read_ledger(server.home.ledger_path, "app")
    kept = dict(
        zip(
            ledger.labels["prediction_id"].to_pylist(),
            ledger.labels["label"].to_pylist(),
            strict=True,
        )
    )
    assert counts.labels
    assert {name: kept.get(name) for name in counts.labels} == counts.labels


async def _storm(server: Any, chaos: Chaos, counts: Counts, seed: int) -> None:
    stop = asyncio.Event()
    clients = [Client(server.port, counts, seed * 100 + number) for number in range(CLIENTS)]
    asking = [asyncio.create_task(client.run(stop)) for client in clients]
    draw = random.Random(seed)
    for _ in range(ROUNDS):
        acts = [chaos.kill_a_gateway, chaos.kill_a_worker, chaos.swap, chaos.roll_back]
        acts += [chaos.scale_up, chaos.scale_down]
        draw.shuffle(acts)
        for act in acts:
            await asyncio.to_thread(act)
            await asyncio.sleep(PAUSE_S)
    broken = counts.broken
    server.process.send_signal(signal.SIGTERM)  # while all of them ask
    began = time.monotonic()
    _, late = await asyncio.wait(asking, timeout=15)
    for task in late:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert not late, f"{len(late)} clients were not told of the end in {time.monotonic() - began} s"
    assert counts.broken == broken, "a request was dropped by a server that was asked to end"


ROWS_MS = range(20, 28)
PLACES = ("worker", "gateway")


def test_a_killed_server_finishes_what_it_holds_and_a_new_one_serves(launch_slow: Any) -> None:
    """``kill -9`` of the supervisor: each request in flight is answered, and the store has all."""
    with launch_slow(TIDEMILL_SERVE_GATEWAYS="2") as server:
        for place in PLACES:
            plan = {"placement": place, "cache_bytes": 0, "coalesce": False}
            server.deploy(place, "slow", plan=plan, slo_ms=10_000.0)
        health = server.health()
        pids = [each["pid"] for kind in ("gateways", "workers") for each in health[kind]]
        asking = [(place, x, server.connection()) for place in PLACES for x in ROWS_MS]
        for place, _, connection in asking:
            _ask(connection, place, 1)
            assert _told(connection) == [2.0]
        for place, x, connection in asking:
            _ask(connection, place, x)
        server.process.kill()
        for _, x, connection in asking:
            assert _told(connection) == [2.0 * x]
            connection.close()
        deadline = time.monotonic() + 10
        while any(map(_runs, pids)):
            assert time.monotonic() < deadline, "processes outlive their supervisor"
            time.sleep(0.02)
        kept = read_ledger(server.home.ledger_path, "worker").predictions
        assert kept.num_rows == 2 * len(ROWS_MS)
        with server.again() as restarted:
            for place in PLACES:
                connection = restarted.connection()
                _ask(connection, place, 3)
                assert _told(connection) == [6.0]
                connection.close()


def _ask(connection: http.client.HTTPConnection, place: str, x: float) -> None:
    connection.request("POST", f"/v1/models/{place}:predict", json.dumps({"instances": [[x]]}))


def _told(connection: http.client.HTTPConnection) -> Any:
    response = connection.getresponse()
    said = json.loads(response.read())
    assert response.status == 200, said
    return said["predictions"]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
