from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data.anomaly_kinds import DETECTED, FORMER
from tidemill.data.records import Anomaly
from tidemill.data.schema import Column, Schema, amend, complete, infer
from tidemill.data.schema_files import read_schema
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


def test_a_schema_that_was_stored_before_is_read() -> None:
    """A record of an older version, which knew fewer rules, is the schema it was."""
    stored = (
        b'{"columns":[{"name":"s","type":"string","required":false,"min":null,"max":null,'
        b'"values":["a","b"],"domain_strict":true,"max_missing_fraction":0.05},'
        b'{"name":"t","type":"timestamp","required":true,"min":"2013-01-01T00:00:00Z",'
        b'"max":null,"values":null,"domain_strict":false,"max_missing_fraction":null}]}'
    )
    schema = msgspec.json.decode(stored, type=Schema)
    assert schema.columns == (
        Column(
            name="s",
            type="string",
            values=("a", "b"),
            domain_strict=True,
            max_missing_fraction=0.05,
        ),
        Column(name="t", type="timestamp", required=True, min=datetime(2013, 1, 1, tzinfo=UTC)),
    )
    assert msgspec.json.decode(msgspec.json.encode(schema), type=Schema) == schema


def test_an_anomaly_that_was_stored_before_has_its_name_of_today() -> None:
    """Words of older ingests are read as TFX's names; those of files stay."""
    old = b'{"kind":"new_column","column":"b","severity":"warning","message":"m","rows":1}'
    assert msgspec.json.decode(old, type=Anomaly).kind == "SCHEMA_NEW_COLUMN"
    assert set(FORMER.values()) <= set(DETECTED)
    assert Anomaly(kind="ignored_file", message="m").kind == "ignored_file"


def test_domains_are_inferred_in_the_order_of_tfx() -> None:
    """Truth values come before integers, integers before values; the rest has no domain."""
    statistics = Statistics()
    columns = {
        "flag": [0, 1] * 50,
        "word": ["yes", "no"] * 50,
        "code": ["7", "-12"] * 50,
        "kind": ["a", "1"] * 50,
        "count": [0, 2] * 50,
        "ones": [1, 1] * 50,
    }
    statistics.update(pa.table(columns))
    types = {name: "string" if isinstance(v[0], str) else "int64" for name, v in columns.items()}
    schema = infer(complete(None, types), statistics.result(), ranges=True)  # type: ignore[arg-type]
    assert [column.domain for column in schema.columns] == [
        "bool",
        "bool",
        "int",
        None,
        None,
        "bool",
    ]
    assert [column.values for column in schema.columns[1:4]] == [("no", "yes"), None, ("1", "a")]
    assert [(column.min, column.max) for column in schema.columns][3:5] == [(None, None), (0, 2)]


def test_an_environment_holds_as_in_tfx() -> None:
    """In where it is named, out where it is excluded, else in by default; unknown is an error."""
    schema = Schema(
        columns=(
            Column(name="a"),
            Column(name="label", not_in_environment=("serving",)),
            Column(name="extra", in_environment=("shadow",)),
        ),
        default_environment=("training", "serving"),
    )
    held = {
        each: [column.name for column in schema.columns if schema.in_force(column, each)]
        for each in ("training", "serving", "shadow", None)
    }
    assert held == {
        "training": ["a", "label", "extra"],
        "serving": ["a", "extra"],
        "shadow": ["extra"],
        None: ["a", "label", "extra"],
    }
    with pytest.raises(InvalidInput, match="nowhere"):
        schema.in_force(schema.columns[0], "nowhere")
