"""Schemas go to pandera and come back, and judge the same rows alike."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from typing import Any

import pytest

from tidemill.data.conformance import check
from tidemill.data.pandera_schema import Library, from_pandera, to_pandera
from tidemill.data.schema import Column, Comparator, Schema
from tidemill.foundation.errors import InvalidInput

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pandas as pd
    import pandera.pandas as pandera
    import polars as pl

SCHEMA = Schema(
    columns=(
        Column(name="age", type="int64", required=True, min=0, max=99, unique=True),
        Column(name="x", type="float64", min=0.5, max_missing_fraction=0.1, allow_nan=True),
        Column(name="kind", type="string", values=("a", "b"), domain_strict=True),
        Column(name="soft", type="string", values=("a",), drift=Comparator(l_infinity=0.1)),
        Column(name="code", type="string", pattern="[a-z]{2}", required=True),
        Column(name="number", type="string", domain="int", min=1, max=5),
        Column(name="when", type="timestamp", min=datetime(2020, 1, 1, tzinfo=UTC)),
        Column(name="label", type="bool", min_count=0, not_in_environment=("serving",)),
    ),
    default_environment=("training", "serving"),
    severities={"SCHEMA_NEW_COLUMN": "error"},
)
GOOD: dict[str, list[Any]] = {
    "age": [1, 2],
    "x": [0.5, None],
    "kind": ["a", None],
    "soft": ["a", "a"],
    "code": ["ab", "cd"],
    "number": ["1", "5"],
    "when": [datetime(2021, 1, 1, tzinfo=UTC)] * 2,
    "label": [True, False],
}
BAD: dict[str, list[Any]] = {
    "age": [1, 100],
    "x": [0.4, 1.0],
    "kind": ["a", "c"],
    "code": ["ab", "abc"],
    "when": [datetime(2019, 1, 1, tzinfo=UTC)] * 2,
}


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_schema_comes_back_as_it_went(library: Library) -> None:
    """Also what pandera has no word for."""
    assert from_pandera(to_pandera(SCHEMA, library=library)) == SCHEMA
    serving = to_pandera(SCHEMA, library=library, environment="serving")
    assert "label" not in serving.columns


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("column", [None, *BAD])
def test_pandera_judges_alike(library: Library, column: str | None) -> None:
    """The rows that we take it takes, and those that we don't it doesn't."""
    rows = {**GOOD, **({column: BAD[column]} if column else {})}
    frame = pl.DataFrame(rows)
    schema = to_pandera(SCHEMA, library=library)
    ours = [name for name, _ in check(frame, SCHEMA).kinds()]
    judged = frame if library == "polars" else _pandas(frame)
    if column is None:
        schema.validate(judged)
        assert ours == ["x"]  # a half is missing: pandera has no such rule
        return
    assert column in ours
    with pytest.raises(pandera.errors.SchemaError, match=f"'{column}'") as raised:
        schema.validate(judged)
    assert "regex" not in str(raised.value)


def _pandas(frame: pl.DataFrame) -> pd.DataFrame:
    kinds = {"age": "Int64", "x": "float64", "when": "datetime64[us, UTC]", "label": "boolean"}
    made = pd.DataFrame(frame.to_dict(as_series=False))
    return made.astype({name: kinds.get(name, "string") for name in made.columns})


def test_what_pandera_says_is_read() -> None:
    """Ranges that leave their ends out, equal values, patterns at the beginning, strictness."""
    theirs = pandera.DataFrameSchema(
        {
            "a": pandera.Column(int, [pandera.Check.gt(0), pandera.Check.in_range(-5, 9)]),
            "b": pandera.Column(str, pandera.Check.str_matches("ab"), nullable=True),
            "c": pandera.Column(float, pandera.Check.lt(1.0), nullable=True, required=False),
            "d": pandera.Column(str, [pandera.Check.isin(["x", "y"]), pandera.Check.equal_to("y")]),
            "e": pandera.Column("datetime64[ns]", pandera.Check.ge(pd.Timestamp("2020-01-01"))),
        },
        unique="a",
        strict=True,
    )
    schema = from_pandera(theirs)
    assert schema.columns == (
        Column(name="a", type="int64", required=True, min=1, max=9, unique=True),
        Column(name="b", type="string", pattern="(?:ab)(?s:.*)"),
        Column(name="c", type="float64", max=0.9999999999999999, min_count=0),
        Column(name="d", type="string", required=True, values=("y",), domain_strict=True),
        Column(name="e", type="timestamp", required=True, min=datetime(2020, 1, 1, tzinfo=UTC)),
    )
    assert schema.severities == {"SCHEMA_NEW_COLUMN": "error"}


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        (None, "no pandera schema"),
        (pandera.DataFrameSchema({"a": pandera.Column(int, pandera.Check(bool))}), "check"),
        (pandera.DataFrameSchema({"a.*": pandera.Column(int, regex=True)}), "pattern"),
        (pandera.DataFrameSchema({"a": pandera.Column(complex)}), "type complex"),
        (pandera.DataFrameSchema({"a": pandera.Column(int, required=False)}), "may be absent"),
        (pandera.DataFrameSchema({}, index=pandera.Index(int)), "an index"),
        (pandera.DataFrameSchema({}, checks=pandera.Check(bool)), "whole frame"),
        (pandera.DataFrameSchema({}, unique=["a", "b"]), "unique together"),
        (pandera.DataFrameSchema({"a": pandera.Column(str, pandera.Check.gt("a"))}), "string"),
        (
            pandera.DataFrameSchema({"a": pandera.Column(str, pandera.Check.str_matches("(?=a)"))}),
            "no regular expression",
        ),
    ],
)
def test_what_has_no_counterpart_is_refused(theirs: Any, says: str) -> None:
    """By its name, and never dropped."""
    with pytest.raises(InvalidInput, match=says):
        from_pandera(theirs)


def test_what_pandera_cannot_hold_is_refused() -> None:
    """Lists, columns without a type, libraries that nobody knows."""
    for column in (Column(name="a"), Column(name="a", type="int64", max_values=2)):
        with pytest.raises(InvalidInput, match="'a'"):
            to_pandera(Schema(columns=(column,)))
    with pytest.raises(InvalidInput, match="spark"):
        to_pandera(SCHEMA, library="spark")  # type: ignore[arg-type]
