"""What the benchmark of lookups asks, and how it judges what it finds."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from bench.answers import READERS
from bench.lookup import followed
from bench.lookup.burner import read_tracks, write_tracks
from bench.lookup.claims import AIMS, BARE, LMDB, LOOKUP, claims, servers_table, turns_table
from bench.lookup.followed import cpu_s, rests, threads_of, tracks_of
from bench.lookup.work import KEY, make_work, write_rows
from bench.openload import Load as OpenLoad
from bench.questions import Body, http_requests, read_bodies, write_bodies
from bench.report import filled
from bench.servers import ROOT, BenchmarkFailed

from bench import results
from tidemill.foundation.processes import family

_TELLS = pytest.mark.skipif(
    not threads_of([os.getpid()]), reason="the kernel does not tell what each thread uses"
)
BURN = """
import threading, time
def rest():
    for _ in range(50): time.sleep(0.005)
while time.process_time() < 0.35: sum(range(1000))
threading.Thread(target=rest).start()
time.sleep(0.35)
"""


def test_questions_with_and_without_a_body_come_back_as_they_were(tmp_path: Path) -> None:
    """A path with a query stands in the line before its empty body."""
    bodies = [Body(b"{}\n{}"), Body(b"", target="/a:lookup?k=1&x=y"), Body(b"{}\x00", 2)]
    assert read_bodies(write_bodies(tmp_path / "bodies", bodies)) == bodies


def test_a_question_with_a_path_is_a_get() -> None:
    """It has no length and no type."""
    asked, posted = http_requests("http://h:1/p", [Body(b"", target="/l?k=1"), Body(b"{}")], "X: y")
    assert asked == b"GET /l?k=1 HTTP/1.1\r\nHost: h:1\r\nX: y\r\n\r\n"
    assert posted.startswith(b"POST /p HTTP/1.1\r\nHost: h:1\r\nX: y\r\nContent-Type: app")
    assert posted.endswith(b"Content-Length: 2\r\n\r\n{}")


def test_everybody_is_asked_for_the_same_keys(tmp_path: Path) -> None:
    """The answers that are expected are those of the rows, and more rows begin with the fewer."""
    work = make_work(tmp_path / "work", 50)
    assert len(np.load(work.values)) == work.keys == 50
    assert {len(read_bodies(path)) for path in work.bodies.values()} == {50}
    write_rows(tmp_path / "more.parquet", 60)
    more = pq.read_table(tmp_path / "more.parquet")
    assert more.slice(0, 50).equals(pq.read_table(work.rows))
    assert more.column_names[0] == KEY
    assert READERS["v1"](b'{"predictions":[[0.5]]}', 0) == {"y": [0.5]}


@_TELLS
def test_a_build_is_followed_thread_by_thread(tmp_path: Path) -> None:
    """All its CPU is told, when it was used, and who rested how often; a file keeps it."""
    tracks = tracks_of([sys.executable, "-c", BURN], log=tmp_path / "log")
    assert sum(map(cpu_s, tracks)) == pytest.approx(0.37, abs=0.1)
    busy = tracks[0]
    assert sum(used for used, _ in busy[-3:-1]) < 0.05  # it slept
    other = max(tracks[1:], key=rests)
    assert 45 <= rests(other) <= 80
    assert cpu_s(other) < 0.1
    assert read_tracks(write_tracks(tmp_path / "tracks", tracks)) == tracks


@_TELLS
def test_a_burner_uses_as_much_and_rests_as_often(tmp_path: Path) -> None:
    """A process for each thread, though it began late: no second and no rest is left out."""
    tracks = [[(0.03, 20)] * 10 + [(0.0, 3)], [(0.0, 0)] * 10 + [(0.3, 5)]]
    path = write_tracks(tmp_path / "tracks", tracks)
    burner = subprocess.Popen(
        [sys.executable, "-m", "bench.lookup.burner", str(path)], cwd=ROOT, start_new_session=True
    )
    try:
        deadline, used, before = time.monotonic() + 60.0, (0.0,), (-1.0,)
        while len(used) < 2 or used != before:
            assert time.monotonic() < deadline
            time.sleep(0.5)
            before = used
            used, rested = zip(*threads_of(family(burner.pid)).values(), strict=True)
    finally:
        burner.kill()
        burner.wait()
    assert [0.3 <= each < 0.8 for each in used] == [True, True]
    assert 200 <= max(rested) <= 250
    assert 5 <= min(rested) <= 50


def test_what_ended_unseen_is_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In proportion to what was seen; where nothing can be seen, that is said."""
    looks = iter([{"1": (0.1, 2), "2": (0.2, 0)}, {"1": (0.1, 2), "2": (0.5, 0)}])
    monkeypatch.setattr(followed, "threads_of", lambda _: next(looks, {}))
    children = iter([1.0, 2.2])
    monkeypatch.setattr(followed, "_children_s", lambda: next(children))
    sleeps = [sys.executable, "-c", "import time; time.sleep(0.1)"]
    busiest, other = tracks_of(sleeps, log=tmp_path / "log")
    assert [used for used, _ in busiest[:3]] == pytest.approx([0.4, 0.6, 0.0])
    assert [used for used, _ in other[:3]] == pytest.approx([0.2, 0.0, 0.0])
    with pytest.raises(BenchmarkFailed, match="does not tell what each thread uses"):
        children = iter([1.0, 2.0])
        tracks_of(sleeps, log=tmp_path / "log")


