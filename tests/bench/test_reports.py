"""What the report takes from several runs, and what a run that was cut short leaves."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bench.footprint.claims import put_together
from bench.openload import WAIT_S, Connection, Load, result
from bench.report import filled
from bench.serving.merge import merge

from bench import results

TOLD = ("planning", "cases")
WORKLOADS = ("sum", "lr", "rf", "mlp")


def spread(value: float) -> dict[str, float]:
    """Returns a figure that was the same each time."""
    return {"median": value, "min": value, "max": value}


def run(rps: float, *workloads: str, finished: bool = True, every_peer: bool = True) -> Any:
    """Returns a run in which ours and Triton were asked, ours so often a second."""
    rows = [
        {
            "workload": name,
            "target": target,
            "connections": 64,
            "rps": spread(value),
            "cpu_us_per_request": spread(1.0),
        }
        for name in workloads
        for target, value in (("tidemill", rps), ("Triton", 100.0))
    ]
    return {
        "every_peer": every_peer,
        "finished": list(workloads) if finished else [],
        "summary": rows,
        "left_out": {f"MLServer ({name})": f"of {rps}" for name in workloads},
    }


def found(merged: Any, claim: str) -> float | None:
    """Returns what a claim found."""
    value: float | None = {each["claim"]: each["found"] for each in merged.claims}[claim]
    return value


def test_each_workload_is_told_by_its_newest_run() -> None:
    """Runs of single workloads make one table, and a claim is judged within one run."""
    merged = merge([run(100, "lr", "rf"), run(700, "rf"), run(200, "lr")], WORKLOADS)
    assert found(merged, "lr / Triton") == 2
    assert found(merged, "rf compiled / Triton") == 7
    assert found(merged, "mlp JSON / Triton JSON") is None
    assert [names for _, names in merged.spoken] == [["lr"], ["rf"]]
    assert merged.left_out == {"MLServer (lr)": "of 200", "MLServer (rf)": "of 700"}


@pytest.mark.parametrize("lesser", [{"finished": False}, {"every_peer": False}])
def test_a_run_that_says_less_does_not_hide_one_that_says_more(lesser: dict[str, bool]) -> None:
    """One that was cut short, or had few peers, counts only where there is no other."""
    merged = merge([run(100, "lr"), run(700, "lr", "rf", **lesser)], WORKLOADS)
    assert found(merged, "lr / Triton") == 1
    assert found(merged, "rf compiled / Triton") == 7


def test_a_run_leaves_what_it_had_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each writing leaves a whole file; runs of the smoke level are not reported."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    record = results.Record("serving", effort="brief", runs=[], finished=[])
    record.values["runs"].append({"rps": 1})
    record.write(summary=["one"])
    written = json.loads(record.path.read_bytes())
    assert written["runs"] == [{"rps": 1}]
    assert written["summary"] == ["one"]
    assert written["commit"]
    assert [path.name for path in tmp_path.iterdir()] == [record.path.name]
    assert results.all_results("serving") == [written]
    record.write(effort="smoke")
    assert results.all_results("serving") == []


def test_a_part_of_the_footprint_is_told_by_its_newest_run() -> None:
    """A soak that ran alone stands beside what an earlier run found of the rest, and newer."""
    whole = {"facts": {"push_s": 3.0, "import_s": {"push": 2.0}, "compiled": {}, "soak": "short"}}
    alone = {"facts": {"push_s": 2.5, "import_s": {"push": 2.0}, "soak": "long"}}
    spoken, facts = put_together([whole, alone])
    assert [(each is alone, parts) for each, parts in spoken] == [
        (False, ["compiled"]),
        (True, ["soak"]),
    ]
    assert (facts["soak"], facts["push_s"]) == ("long", 2.5)
    assert put_together([alone])[0] == [(alone, ["soak"])]


def test_a_silence_counts_only_while_somebody_waits() -> None:
    """Nobody asked for a second: that is no stall; half a second without an answer is one."""
    load = Load(requests=[b""], expected=[], read=lambda *_: {}, due_s=[0.0, 1.0, 1.0])
    asked = cast("Connection", SimpleNamespace())
    for number, at in ((0, 0.01), (1, 1.5), (2, 1.51)):
        load.start = time.perf_counter() - at
        load.answered(asked, number, 200, b"")
    assert result(load, rate=1, seconds=2.0, slo_s=0.02)["silent_ms"] == pytest.approx(500, abs=5)


def test_questions_that_were_never_answered_are_the_slowest() -> None:
    """A server that drops two of a hundred has no good p99."""
    load = Load(requests=[], expected=[], read=lambda *_: {}, due_s=[0.0] * 100)
    load.answered_s, load.lost, load.unsent = [0.001] * 98, 1, 1
    told = result(load, rate=100, seconds=1.0, slo_s=0.02)
    assert told["goodput_rps"] == 98
    assert told["p99_ms"] == 1
    assert told["all_p99_ms"] == 1000 * WAIT_S


def test_predicted_stands_beside_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan and a case are told with each figure's prediction, median and spread.

    Plans and cases that were measured in several runs are told together, each by its newest, be it
    one that was cut off.
    """
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    figures = {"cpu_us": 100.0, "mean_ms": 1.0, "p50_ms": 0.5, "p99_ms": 2.0, "table_bytes": 8192}
    shares = {"covered": 1.0, "cached": 0.0}
    rehearsed = {
        "choice": "static",
        "head_keys": 160,
        "cache_entries": 0,
        "replicas": 1,
        "batch_limit": 64,
        "predicted": {**figures, **shares},
        "measured": [{**figures, **shares, "cpu_us": cpu_us} for cpu_us in (90.0, 110.0, 120.0)],
    }
    line = "| static | 160 | 0 | 100, 110 (90-120) | 0.5, 0.5 (0.5-0.5) |"
    flip = {"what": "memory is dear", "expected": ["dynamic"], "choice": "static", "agrees": False}
    case = {
        "case": "divisions",
        "expected": ["static"],
        "choice": "static",
        "agrees": True,
        "reasons": ["Because."],
        "rehearsed": [rehearsed],
        "flips": [flip],
    }
    earlier = [{**case, "choice": "hybrid", "agrees": False}, {**case, "case": "ads"}]
    for at, found, finished in (("1", earlier, True), ("2", [case], False)):
        record = results.Record("cases", effort="brief", cases=found, claims=[], finished=finished)
        record.values["at"] = f"2026-11-0{at}T00:00:00Z"
        record.path = tmp_path / f"cases-{at}.json"
        record.write()
    for at, names in (("1", ["few keys", "many keys"]), ("2", ["many keys"])):
        questions = [
            {"question": name, "costs_month": [1.0], "found": [rehearsed]} for name in names
        ]
        record = results.Record(
            "planning", effort="brief", repeats=3, questions=questions, claims=[], finished=True
        )
        record.values["at"] = f"2026-11-0{at}T00:00:00Z"
        record.path = tmp_path / f"planning-{at}.json"
        record.write()
    page = filled("".join(f"<!-- results: {name} -->\n<!-- end of results -->\n" for name in TOLD))
    assert page.count(line) == 4
    assert "Ads: measured 2026-11-01" in page
    assert "Divisions: measured 2026-11-02" in page
    assert "| cases decided as theory says | ≥ 1 of all | 1 of all | met |" in page
    assert "Few keys: measured 2026-11-01" in page
    assert "Many keys: measured 2026-11-02" in page
    assert "| configurations | ≥ 12  | 2  | **not met** |" in page
    assert "### `divisions`: static, as theory says\n\nBecause." in page
    assert "- memory is dear: static, where theory says dynamic" in page
