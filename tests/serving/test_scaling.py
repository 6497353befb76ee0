"""Replicas come and go under load: no query fails, and the first worker never stops."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tidemill.control.applications import set_replicas

APPLICATION = "scaled"


@contextmanager
def load(server: Any, connections: int = 6) -> Iterator[list[int]]:
    """Asks all the time on kept connections; every answer must be a right one."""
    stop = threading.Event()
    answered: list[int] = []
    wrong: list[str] = []

    def ask() -> None:
        connection = server.connection()
        try:
            while not stop.is_set():
                body = json.dumps({"instances": [[2.0]]})
                connection.request("POST", f"/v1/models/{APPLICATION}:predict", body)
                response = connection.getresponse()
                said = response.read()
                if response.status != 200 or json.loads(said)["predictions"] != [4.0]:
                    wrong.append(f"{response.status}: {said[:300]!r}")
                answered.append(response.status)
        except (OSError, http.client.HTTPException) as error:
            wrong.append(repr(error))
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(connections)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not wrong, wrong[:5]


def pids(server: Any) -> list[int]:
    """The workers of the application, as the supervisor has them."""
    workers = server.health()["workers"]
    return [each["pid"] for each in workers if each["application"] == APPLICATION]


def scale(server: Any, replicas: int) -> list[int]:
    """Changes the number and waits until it is so, and until it has answered a while."""
    server.go_live(set_replicas(server.home, APPLICATION, replicas, by="tests", reason="a test"))
    server.until(lambda: len(pids(server)) == replicas, f"{replicas} workers", within_s=60)
    return pids(server)


def test_replicas_change_under_load_without_a_failed_query(server: Any) -> None:
    """1 → 4 → 1 while six clients ask: all are answered rightly, by a worker that stayed."""
    plan = {"placement": "worker", "cache_bytes": 0, "max_batch": 1}
    server.deploy(APPLICATION, "slow", slo_ms=20_000.0, plan=plan)
    (first,) = pids(server)
    with load(server) as answered:
        for replicas in (4, 1):
            before = len(answered)
            server.until(lambda: len(answered) > before + 50, "queries before the change")  # noqa: B023
            running = scale(server, replicas)
            assert first in running
            at = len(answered)
            server.until(lambda: len(answered) > at + 100, "queries after the change")  # noqa: B023
    assert pids(server) == [first]
    with server.client() as client:
        shown = client.get(f"/v2/models/{APPLICATION}/ready")
    assert shown.is_success
