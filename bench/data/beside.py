"""What others need for the same: run by the Python of their own environment, without ours.

    python beside.py ydata FILE          statistics, ydata-profiling in its minimal mode
    python beside.py tfdv FILE           statistics, TensorFlow Data Validation over a pandas frame
    python beside.py tfdv_beam FILE      the same from the file in batches, by a pipeline of Beam's
    python beside.py expectations FILE CHECKS    validation, Great Expectations over pandas

Reading the file counts, as it does for ours; imports don't. No page is drawn.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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


def tfdv_beam(path: str) -> int:
    """Describes each column in bounded memory, in a process for each core; returns how many.

    TFX's StatisticsGen runs the same transform; it reads examples of TensorFlow's, and this Arrow's
    batches, without that detour.
    """
    import apache_beam as beam  # noqa: PLC0415
    import tensorflow_data_validation as tfdv  # noqa: PLC0415
    from apache_beam.options.pipeline_options import PipelineOptions  # noqa: PLC0415

    cores = f"--direct_num_workers={os.cpu_count()}"
    options = PipelineOptions([cores, "--direct_running_mode=multi_processing"])
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        out = str(Path(made) / "statistics.pb")
        _begin()
        with beam.Pipeline(options=options) as pipeline:
            rows = pipeline | beam.io.ReadFromParquetBatched(path) | beam.FlatMap(_listed)
            _ = rows | tfdv.GenerateStatistics() | tfdv.WriteStatisticsToBinaryFile(out)
        return len(tfdv.load_stats_binary(out).datasets[0].features)


def _listed(table: Any) -> Iterator[Any]:
    """Yields rows as TFDV takes them: each value a list; times are left out, flags are numbers."""
    import numpy as np  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415

    for batch in table.combine_chunks().to_batches():
        columns = {}
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            if not pa.types.is_timestamp(values.type):
                there = np.cumsum(np.asarray(values.is_valid()))
                starts = pa.array(np.concatenate([[0], there]), pa.int64())
                kept = values.drop_null()
                kept = kept.cast(pa.int8()) if pa.types.is_boolean(kept.type) else kept
                columns[name] = pa.LargeListArray.from_arrays(starts, kept)
        yield pa.RecordBatch.from_arrays([*columns.values()], [*columns])


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
    ways = {"ydata": ydata, "tfdv": tfdv, "tfdv_beam": tfdv_beam, "expectations": expectations}
    found = ways[which](*given)
    print(json.dumps({"seconds": time.perf_counter() - _begun[0], "found": found}))
