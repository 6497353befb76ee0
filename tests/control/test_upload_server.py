"""Uploads to a real server: cut, killed, taken over, and larger than its memory may grow."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tidemill.control.audit import read_audit
from tidemill.data.snapshots import list_snapshots, read_snapshot
from tidemill.foundation.home import open_home
from tidemill.foundation.locks import hold
from tidemill.foundation.settings import Settings

HEADER = b"id,price\n"
PARAMS = {"upload": "jan", "file": "jan.csv", "key": "id", "create": "true"}


class Server:
    """A server on a home of its own, which may be killed and started again."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            "TIDEMILL_SERVE_READ_TIMEOUT_S": "30",
            **environment,
        }
        self.home = folder / "home"
        self.process: subprocess.Popen[bytes]
        self.port = 0

    def start(self) -> Server:
        """Starts it and waits until it serves."""
        command = [sys.executable, "-m", "tidemill", "serve", "--json", "--home", str(self.home)]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", "0", "--admin-port", "0"],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                cwd=self._folder,
            )
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(90)
        self.port = json.loads(self.process.stdout.readline())["admin_port"]
        self.process.stdout.close()
        return self

    def kill(self) -> None:
        """Ends it as a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def stop(self) -> None:
        """Ends it as an operator does."""
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()

    def send(self, verb: str, *, content: Any = None, **more: Any) -> httpx.Response:
        """Asks the dataset ``orders``."""
        url = f"http://127.0.0.1:{self.port}/admin/v1/data/orders"
        return httpx.request(verb, url, content=content, timeout=100, **more)

    def offset(self) -> int:
        """Says how far the upload is."""
        head = self.send("HEAD", params={"upload": "jan"})
        return int(head.headers["upload-offset"])

    def state(self, **more: Any) -> dict[str, Any]:
        """Returns what is known of the upload."""
        found: dict[str, Any] = self.send("GET", params={"upload": "jan", **more}).json()
        return found

    def go_on(self, data: bytes) -> dict[str, Any]:
        """Sends the rest, as a client does: what is refused says where to go on."""
        for _ in range(10):
            offset = self.offset()
            done = self.send(
                "PUT",
                content=data[offset:],
                params={**PARAMS, "wait_s": "60"},
                headers={"upload-offset": str(offset)},
            )
            if done.status_code != 409:
                break
        assert done.status_code == 200, done.text
        found: dict[str, Any] = done.json()
        return found

    def written(self) -> int:
        """Says how many bytes of the upload are in its file, acknowledged or not."""
        path = self.home / "uploads" / "orders" / "jan" / "jan.csv"
        return path.stat().st_size if path.exists() else 0

    def begin(self, length: int, sent: bytes) -> socket.socket:
        """Begins a piece of some length, sends a part of it, and leaves the connection open."""
        query = "&".join(f"{name}={value}" for name, value in PARAMS.items())
        opened = socket.create_connection(("127.0.0.1", self.port))
        head = (
            f"PUT /admin/v1/data/orders?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Length: {length}\r\n\r\n"
        )
        opened.sendall(head.encode() + sent)
        return opened

    def chores(self) -> list[psutil.Process]:
        """Returns the processes that ingest for it."""
        children = psutil.Process(self.process.pid).children()
        return [each for each in children if "settle" in each.cmdline()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that runs."""
    made = Server(tmp_path).start()
    try:
        yield made
    finally:
        made.stop()


def until(true: Callable[[], bool], within_s: float = 60.0) -> None:
    """Waits until something is true; bounded."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def rows(count: int) -> bytes:
    """Returns so many rows as CSV."""
    return HEADER + b"".join(b"%d,%d.5\n" % (i, i) for i in range(count))


def once(server: Server, count: int) -> None:
    """Checks that every row came in, once, and that the audit has one row about it."""
    with open_home(Settings(home=server.home)) as home:
        (snapshot,) = list_snapshots(home, "orders")
        assert sorted(read_snapshot(home, snapshot).column("id").to_pylist()) == list(range(count))
        assert len(read_audit(home.store, subject="upload orders/jan")) == 1


def test_the_answer_waits_for_the_ingest(server: Server) -> None:
    """A small file's counts are in the answer; what cannot be read is its error."""
    done = server.send("PUT", content=rows(50), params={**PARAMS, "wait_s": "60"})
    assert (done.status_code, done.json()["result"]["accepted"]) == (200, 50)
    once(server, 50)
    params = {"upload": "bad", "file": "bad.parquet", "wait_s": "60"}
    bad = server.send("PUT", content=b"PAR1", params=params)
    assert bad.status_code == 400
    assert "bad.parquet" in bad.json()["error"]
    metrics = httpx.get(f"http://127.0.0.1:{server.port}/metrics", timeout=60).text
    assert 'tidemill_uploads_total{state="done"} 1.0' in metrics
    assert 'tidemill_uploads_total{state="failed"} 1.0' in metrics
    assert 'tidemill_uploaded_rows_total{outcome="accepted"} 50.0' in metrics