def test_a_build_that_fails_says_why(tmp_path: Path) -> None:
    """What it wrote last is told."""
    with pytest.raises(BenchmarkFailed, match="no such thing"):
        tracks_of([sys.executable, "-c", "exit('no such thing')"], log=tmp_path / "log")


def spread(value: float) -> dict[str, float]:
    """Returns a figure that was the same each time."""
    return {"median": value, "min": value, "max": value}


def found(target: str, rps: float) -> dict[str, Any]:
    """Returns a server's figures."""
    names = ("p50_ms", "p99_ms", "cpu_us_per_request")
    return {"target": target, "rps": spread(rps), **{name: spread(1.0) for name in names}}


def turn(number: int, build_p99_ms: float, *, built: int = 5000) -> dict[str, Any]:
    """Returns a turn whose p99 beside a build is that, and 2 ms beside a burner."""
    return {
        "turn": number,
        "built": built,
        "rate": 9.0,
        "seconds": 2.0,
        "build": {"p50_ms": 1.0, "p99_ms": build_p99_ms},
        "burner": {"p50_ms": 1.0, "p99_ms": 2.0},
    }


def test_claims_are_ratios_of_medians_and_what_was_not_measured_meets_nothing() -> None:
    """A peer that was left out makes its claim one that was not measured."""
    summary = [found(LOOKUP, 600.0), found(BARE, 1000.0), found(LMDB, 100.0)]
    beside = [turn(number, build) for number, build in ((1, 3.0), (2, 1.0), (3, 2.2))]
    judged = claims(summary, beside)
    assert [each["met"] for each in judged] == [True, False, None, True]
    assert [each["aim"] for each in judged] == [*AIMS.values(), 1.2]
    assert judged[-1]["found"] == 1.1
    assert [each["met"] for each in claims([], [])] == [None] * 4
    assert "| 600 (600-600) |" in servers_table(summary)
    line = "| 1 | 5,000 | 2.0 | 9 | 1.00 | 3.00 | 1.00 | 2.00 | 1.50 |"
    assert turns_table(beside[:1]).endswith(line)


def test_turns_and_servers_of_several_runs_are_told_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither hides the other, a turn is told by its newest run, and one of a small build never."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    runs = [
        ([], [turn(1, 9.0), turn(2, 8.0)]),
        ([found(LOOKUP, 600.0), found(BARE, 1000.0)], []),
        ([], [turn(1, 2.0)]),
        ([], [turn(2, 7.0, built=50)]),
    ]
    for at, (summary, turns) in enumerate(runs):
        built = turns[0]["built"] if turns else 5000
        facts = {"built": built, "keys": 100, "repeats": 3, "peers": {}, "left_out": {}}
        record = results.Record(
            "lookup", effort="brief", summary=summary, turns=turns, finished=True, **facts
        )
        record.values["at"] = f"2026-11-0{at + 1}T00:00:00Z"
        record.path = tmp_path / f"lookup-{at}.json"
        record.write()
    page = filled("<!-- results: lookup -->\n<!-- end of results -->")
    assert "| lookups / bare asyncio + LMDB | ≥ 0.6 x | 0.6 x | met |" in page
    assert "burner | ≤ 1.2 x | 2.5 x | **not met** |" in page
    assert "Turn 1: measured 2026-11-03" in page
    assert "Turn 2: measured 2026-11-01" in page
    assert "Ratios of earlier runs, which do not count: turn 1: 4.50." in page
    assert page.count("Measured 2026-11-02") == 1


def test_an_open_loop_that_is_stopped_waits_for_what_it_asked() -> None:
    """What was not due yet is not asked, nor counted as lost."""

    async def stop() -> OpenLoad:
        load = OpenLoad(requests=[b""], expected=[], read=READERS["plain"], due_s=[0.0, 1e9])
        load.start = -1.0
        load.send_due()
        load.stop()
        return load

    load = asyncio.run(stop())
    assert (load.unsent, len(load.due_s), load.done()) == (1, 1, 1)
