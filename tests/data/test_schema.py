from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data.schema import Column, Schema, amend, complete, infer, read_schema
from tidemill.data.statistics import Statistics
from tidemill.foundation.errors import Conflict, InvalidInput, NotFound

_names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@given(
    st.lists(
        st.one_of(
            st.builds(
                Column,
                name=_names,
                type=st.just("int64"),
                required=st.booleans(),
                min=st.none() | st.integers(-(1 << 63), 0),
                max=st.none() | st.floats(0, 1e12),
            ),
            st.builds(
                Column,
                name=_names,
                type=st.just("string"),
                values=st.lists(_names).map(tuple),
                domain_strict=st.booleans(),
                max_missing_fraction=st.none() | st.floats(0, 1),
            ),
        ),
        unique_by=lambda column: column.name,
    )
)
def test_toml_keeps_a_schema(columns: list[Column]) -> None:
    """What is written is read back the same, whatever its names and values."""
    schema = Schema(columns=tuple(columns))
    if columns:
        assert Schema.from_toml(schema.to_toml()) == schema


def test_times_have_ranges() -> None:
    """A TOML time with a zone bounds a timestamp."""
    schema = Schema.from_toml('[columns.t]\ntype = "timestamp"\nmin = 2013-01-01T00:00:00Z\n')
    assert schema.columns[0].min == datetime(2013, 1, 1, tzinfo=UTC)
    assert Schema.from_toml(schema.to_toml()) == schema


@pytest.mark.parametrize(
    "text",
    [
        "not toml",
        "",
        "[column.x]",
        '[columns.x]\ntype = "int"',
        "[columns.x]\nminimum = 1",
        '[columns.x]\ntype = "string"\nmin = 1',
        '[columns.x]\ntype = "int64"\nmin = 2\nmax = 1',
        '[columns.x]\ntype = "int64"\nmin = nan',
        '[columns.x]\ntype = "int64"\nmin = true',
        '[columns.x]\ntype = "timestamp"\nmin = 1',
        '[columns.x]\ntype = "timestamp"\nmin = 2013-01-01T00:00:00',
        '[columns.x]\ntype = "int64"\nvalues = ["a"]',
        '[columns.x]\ntype = "string"\ndomain_strict = true',
        "columns = 1",
        "[columns]\nx = 1",
    ],
)
def test_a_wrong_schema_is_refused(text: str, tmp_path: Path) -> None:
    """What can't be meant is an error that names the file."""
    (tmp_path / "schema.toml").write_text(text)
    with pytest.raises(InvalidInput, match=r"schema\.toml"):
        read_schema(tmp_path / "schema.toml")


def test_a_missing_schema_file_is_said(tmp_path: Path) -> None:
    """A path that leads nowhere is named."""
    with pytest.raises(NotFound, match="nowhere"):
        read_schema(tmp_path / "nowhere.toml")


def test_rules_may_change_and_columns_may_not() -> None:
    """An edit changes the rules of the columns it names; a new column or type is a conflict."""
    frozen = Schema(columns=(Column(name="a", type="int64"), Column(name="b", type="string")))
    edited = amend(frozen, Schema(columns=(Column(name="a", max=5),)))
    assert edited.columns == (Column(name="a", type="int64", max=5), frozen.columns[1])
    with pytest.raises(Conflict, match="'c'"):
        amend(frozen, Schema(columns=(Column(name="c"),)))
    with pytest.raises(Conflict, match="int64"):
        amend(frozen, Schema(columns=(Column(name="a", type="string"),)))
    with pytest.raises(InvalidInput, match="no min or max"):
        amend(frozen, Schema(columns=(Column(name="b", max=5),)))


def test_what_is_declared_comes_before_what_is_inferred() -> None:
    """A partial schema is completed by the file's columns, in the file's order."""
    declared = Schema(columns=(Column(name="b", min=0), Column(name="z", type="bool")))
    whole = complete(declared, {"a": "string", "b": "int64"})
    assert whole.names == ("a", "b", "z")
    assert whole.column("b") == Column(name="b", type="int64", min=0)
    assert whole.column("x") is None


def test_a_domain_is_inferred_from_few_strings_among_many_rows() -> None:
    """Strings with few values get a domain, numbers never a range."""
    statistics = Statistics()
    rows = 200
    statistics.update(
        pa.table(
            {
                "few": ["x", "y"] * (rows // 2),
                "many": [f"v{i}" for i in range(rows)],
                "number": [1, None] * (rows // 2),
            }
        )
    )
    types = {"few": "string", "many": "string", "number": "int64"}
    schema = infer(complete(None, types), statistics.result())  # type: ignore[arg-type]
    few, many, number = schema.columns
    assert few.values == ("x", "y")
    assert not few.domain_strict
    assert many.values is None
    assert (number.min, number.max, number.max_missing_fraction) == (None, None, 1.0)
