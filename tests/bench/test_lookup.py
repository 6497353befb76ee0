"""What the benchmark of lookups asks, and how it judges what it finds."""

from __future__ import annotations

import asyncio
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from bench.answers import READERS
from bench.lookup.beside import EVERY_S, cpu_followed
from bench.lookup.burner import shares
from bench.lookup.claims import AIMS, BARE, LMDB, LOOKUP, claims, servers_table, turns_table
from bench.lookup.work import KEY, make_work, write_rows
from bench.openload import Load as OpenLoad
from bench.questions import Body, http_requests, read_bodies, write_bodies
from bench.report import filled
from bench.servers import BenchmarkFailed

from bench import results

BURN = """
import time
while time.process_time() < 0.35: sum(range(1000))
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


def test_a_burner_uses_what_a_build_did_and_when(tmp_path: Path) -> None:
    """All CPU of a command is told, in the moments it was used; processes share it out whole."""
    used = cpu_followed([sys.executable, "-c", BURN], log=tmp_path / "log")
    assert sum(used) == pytest.approx(0.37, abs=0.1)
    assert sum(used[-3:-1]) < 0.05  # it slept
    for processes in (1, 2, 3):
        each = shares([0.25, 0.0, 0.07, 0.13], EVERY_S, processes)
        assert len(each) == processes
        at_once = [math.fsum(moment) for moment in zip(*each, strict=True)]
        assert at_once == pytest.approx([0.25, 0.0, 0.07, 0.13])
        assert all(share <= EVERY_S for one in each[:-1] for share in one)
        assert all(share >= 0.0 for one in each for share in one)


def test_a_build_that_fails_says_why(tmp_path: Path) -> None:
    """What it wrote last is told."""
    with pytest.raises(BenchmarkFailed, match="no such thing"):
        cpu_followed([sys.executable, "-c", "exit('no such thing')"], log=tmp_path / "log")


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
