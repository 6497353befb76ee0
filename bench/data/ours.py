"""Ours: statistics of every column, then validation by a schema, which they spare reading rows.

Validation alone, as of rows whose statistics nobody has, is timed apart.

python -m bench.data.ours FILE SCHEMA
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from tidemill.data.conformance import check
from tidemill.data.schema_files import read_schema
from tidemill.data.statistics import describe


def run_ours(path: Path, schema: Path) -> dict[str, Any]:
    """Describes and validates once; returns the seconds of both and what was found."""
    rules = read_schema(schema)
    begun = time.perf_counter()
    statistics = describe(path).result()
    described = time.perf_counter()
    report = check([path], rules, statistics=statistics)
    done = time.perf_counter()
    alone = check([path], rules)
    if alone != report:
        raise SystemExit("validation by statistics differs from that of rows")
    return {
        "seconds": done - begun,
        "statistics_s": described - begun,
        "validation_s": time.perf_counter() - done,
        "columns": len(statistics.columns),
        "anomalies": len(report.anomalies),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    print(json.dumps(run_ours(*map(Path, sys.argv[1:]))))
