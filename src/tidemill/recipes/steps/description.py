"""StatisticsGen, SchemaGen and ExampleValidator: what examples look like, and should."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from tidemill.data.records import DatasetOptions
from tidemill.data.schema import Schema, complete, infer
from tidemill.data.statistics import describe
from tidemill.data.validation import compare, infer_types, validate
from tidemill.foundation.errors import DataRefused
from tidemill.recipes.steps.examples import EVALUATION, TRAIN
from tidemill.recipes.steps.reports import ExampleReport, SplitStatistics


def statistics_gen(examples: Path) -> SplitStatistics:
    """Describes each split in one pass."""
    return SplitStatistics(
        train=describe(examples / TRAIN).result(),
        evaluation=describe(examples / EVALUATION).result(),
    )


def schema_gen(examples: Path, statistics: SplitStatistics) -> Schema:
    """Infers what rows look like from the training split."""
    types = infer_types(pq.read_table(examples / TRAIN), DatasetOptions())
    return infer(complete(None, types), statistics.train)


def example_validator(examples: Path, statistics: SplitStatistics, schema: Schema) -> ExampleReport:
    """Judges the evaluation split by the training split's schema.

    Raises:
        DataRefused: the splits do not look like the same data.
    """
    table = pq.read_table(examples / EVALUATION)
    judged = validate(table, schema, DatasetOptions())
    found = (*judged.anomalies, *compare(schema, statistics.evaluation))
    errors = [each for each in found if each.severity == "error"]
    if errors:
        raise DataRefused(
            f"the evaluation split does not fit the training split: {errors[0].message}",
            remedy="Look at the dataset's newest snapshot, and at its quarantine.",
        )
    return ExampleReport(rows=table.num_rows, anomalies=found)
