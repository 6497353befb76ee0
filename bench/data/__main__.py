"""Statistics and validation of Parquet beside the bare query, and beside others.

    python -m bench.data [--smoke | --quick | --brief] [--repeats N]

Twenty mixed columns. The bare query, ours, ydata-profiling in its minimal mode and TensorFlow Data
Validation (statistics) and Great Expectations (the same checks) run in turns, each in a process of
its own that reads the file; seconds are without imports. Others get fewer rows, and ours as many
beside them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from bench.data.opening import opening_s, write_page
from bench.data.rows import write_rows
from bench.effort import parse_effort
from bench.peers import install
from bench.results import Record, claim, claims_table, say
from bench.servers import ROOT, BenchmarkFailed

from tidemill.data.casting import type_of
from tidemill.data.schema import Schema, complete, infer
from tidemill.data.statistics import describe

ROWS = {"smoke": 20_000, "quick": 1_000_000, "brief": 10_000_000, "full": 10_000_000}
FEW_ROWS = {"smoke": 10_000, "quick": 100_000, "brief": 1_000_000, "full": 1_000_000}
PEERS = ("ydata", "tfdv", "expectations")
WAYS = {"tfdv": ("tfdv", "tfdv_beam")}
"""What a peer is asked to do, where that is not one thing of its name."""
LIMIT_S = 1_800


def main() -> None:
    """Runs the benchmark, prints the claims, and says where the figures are."""
    effort, _ = parse_effort("bench.data", __doc__)
    rows, few = ROWS[effort.name], FEW_ROWS[effort.name]
    left_out = {name: why for name in PEERS if (why := _absent(name, effort.name))}
    record = Record(
        "data",
        effort=effort.name,
        repeats=effort.repeats,
        rows=rows,
        few_rows=few,
        left_out=left_out,
        turns=[],
        finished=False,
    )
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as made:
            work = Work(Path(made), rows, few)
            for turn in range(effort.repeats):
                record.values["turns"].append(work.turn([p for p in PEERS if p not in left_out]))
                record.write(claims=claims(record.values["turns"]))
                found = record.values["turns"][-1]
                say(
                    f"  turn {turn + 1}: " + ", ".join(f"{k} {_brief(v)}" for k, v in found.items())
                )
    except (BenchmarkFailed, subprocess.SubprocessError) as error:
        sys.exit(f"bench.data: {error}")
    record.write(finished=True)
    print(claims_table(record.values["claims"]))
    say(f"written to {record.path}")


def claims(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns what is claimed of the turns, medians of ratios within each."""

    def ratio(above: str, below: str, part: str = "seconds") -> float | None:
        both = [t[above]["seconds"] / t[below][part] for t in turns if above in t]
        return statistics.median(both) if both else None

    slower = statistics.median(t["ours"]["seconds"] / t["bare"]["seconds"] for t in turns)
    peak = max(t["ours"]["peak_bytes"] for t in turns)
    grown = statistics.median(t["ours"]["peak_bytes"] / t["ours_few"]["peak_bytes"] for t in turns)
    opened = [t["opening"]["seconds"] for t in turns if t["opening"]["seconds"] is not None]
    opening = statistics.median(opened) if opened else None
    return [
        claim("statistics and validation / bare query", slower, "<=", 1.5),
        claim("peak memory", peak / 1e6, "<=", 1500, "MB"),
        claim("peak memory / that with fewer rows", grown, "<=", 1.25),
        claim("ydata-profiling / statistics", ratio("ydata", "ours_few", "statistics_s"), ">=", 10),
        *(
            claim(f"TFDV {how} / statistics", ratio(way, "ours_few", "statistics_s"), ">=", 10)
            for way, how in (("tfdv_beam", "by Beam"), ("tfdv", "in memory"))
        ),
        claim(
            "Great Expectations / validation",
            ratio("expectations", "ours_few", "validation_s"),
            ">=",
            10,
        ),
        claim("Chromium opens 500 columns", opening, "<=", 2, "s"),
    ]


class Work:
    """The files, and what is run over them."""

    def __init__(self, folder: Path, rows: int, few: int) -> None:
        self._folder = folder
        self._rows, self._few = folder / "rows.parquet", folder / "few.parquet"
        self._schema, self._checks = folder / "schema.toml", folder / "checks.json"
        write_rows(self._rows, rows)
        write_rows(self._few, few)
        arrow = pq.read_schema(self._few)
        types = {field.name: type_of(field.type) for field in arrow}
        schema = infer(complete(None, types), describe(self._few).result(), ranges=True)
        self._schema.write_text(schema.to_toml(), encoding="utf-8")
        self._checks.write_text(json.dumps(list(checks(schema))), encoding="utf-8")
        write_page(folder / "report.html")

    def turn(self, peers: Sequence[str]) -> dict[str, Any]:
        """Runs everything once."""
        ours = [sys.executable, "-m", "bench.data.ours"]
        found = {
            "bare": _said([sys.executable, "-m", "bench.data.bare", str(self._rows)]),
            "ours": _said([*ours, str(self._rows), str(self._schema)]),
            "ours_few": _said([*ours, str(self._few), str(self._schema)]),
        }
        script = str(ROOT / "bench" / "data" / "beside.py")
        for name, way in ((peer, way) for peer in peers for way in WAYS.get(peer, (peer,))):
            given = [str(self._few)] + ([str(self._checks)] if name == "expectations" else [])
            found[way] = _said([str(install.binary(name)), script, way, *given])
        page = self._folder / "report.html"
        found["opening"] = {"seconds": opening_s(page, self._folder)}
        return found


def checks(schema: Schema) -> Iterator[dict[str, Any]]:
    """Yields the rules of a schema as Great Expectations has them."""
    for column in schema.columns:
        named = {"column": column.name}
        if column.max_missing_fraction is not None:
            most = 1 - column.max_missing_fraction
            yield {"expect": "ExpectColumnValuesToNotBeNull", "mostly": most, **named}
        if column.type in ("int64", "float64") and column.min is not None:
            ends = {"min_value": column.min, "max_value": column.max}
            yield {"expect": "ExpectColumnValuesToBeBetween", **ends, **named}
        if column.values is not None:
            values = {"value_set": list(column.values)}
            yield {"expect": "ExpectColumnValuesToBeInSet", **values, **named}


def _absent(name: str, level: str) -> str | None:
    return "the smoke level asks no others" if level == "smoke" else install.install(name)


def _said(command: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    if done.returncode != 0:
        raise BenchmarkFailed(f"{' '.join(command[:3])} failed: {done.stderr[-600:]}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def _brief(found: dict[str, Any]) -> str:
    return "not measured" if found["seconds"] is None else f"{found['seconds']:.2f} s"


if __name__ == "__main__":
    main()
