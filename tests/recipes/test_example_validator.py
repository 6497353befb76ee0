"""Two splits of one dataset fit a schema, or the run ends with the reason."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.data.schema import Schema
from tidemill.foundation.errors import DataRefused
from tidemill.recipes.steps.description import example_validator, schema_gen, statistics_gen
from tidemill.recipes.steps.examples import EVALUATION, TRAIN
from tidemill.recipes.steps.reports import ExampleReport


def _judged(folder: Path, train: pa.Table, evaluation: pa.Table) -> tuple[Schema, ExampleReport]:
    pq.write_table(train, folder / TRAIN)
    pq.write_table(evaluation, folder / EVALUATION)
    statistics = statistics_gen(folder)
    schema = schema_gen(folder, statistics)
    return schema, example_validator(folder, statistics, schema)


def test_what_a_split_shows_by_chance_is_told(tmp_path: Path) -> None:
    """A new word, no value in few rows, a text that looks like a number: none refuses the data."""
    train = pa.table({"word": ["a", "b"] * 60, "rare": [1, *[None] * 119], "zip": ["02139"] * 120})
    evaluation = pa.table(
        {"word": ["a", "new"], "rare": pa.nulls(2, pa.int64()), "zip": ["02139", "x"]}
    )
    schema, report = _judged(tmp_path, train, evaluation)
    assert {one.name: one.type for one in schema.columns} == {
        "word": "string",
        "rare": "int64",
        "zip": "string",
    }
    assert report.rows == 2
    told = {(one.column, one.kind, one.severity) for one in report.anomalies}
    assert told == {
        ("word", "ENUM_TYPE_UNEXPECTED_STRING_VALUES", "warning"),
        ("rare", "FEATURE_TYPE_NOT_PRESENT", "warning"),
        ("zip", "INT_TYPE_NOT_INT_STRING", "warning"),
    }


@pytest.mark.parametrize(
    ("evaluation", "why"),
    [
        (pa.table({"x": [1.5]}), "column y is in the schema and not in the rows"),
        (pa.table({"x": [1.5], "y": ["a"]}), "y is string; int64 is expected"),
    ],
)
def test_splits_of_other_columns_are_refused(
    tmp_path: Path, evaluation: pa.Table, why: str
) -> None:
    """They can't be of the same data."""
    train = pa.table({"x": [0.5, 1.0], "y": [1, 2]})
    with pytest.raises(DataRefused, match=why):
        _judged(tmp_path, train, evaluation)
