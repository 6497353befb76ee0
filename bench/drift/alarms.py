"""How often rows raise an alarm against others of the same distribution, on both cores.

    python -m bench.drift.alarms ROWS TIMES

Each comparison draws its rows from a seed of its own: whatever runs beside it, the same ones raise
an alarm.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import pyarrow as pa
from bench.drift.rows import fifty
from bench.results import say

from tidemill.data.drift.reference import count, freeze
from tidemill.data.drift.verdict import DriftReport, judge

PROCESSES = 2


def compared(first: pa.Table, second: pa.Table) -> DriftReport:
    """Returns what has drifted from one table to another; every column is compared."""
    reference = freeze(first)
    report = judge(reference, count(reference, second))
    assert not report.errors
    assert len(report.columns) == len(first.column_names)
    return report


def false_alarms(
    rows: int, times: int, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Compares rows with others of the same distribution, so many times.

    Args:
        rows: of each of the two tables, which are all that a process holds.
        times: how many comparisons.
        progress: told how many are done, and of how many.
    """
    began = time.perf_counter()
    columns: list[str] = []
    raised = 0
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        for done, alarms in enumerate(pool.map(partial(_alarms, rows), range(times)), 1):
            raised += bool(alarms)
            columns += alarms
            if progress is not None:
                progress(done, times)
    took_s = time.perf_counter() - began
    return {"times": times, "raised": raised, "columns": columns, "seconds": took_s}


def tell(rows: int, done: int, times: int) -> None:
    """Says every tenth how far it is."""
    if done % max(1, times // 10) == 0:
        say(f"  {rows:,} rows: {done} of {times} compared")


def _alarms(rows: int, number: int) -> list[str]:
    draw = np.random.default_rng([rows, number])
    first, second = (pa.table(fifty(draw, rows)) for _ in range(2))
    return compared(first, second).alarms


if __name__ == "__main__":
    many, often = map(int, sys.argv[1:3])
    print(false_alarms(many, often, progress=partial(tell, many)))
