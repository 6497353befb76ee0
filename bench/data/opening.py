"""How long Chromium needs to open and paint the report of five hundred columns."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from tidemill.data.records import Counts, Snapshot
from tidemill.data.report_page import Report, report_page
from tidemill.data.statistics import describe

NUMBERS, TEXTS, ROWS = 350, 150, 20_000


def write_page(path: Path) -> int:
    """Writes the report of five hundred columns beside an earlier snapshot; returns its bytes."""
    sides = [describe(_table(seed)).result() for seed in (0, 1)]
    snapshot = Snapshot(
        id="0" * 16,
        dataset="wide",
        sequence=1,
        schema_sha256="0" * 64,
        files=(),
        sources=(),
        counts=Counts(received=ROWS, accepted=ROWS),
        statistics_key="",
        created_at=0.0,
    )
    report = Report(
        snapshot=snapshot,
        statistics=sides[0],
        anomalies=(),
        held=(),
        against=snapshot,
        before=sides[1],
    )
    return path.write_bytes(report_page(report).encode())


def opening_s(page: Path, folder: Path) -> float | None:
    """Returns the seconds that the page needs more than an empty one; None without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return None
    empty = folder / "empty.html"
    empty.write_text("<p>.", encoding="utf-8")
    browser = [chromium, "--headless", "--no-sandbox", "--disable-gpu"]
    browser += [f"--user-data-dir={folder / 'browser'}", f"--screenshot={folder / 'seen.png'}"]
    took = {}
    for path in (empty, empty, page):  # the first makes the browser's own folders
        begun = time.perf_counter()
        subprocess.run([*browser, path.as_uri()], capture_output=True, check=True, timeout=60)
        took[path] = time.perf_counter() - begun
    return max(took[page] - took[empty], 0.0)


def _table(seed: int) -> pa.Table:
    draw = np.random.default_rng(seed)
    values = [f"value {at}" for at in range(30)]
    numbers = {f"n{at}": draw.normal(seed, 1 + seed, ROWS) for at in range(NUMBERS)}
    return pa.table(numbers | {f"t{at}": draw.choice(values, ROWS) for at in range(TEXTS)})
