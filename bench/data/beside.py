"""What others need for the same: run by the Python of their own environment, without ours.

    python beside.py ydata FILE          statistics, ydata-profiling in its minimal mode
    python beside.py tfdv FILE           statistics, TensorFlow Data Validation over a pandas frame
    python beside.py expectations FILE CHECKS    validation, Great Expectations over pandas

Reading the file counts, as it does for ours; imports don't. No page is drawn.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def ydata(path: str) -> int:
    """Describes each column; returns how many."""
    import pandas as pd  # noqa: PLC0415
    from ydata_profiling import ProfileReport  # noqa: PLC0415

    _begin()
    report = ProfileReport(pd.read_parquet(path), minimal=True, progress_bar=False)
    return len(report.get_description().variables)


def tfdv(path: str) -> int:
    """Describes each column on one core, in memory, its fastest way; returns how many.

    A process for each core is slower at a million rows. Columns of times are left out of a frame.
    """
    import pandas as pd  # noqa: PLC0415
    import tensorflow_data_validation as tfdv  # noqa: PLC0415

    _begin()
    found = tfdv.generate_statistics_from_dataframe(pd.read_parquet(path))
    return len(found.datasets[0].features)


def expectations(path: str, checks: str) -> int:
    """Judges the rows by rules that are those of our schema; returns how many there are."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415

    rules = json.loads(Path(checks).read_text(encoding="utf-8"))
    context = gx.get_context(mode="ephemeral")
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    definition = asset.add_batch_definition_whole_dataframe("rows")
    suite = gx.ExpectationSuite(name="rules")
    for rule in rules:
        suite.add_expectation(getattr(gx.expectations, rule.pop("expect"))(**rule))
    _begin()
    batch = definition.get_batch(batch_parameters={"dataframe": pd.read_parquet(path)})
    return len(batch.validate(suite, result_format="SUMMARY").results)


_begun = [0.0]


def _begin() -> None:
    _begun[0] = time.perf_counter()


if __name__ == "__main__":
    _, which, *given = sys.argv
    found = {"ydata": ydata, "tfdv": tfdv, "expectations": expectations}[which](*given)
    print(json.dumps({"seconds": time.perf_counter() - _begun[0], "found": found}))
