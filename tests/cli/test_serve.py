"""A server of real processes, driven by the command line while it runs."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest


def ask(port: int, path: str, body: Any = None) -> Any:
    """Returns the JSON that is answered."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.loads(response.read())


def until(true: Callable[[], bool]) -> None:
    """Waits until something is true; bounded."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def serving() -> Iterator[dict[str, Any]]:
    """Runs a server while the block runs, and gives what it says; it ends clean, with all of it."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tidemill", "serve", "--json"),
            *("--port", "0", "--admin-port", "0"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 60)[0]
        yield json.loads(process.stdout.readline())
        family = psutil.Process(process.pid).children(recursive=True)
        assert family
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stdout.read() == b""
        assert not psutil.wait_procs(family, timeout=10)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def test_a_server_follows_the_command_line(live: Any, tmp_path: Path) -> None:
    """It says its ports as one JSON object, answers, follows what is deployed, and ends clean."""
    with serving() as said:
        assert said["applications"] == ["trips"]
        row = {"carrier": "AA", "origin": "JFK", "hour": 7}
        body = {"instances": [row]}
        answer = ask(said["port"], "/v1/models/trips:predict", body)
        assert len(answer["predictions"]) == len(answer["prediction_ids"]) == 1
        health = ask(said["admin_port"], "/admin/v1/health")
        assert (health["revision_live"], health["refused"]) == (1, [])
        keys = tmp_path / "keys.csv"
        keys.write_text("carrier,origin,hour\nAA,JFK,8\n", encoding="utf-8")
        built = live("table", "build", "trips", "--from", str(keys))
        assert built.code == 0  # the same version, with a table that lacks the row
        until(lambda: bool(ask(said["admin_port"], "/admin/v1/health")["revision_live"] == 2))
        again = ask(said["port"], "/v1/models/trips:predict", body)
        assert again["predictions"] == answer["predictions"]  # the table said what the model says
        labels = [
            {"prediction_id": each["prediction_ids"][0], "label": 0} for each in (answer, again)
        ]
        ask(said["port"], "/v1/models/trips:feedback", labels)
        top = ("top", "--interval-s", "0.05", "--admin-port", str(said["admin_port"]))
        (row,) = live(*top, "--json").json()["applications"]
        assert (row["application"], row["version"], row["replicas_alive"]) == ("trips", "1", 1)
        assert "gateway-0" in live(*top, "--once").out
    score = live("ledger", "score", "trips", "--json").json()
    counts = {"received": 2, "joined": 2, "replaced": 0, "unmatched": 0, "withdrawn": 0}
    assert score["labels"] == counts
    assert score["report"]["overall"]["predictions"] == 2
    assert set(score["report"]["sources"]) == {"table", "model"}
    shown = live("ledger", "score", "trips")
    assert "from table" in shown.out
    exported = live("ledger", "export", "out", "--json").json()
    assert (exported["prediction_rows"], exported["label_rows"]) == (2, 2)


def test_a_bit_that_flips_in_a_copy_of_a_table_changes_no_answer(live: Any) -> None:
    """A start finds it, answers from a whole copy, logs and counts it."""
    query = "select carrier, origin, hour, probabilities from predictions.trips"
    *keys, answers = zip(*live("sql", query, "--json").json()["rows"], strict=True)
    (data,) = (live.folder / ".tidemill" / "cache" / "tables").glob("*/data.mdb")
    flipped = bytearray(data.read_bytes())
    flipped[flipped.index(b"probabilities") + 20] ^= 1
    data.unlink()  # it is one file with that of the files
    data.write_bytes(flipped)
    instances = [
        dict(zip(("carrier", "origin", "hour"), row, strict=True))
        for row in zip(*keys, strict=True)
    ]
    with serving() as said:
        found = ask(said["port"], "/v1/models/trips:predict", {"instances": instances})
        assert set(found["sources"]) == {"table"}
        assert [each["probabilities"] for each in found["predictions"]] == list(answers)
        url = f"http://127.0.0.1:{said['admin_port']}/metrics"
        with urllib.request.urlopen(url, timeout=20) as response:
            assert b"tidemill_table_copies_damaged_total 1.0" in response.read().splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_watcher_ends_when_it_is_told(live: Any, number: signal.Signals) -> None:
    """After the launch under way, with one JSON object and the code of a success."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tidemill", "watch", "trips", ".", "--json", "--poll-s", "0.05"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        lock = live.folder / ".tidemill" / "run" / "keeper-trips.lock"
        until(lock.exists)
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
    assert process.returncode == 0
    assert json.loads(out) == {"launches": []}
