from __future__ import annotations

import pyarrow as pa
import pytest

from tidemill.data.records import Anomaly, DatasetOptions
from tidemill.data.schema import Column, Schema
from tidemill.data.statistics import Statistics
from tidemill.data.validation import compare, infer_types, merge_anomalies, validate
from tidemill.foundation.errors import InvalidInput

OPTIONS = DatasetOptions()


def _reasons(table: pa.Table, *columns: Column) -> list[str | None]:
    judged = validate(table, Schema(columns=columns), OPTIONS)
    return [judged.rules[i].reason if i >= 0 else None for i in judged.broken.tolist()]


def test_each_row_is_held_under_the_first_rule_it_breaks() -> None:
    """Good rows pass; a bad one has one reason, in the order of columns."""
    table = pa.table({"n": ["1", "x", "NaN", "9", "NA", "y"], "s": ["a", "a", "a", "a", "a", "b"]})
    number = Column(name="n", type="int64", max=5, required=True)
    text = Column(name="s", type="string", values=("a",), domain_strict=True)
    assert _reasons(table, number, text) == [
        None,
        "wrong_type",
        "not_finite",
        "out_of_range",
        "missing",
        "wrong_type",
    ]
    assert _reasons(table, text)[-1] == "not_in_domain"


def test_a_new_value_is_told_and_its_row_accepted() -> None:
    """An inferred domain warns; only a strict one holds."""
    column = Column(name="s", type="string", values=("a",))
    judged = validate(pa.table({"s": ["a", "b", "b", None]}), Schema(columns=(column,)), OPTIONS)
    assert judged.good.all()
    (told,) = judged.anomalies
    assert (told.kind, told.column, told.rows) == ("ENUM_TYPE_UNEXPECTED_STRING_VALUES", "s", 2)
    assert "'b'" in told.message


def test_a_missing_column_holds_every_row() -> None:
    """Without a column no row is whole, and the anomaly says which column."""
    judged = validate(
        pa.table({"a": ["1"]}),
        Schema(columns=(Column(name="a", type="int64"), Column(name="b", type="int64"))),
        OPTIONS,
    )
    assert not judged.good.any()
    assert [(one.kind, one.column, one.severity) for one in judged.anomalies] == [
        ("SCHEMA_MISSING_COLUMN", "b", "error")
    ]


def test_a_new_column_is_told() -> None:
    """A column that the schema doesn't know is left out, aloud."""
    judged = validate(
        pa.table({"a": ["1"], "b": ["2"]}),
        Schema(columns=(Column(name="a", type="int64"),)),
        OPTIONS,
    )
    assert judged.good.all()
    assert judged.table.column_names == ["a"]
    assert [one.kind for one in judged.anomalies] == ["SCHEMA_NEW_COLUMN"]


def test_anomalies_add_up_and_stay_few() -> None:
    """The same anomaly of many batches is one; of many new values twenty are named."""
    one = Anomaly(kind="SCHEMA_NEW_COLUMN", column="b", message="m", rows=1)
    assert merge_anomalies([one, one]) == [
        Anomaly(kind="SCHEMA_NEW_COLUMN", column="b", message="m", rows=2)
    ]
    many = [
        Anomaly(kind="ENUM_TYPE_UNEXPECTED_STRING_VALUES", column="c", message=str(i), rows=1)
        for i in range(25)
    ]
    merged = merge_anomalies(many)
    assert len(merged) == 21
    assert merged[-1].rows == 5


def test_more_missing_values_than_expected_are_told() -> None:
    """A column that was nearly complete and is not any more is an anomaly."""
    statistics = Statistics()
    statistics.update(pa.table({"a": pa.array([1, None, None], pa.int64())}))
    schema = Schema(columns=(Column(name="a", type="int64", max_missing_fraction=0.1),))
    (told,) = compare(schema, statistics.result())
    assert (told.kind, told.rows) == ("FEATURE_TYPE_LOW_FRACTION_PRESENT", 2)


def test_nested_columns_are_refused() -> None:
    """What can't be kept is named, not dropped."""
    with pytest.raises(InvalidInput, match="'a' is of type list"):
        infer_types(pa.table({"a": [[1]]}), OPTIONS)


def test_patterns_and_values_of_people_hold_rows() -> None:
    """A text that is not of its pattern, an integer outside strict values, a number in a text."""
    table = pa.table({"s": ["ab", "abc", "NA"], "n": ["1", "2", "1"], "t": ["5", "x", "99"]})
    text = Column(name="s", type="string", pattern="[a-c]{2}|x")
    number = Column(name="n", type="int64", values=(1,), domain_strict=True)
    spelled = Column(name="t", type="string", domain="int", max=50)
    assert _reasons(table, text) == [None, "not_in_domain", None]
    assert _reasons(table, number) == [None, "not_in_domain", None]
    assert _reasons(table, spelled) == [None, None, "out_of_range"]


def test_a_column_may_be_absent_if_the_schema_says_so() -> None:
    """A deprecated column, or one that needs no value, is empty and no row is held."""
    table = pa.table({"a": ["1"]})
    for column in (
        Column(name="b", type="int64", deprecated=True),
        Column(name="b", type="int64", min_count=0),
    ):
        schema = Schema(columns=(Column(name="a", type="int64"), column))
        judged = validate(table, schema, OPTIONS)
        assert judged.good.all()
        assert judged.anomalies == ()
        assert judged.table["b"].null_count == 1


def test_lists_are_not_ingested() -> None:
    """A column that is to hold lists can't be kept, and that is said."""
    column = Column(name="a", type="int64", max_values=2)
    with pytest.raises(InvalidInput, match="lists"):
        validate(pa.table({"a": ["1"]}), Schema(columns=(column,)), OPTIONS)
