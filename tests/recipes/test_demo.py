"""The main job on real data: killed at several points, and true to its numbers at the end."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidemill.recipes.demo.flights import flights, prepare

WITHIN_S = 240.0


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Starts the demo as the head of a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tidemill", "demo", "--folder", str(folder), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def facts(folder: Path) -> dict[str, Any]:
    path = folder / "story.json"
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return found


def steps_done(folder: Path) -> int:
    """Returns how many pipeline steps have been committed."""
    path = folder / "work" / ".tidemill" / "store.db"
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as store:
            found: int = store.execute("select count(*) from pipeline_step_run").fetchone()[0]
            return found
    except sqlite3.OperationalError:
        return 0


def kill_when(folder: Path, reached: Callable[[], bool], *, everything: bool) -> None:
    """Runs the demo until a point is reached, then kills it, or it and all that it started."""
    process = start(folder)
    try:
        until = time.monotonic() + WITHIN_S
        while not reached():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        if everything:
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.communicate()


@pytest.mark.timeout(600)
def test_a_demo_that_is_killed_again_and_again_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """By kill -9 in ingest, training, replay and swap: each row counts once, no request fails."""
    folder = tmp_path / "demo"
    store = folder / "work" / ".tidemill" / "store.db"
    kill_when(folder, store.exists, everything=True)
    kill_when(folder, lambda: steps_done(folder) >= 3, everything=True)
    kill_when(folder, lambda: steps_done(folder) >= 6, everything=False)
    kill_when(folder, lambda: "made" in facts(folder), everything=True)
    kill_when(folder, lambda: "dropped_at" in facts(folder), everything=True)

    process = start(folder)
    out, err = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, err.decode()
    summary = json.loads(out)

    assert summary["rows_received"] == 27_035 + 24_956
    assert summary["rows_accepted"] == 27_004 + 24_951
    held = sum(summary[f"rows_{kind}"] for kind in ("quarantined", "duplicate", "late"))
    assert (held, summary["rows_late"], summary["rows_duplicate"]) == (36, 5, 5)
    assert summary["versions"] == [1, 2]
    assert summary["failed_requests"] == 0
    assert summary["compiled_equal"] is True
    assert summary["rolled_back_to"] == 1
    assert summary["rolled_back_table"]
    assert summary["labels"] == 5_991
    assert 0.6 < summary["served_auc"] < 0.75
    assert summary["served_auc"] == pytest.approx(summary["served_auc_by_sql"], abs=1e-12)
    assert summary["answers"]["table"] > summary["answers"]["model"] > 0
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert report.count("<svg") == 7
    assert summary["planned"] in {"static", "dynamic", "hybrid"}
    assert (summary["planned_keys"] > 0) == (summary["planned"] != "dynamic")
    assert f"{summary['planned'].title()}: " in report
    assert "<script" not in report
    assert json.loads((folder / "summary.json").read_bytes()) == summary


def test_prepared_data_is_reused(tmp_path: Path) -> None:
    """The second time, the files are there; and a flight is asked about before it lands."""
    first = prepare(tmp_path)
    assert not first.reused
    assert prepare(tmp_path).reused
    week = flights(first.february, range(1, 8))
    assert len(week) == 6_083
    assert all(f.landed_at is None or f.landed_at > f.asked_at for f in week)
    assert sum(f.late is None for f in week) == 92
