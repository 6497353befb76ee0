from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Column
from tidemill.training.examples import cast_feature, feature_batch, feature_columns, label_array


def test_columns_take_the_types_that_clients_send() -> None:
    """Widths of integers, decimals and dictionaries are no business of a client's."""
    table = pa.table({
        "small": pa.array([1], pa.int8()),
        "text": pa.array(["a"]).dictionary_encode(),
        "price": pa.array([Decimal("1.25")]),
        "single": pa.array([0.5], pa.float32()),
        "double": pa.array([0.5]),
        "open": pa.array([True]),
    })  # fmt: skip
    columns = feature_columns(table.schema, table.column_names)
    kinds = ["int64", "string", "float64", "float32", "float64", "bool"]
    assert columns == tuple(map(Column, table.column_names, kinds))
    batch = feature_batch(table, columns)
    assert [array.dtype for array in batch.values()] == [column.dtype for column in columns]
    assert [array.tolist() for array in batch.values()] == [
        [1],
        ["a"],
        [1.25],
        [0.5],
        [0.5],
        [True],
    ]


def test_only_floats_may_miss_values() -> None:
    """A missing float is NaN; anything else that is missing is refused with its count."""
    table = pa.table({"x": [1.0, None], "n": [1, None], "s": ["a", None]})
    (x,) = feature_batch(table, feature_columns(table.schema, ["x"])).values()
    assert x[0] == 1.0
    assert math.isnan(x[1])
    for name in ("n", "s"):
        with pytest.raises(InvalidInput, match=f"'{name}' is missing in 1 of 2"):
            feature_batch(table, feature_columns(table.schema, [name]))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "no features"),
        (["a", "a"], "'a' is named twice"),
        (["b"], "'b' is not there"),
        (["t"], "'t' has the type timestamp"),
        (["d"], "'d' is ambiguous"),
    ],
)
def test_features_that_cannot_be_are_named(features: list[str], message: str) -> None:
    """A missing, doubled or untrainable feature is an error that names it."""
    fields = [("a", pa.int64()), ("t", pa.timestamp("s")), ("d", pa.int64()), ("d", pa.int64())]
    with pytest.raises(InvalidInput, match=message):
        feature_columns(pa.schema(fields), features)


def test_a_column_of_another_type_is_refused() -> None:
    """Evaluation rows that do not convert to the model's columns say which."""
    table = pa.table({"n": ["many"], "s": [1]})
    with pytest.raises(InvalidInput, match="'n' does not convert to int64"):
        feature_batch(table, [Column("n", "int64")])
    with pytest.raises(InvalidInput, match="text was expected"):
        feature_batch(table, [Column("s", "string")])
    with pytest.raises(InvalidInput, match="text was expected"):
        cast_feature(table["s"], Column("s", "string"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False], np.array([1, 0])),
        ([3, 7], np.array([3, 7])),
        ([0.0, 1.0], np.array([0, 1])),
        ([0.5, 1.0], np.array([0.5, 1.0])),
        (["a", "b"], np.array(["a", "b"], dtype=object)),
    ],
)
def test_labels_are_classes_where_they_can_be(values: list[object], expected: object) -> None:
    """Booleans and whole floats are integers, other floats stay, text is text."""
    labels = label_array(pa.table({"y": values}), "y")
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == expected.dtype  # type: ignore[attr-defined]


def test_labels_that_cannot_be_are_named() -> None:
    """Missing, infinite and dated labels are refused."""
    table = pa.table({
        "gap": [1, None],
        "inf": [1.0, math.inf],
        "when": pa.array([0, 1], pa.timestamp("s")),
    })  # fmt: skip
    for name, message in [("gap", "missing in 1 of 2"), ("inf", "finite"), ("when", "timestamp")]:
        with pytest.raises(InvalidInput, match=message):
            label_array(table, name)
    with pytest.raises(InvalidInput, match="'y' is not there"):
        label_array(table, "y")


def test_a_number_too_large_for_its_column_is_refused() -> None:
    """It would be infinite in 32 bits; what is infinite already, or missing, stays as it is."""
    columns = (Column("x", "float32"),)
    with pytest.raises(InvalidInput, match="'x' holds 1e\\+300, which is too large for float32"):
        feature_batch(pa.table({"x": [1.0, 1e300]}), columns)
    kept = feature_batch(pa.table({"x": [1.0, float("inf"), None]}), columns)["x"]
    assert kept.dtype == np.float32
    assert np.isinf(kept[1])
    assert np.isnan(kept[2])
