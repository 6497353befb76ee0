"""StatisticsGen, SchemaGen and ExampleValidator: what examples look like, and should."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from tidemill.data.anomaly_kinds import DETECTED, Gravity
from tidemill.data.conformance import check
from tidemill.data.schema import Schema, complete, infer
from tidemill.data.statistics import describe
from tidemill.data.validation import types_of
from tidemill.foundation.errors import DataRefused
from tidemill.recipes.steps.examples import EVALUATION, TRAIN
from tidemill.recipes.steps.reports import ExampleReport, SplitStatistics

SHAPE = ("SCHEMA_MISSING_COLUMN", "UNEXPECTED_DATA_TYPE", "NO_DATA_IN_SPAN")
"""What two splits of the same rows can differ in only by mistake."""

BY_CHANCE: dict[str, Gravity] = {
    kind: "warning"
    for kind, gravity in DETECTED.items()
    if gravity == "error" and kind not in SHAPE
}
"""What a small split may break by chance, and what the gate has judged: told, and not refused."""


def statistics_gen(examples: Path) -> SplitStatistics:
    """Describes each split in one pass."""
    return SplitStatistics(
        train=describe(examples / TRAIN).result(),
        evaluation=describe(examples / EVALUATION).result(),
    )


def schema_gen(examples: Path, statistics: SplitStatistics) -> Schema:
    """Infers what rows look like from the training split: its columns' types and statistics.

    Raises:
        InvalidInput: a column is nested or binary.
    """
    types = types_of(pq.read_schema(examples / TRAIN))
    return infer(complete(None, types), statistics.train)


def example_validator(examples: Path, statistics: SplitStatistics, schema: Schema) -> ExampleReport:
    """Judges the evaluation split by the training split's schema, from its statistics.

    Rows are read only for a rule that the statistics don't show to be kept.

    Raises:
        DataRefused: the splits do not look like the same data.
    """
    judged = check(
        examples / EVALUATION,
        msgspec.structs.replace(schema, severities={**BY_CHANCE, **schema.severities}),
        statistics=statistics.evaluation,
    )
    errors = [each for each in judged.anomalies if each.severity == "error"]
    if errors:
        raise DataRefused(
            f"the evaluation split does not fit the training split: {errors[0].message}",
            remedy="Look at the dataset's newest snapshot, and at its quarantine.",
        )
    return ExampleReport(rows=judged.rows, anomalies=judged.anomalies)