def test_a_cut_upload_goes_on(server: Server) -> None:
    """What was written before the connection was cut is kept, and the rest is sent from there."""
    data = rows(60_000)
    with server.begin(len(data), data[:600_000]):
        until(lambda: server.written() > 0)
    until(lambda: server.offset() > 0)
    assert server.go_on(data)["result"]["accepted"] == 60_000
    once(server, 60_000)


def test_a_newer_request_takes_over(server: Server) -> None:
    """The connection before it may hang for long: it is ended, and what it sent is kept."""
    data = rows(60_000)
    with server.begin(len(data), data[:600_000]) as hanging:
        until(lambda: server.written() > 0)
        early = server.send("PUT", content=data, params=PARAMS)
        assert early.status_code == 409
        assert b"409 Conflict" in hanging.recv(1 << 16)
    assert 0 < server.offset() <= 600_000
    assert server.go_on(data)["result"]["accepted"] == 60_000
    once(server, 60_000)


def test_one_that_sends_nothing_is_ended(tmp_path: Path) -> None:
    """After serve.read_timeout_s, with what it sent kept, and told."""
    server = Server(tmp_path, TIDEMILL_SERVE_READ_TIMEOUT_S="0.5").start()
    try:
        with server.begin(1000, b"id,price\n") as slow:
            assert b"408 Request Timeout" in slow.recv(1 << 16)
        assert server.offset() == 9
    finally:
        server.stop()


def test_killed_while_it_arrives(server: Server) -> None:
    """What was acknowledged survives the server; the rest is sent again, and counts once."""
    data = rows(5000)
    headers = {"upload-complete": "?0"}
    server.send("PUT", content=data[:20_000], params=PARAMS, headers=headers).raise_for_status()
    query = "upload-offset: 20000\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as cut:
        head = f"PUT /admin/v1/data/orders?upload=jan HTTP/1.1\r\nHost: 127.0.0.1\r\n{query}"
        cut.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[20_000:40_000])
        time.sleep(0.2)  # some of it may be on the disk, or none: neither is acknowledged
        server.kill()
    server.start()
    offset = server.offset()
    assert 20_000 <= offset <= 40_000
    assert server.go_on(data)["result"]["accepted"] == 5000
    once(server, 5000)


def test_killed_between_upload_and_ingest(server: Server) -> None:
    """What was taken is ingested by the next server, without being asked, once."""
    with hold(server.home / "run" / "ingest-orders.lock"):  # no ingest gets beyond its beginning
        taken = server.send("PUT", content=rows(5000), params={**PARAMS, "wait_s": "0"})
        assert (taken.status_code, taken.json()["state"]) == (202, "received")
        until(lambda: len(server.chores()) == 1)
        (chore,) = server.chores()
        server.kill()
        until(lambda: not chore.is_running() or chore.status() == psutil.STATUS_ZOMBIE)
    server.start()
    until(lambda: server.state()["state"] == "done")
    assert server.state()["result"]["accepted"] == 5000
    once(server, 5000)


def test_a_killed_ingest_is_done_again(server: Server) -> None:
    """Its own process may die: the server lives, counts it, and begins another."""
    with hold(server.home / "run" / "ingest-orders.lock"):
        server.send("PUT", content=rows(50), params={**PARAMS, "wait_s": "0"}).raise_for_status()
        until(lambda: len(server.chores()) == 1)
        server.chores()[0].kill()
        until(lambda: server.state()["deaths"] == 1)
        assert server.state()["problem"]["kind"] == "WorkerLost"
    until(lambda: server.state()["state"] == "done")
    assert server.state()["problem"] is None
    once(server, 50)


def test_a_large_upload_takes_no_memory(server: Server) -> None:
    """Of 256 MiB, a few are in the server at a time."""
    block = b"x" * (1 << 20)

    def blocks() -> Iterator[bytes]:
        for _ in range(256):
            yield block

    process = psutil.Process(server.process.pid)
    server.send("PUT", content=b"id\n", params={**PARAMS, "upload": "warm", "wait_s": "60"})
    before = process.memory_info().rss
    highest = [before]
    headers = {"upload-complete": "?0"}
    with contextlib.closing(blocks()) as sent:
        watched = (_seen(process, highest, each) for each in sent)
        done = server.send("PUT", content=watched, params=PARAMS, headers=headers)
    assert done.json()["offset"] == 256 << 20
    assert highest[0] - before < 48 << 20
    assert server.send("DELETE", params={"upload": "jan"}).status_code == 200
    assert not (server.home / "uploads" / "orders" / "jan").exists()


def _seen(process: psutil.Process, highest: list[int], block: bytes) -> bytes:
    highest[0] = max(highest[0], process.memory_info().rss)
    return block
