"""Evidently's drift report of two Parquet files; run in Evidently's environment.

    python evidently_drift.py REFERENCE CURRENT

Prints the seconds of the report alone, the frames being in memory, and the drifted columns.
"""

from __future__ import annotations

import json
import sys
import time

import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset


def main() -> None:
    """Measures once and prints one JSON object."""
    reference, current = (pd.read_parquet(path) for path in sys.argv[1:3])
    began = time.perf_counter()
    found = Report([DataDriftPreset()]).run(current, reference).dict()
    took_s = time.perf_counter() - began
    drifted = next(
        metric["value"]["count"]
        for metric in found["metrics"]
        if isinstance(metric["value"], dict) and "count" in metric["value"]
    )
    print(json.dumps({"s": took_s, "drifted": drifted}))


if __name__ == "__main__":
    main()
