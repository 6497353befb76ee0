"""Counts false alarms and shifts found, and checks a million rows beside Evidently.

    python -m bench.drift [--smoke | --quick | --brief] [--repeats N]

Ours reads the rows from Parquet and has a frozen reference; Evidently has both in memory, which
is not counted. Evidently is installed first, into an environment of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench.drift.alarms import compared, false_alarms, tell
from bench.drift.rows import fifty
from bench.effort import parse_effort
from bench.peers import install
from bench.results import Record, claim, claims_table, say

from tidemill.data.drift.reference import count, freeze
from tidemill.data.drift.verdict import judge

PEER = "libraries/evidently"
PEER_S = 3600
ROWS = {"smoke": 20_000, "quick": 1_000_000, "brief": 1_000_000, "full": 1_000_000}
TIMES: dict[str, dict[int, int]] = {
    "smoke": {100: 5, 1000: 5},
    "quick": {100: 200, 1000: 200, 1_000_000: 3},
    "brief": {100: 200, 1000: 200, 1_000_000: 10},
    "full": {100: 200, 1000: 200, 1_000_000: 200},
}
SHIFTS = {"smoke": 3, "quick": 50, "brief": 100, "full": 200}
MOST_ALARMS = 4


def main() -> None:
    """Runs the benchmark, prints the claims, and says where the figures are."""
    effort, _ = parse_effort("bench.drift", __doc__)
    rows = ROWS[effort.name]
    record = Record(
        "drift", effort=effort.name, repeats=effort.repeats, rows=rows, turns=[], finished=False
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        paths = [Path(made) / name for name in ("reference.parquet", "current.parquet")]
        for seed, path in enumerate(paths):
            pq.write_table(_table(np.random.default_rng(seed), rows), path, compression="zstd")
        for turn in range(effort.repeats):
            ours = _ours(*paths)
            peer = _evidently(*paths) if turn == 0 else record.values["turns"][0]["evidently"]
            record.values["turns"].append({"ours": ours, "evidently": peer})
            record.write()
            say(f"  turn {turn + 1}: {ours}; Evidently {peer}")
    alarms = {}
    for size, times in TIMES[effort.name].items():
        found = false_alarms(size, times, progress=partial(tell, size))
        say(f"  {size:,} rows: {found['raised']} of {times} raised an alarm {found['columns']}")
        alarms[size] = found
        record.write(false_alarms={str(k): v for k, v in alarms.items()})
    shifts = _shifts(SHIFTS[effort.name])
    claims = _claims(record.values["turns"], alarms, shifts)
    record.write(shifts=shifts, claims=claims, finished=True)
    print(claims_table(record.values["claims"]))
    say(f"written to {record.path}")


def _table(rng: np.random.Generator, rows: int) -> pa.Table:
    return pa.table(fifty(rng, rows))


def _ours(reference: Path, current: Path) -> dict[str, Any]:
    began = time.perf_counter()
    frozen = freeze([reference])
    froze = time.perf_counter()
    report = judge(frozen, count(frozen, [current]))
    done = time.perf_counter()
    return {"freeze_s": froze - began, "check_s": done - froze, "drifted": len(report.alarms)}


def _evidently(reference: Path, current: Path) -> dict[str, Any]:
    """Measures it once: it takes long. Returns the reason if it could not be measured."""
    reason = install.install(PEER)
    if reason is not None:
        return {"reason": reason}
    command = [
        str(install.binary(PEER)),
        str(Path(__file__).with_name("evidently_drift.py")),
        str(reference),
        str(current),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PEER_S)
    except subprocess.TimeoutExpired:
        return {"reason": f"it took longer than {PEER_S} s"}
    if done.returncode:
        return {"reason": f"it failed: {done.stderr[-600:]}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _shifts(times: int, rows: int = 10_000) -> dict[str, int]:
    """Shifts one column of fifty by a fifth of its standard deviation, and looks for it."""
    rng = np.random.default_rng(5)
    found = others = 0
    for _ in range(times):
        moved = fifty(rng, rows)
        moved["normal3"] = moved["normal3"] + 0.2 * 4
        alarms = set(compared(_table(rng, rows), pa.table(moved)).alarms)
        found += "normal3" in alarms
        others += bool(alarms - {"normal3"})
    say(f"  {rows:,} rows: {found} of {times} shifts found, {others} with an alarm elsewhere")
    return {"times": times, "found": found, "others": others}


def _claims(
    turns: list[dict[str, Any]], alarms: dict[int, dict[str, Any]], shifts: dict[str, int]
) -> list[dict[str, Any]]:
    check_s = statistics.median(turn["ours"]["check_s"] for turn in turns)
    peer_s = turns[0]["evidently"].get("s")
    claims = [
        claim("check of 1,000,000 rows x 50 columns", check_s, "<=", 3.0, "s"),
        claim("check / Evidently", None if peer_s is None else peer_s / check_s, ">=", 20.0),
        claim("0.2 deviations found at 10,000 rows", shifts["found"] / shifts["times"], ">=", 1.0),
    ]
    for rows, found in alarms.items():
        what = f"false alarms, {rows:,} rows, of {found['times']}"
        claims.append(claim(what, found["raised"], "<=", MOST_ALARMS, ""))
    return claims


if __name__ == "__main__":
    main()
