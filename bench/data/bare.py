"""The bare query: what DuckDB alone needs for the same statistics, in one pass over the file.

    python -m bench.data.bare FILE

Fixed before the statistics were tuned. It is what a person would write for each column: rows,
missing, distinct (a sketch), extremes, mean, deviation, quantiles (a sketch), zeros, the lengths of
texts, the twenty most frequent values (a sketch). It validates nothing, and it draws no histogram
of numbers: for one of equal width the range has to be known, so a second query would read the file
again; the quantiles are asked at 21 points, which stand for one.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import duckdb
import pyarrow.parquet as pq

QUANTILES = [round(i / 20, 2) for i in range(21)]
TOP = 20
NUMBERS = ("int", "double", "float", "timestamp")


def bare_query(path: str) -> str:
    """Returns the query over a Parquet file."""
    parts = ["count(*) AS rows"]
    for field in pq.read_schema(path):
        kind, name = str(field.type), '"' + field.name.replace('"', '""') + '"'
        if kind.startswith("timestamp"):
            name = f"epoch_us({name})"
        asked = [f"count({name})", f"min({name})", f"max({name})"]
        asked += [f"approx_count_distinct({name})", f"approx_top_k({name}, {TOP})"]
        if kind.startswith(NUMBERS):
            asked += [f"avg({name})", f"stddev_samp({name})"]
            asked += [f"approx_quantile({name}, {QUANTILES})", f"count_if({name} = 0)"]
        elif kind == "bool":
            asked += [f"avg({name}::INT)"]
        else:
            asked += [f"{f}(length({name}))" for f in ("min", "max", "avg")]
        parts += asked
    return f"SELECT {', '.join(parts)} FROM read_parquet('{path.replace(chr(39), chr(39) * 2)}')"


def run_bare(path: str, *, threads: int = 2) -> dict[str, Any]:
    """Runs the query once in a fresh DuckDB and returns its seconds and its columns."""
    with duckdb.connect(config={"threads": threads}) as on:
        begun = time.perf_counter()
        row = on.execute(bare_query(path)).fetchone()
        return {"seconds": time.perf_counter() - begun, "aggregates": len(row or ())}


if __name__ == "__main__":
    print(json.dumps(run_bare(sys.argv[1])))
