"""What a batch must be before a model sees it."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.foundation.errors import InvalidInput, InvalidModel
from tidemill.models.signature import DTYPES, Column, Signature, check_batch

OUT = (Column("label", "int64"),)


def signature(*inputs: Column) -> Signature:
    """Returns a signature of these inputs."""
    return Signature(inputs, OUT)


MIXED = signature(Column("age", "int64"), Column("name", "string"), Column("x", "float32", (2,)))


def test_a_signature_survives_json() -> None:
    """A signature read back from JSON equals the one written."""
    assert Signature.from_json(MIXED.to_json()) == MIXED
    assert json.loads(MIXED.to_json())["inputs"][2] == {
        "name": "x",
        "type": "float32",
        "shape": [2],
    }


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"inputs": [], "outputs": []}', "nonsense"])
def test_json_that_is_no_signature_is_refused(text: str) -> None:
    """Whatever is not a signature is an InvalidModel."""
    with pytest.raises(InvalidModel):
        Signature.from_json(text)


def test_impossible_columns_are_refused() -> None:
    """Unknown types, empty sizes, huge rows and doubled names are refused when declared."""
    for bad in (
        lambda: Column("x", "decimal"),
        lambda: Column("", "int64"),
        lambda: Column("x", "int64", (0,)),
        lambda: Column("x", "int64", (-1,)),
        lambda: Column("x", "int64", (1 << 20, 1 << 20)),
        lambda: signature(Column("x", "int64"), Column("x", "string")),
    ):
        with pytest.raises(InvalidModel):
            bad()


@pytest.mark.parametrize("name", DTYPES)
def test_every_type_has_an_arrow_type(name: str) -> None:
    """Each type is an Arrow type, and vectors are lists of fixed size."""
    schema = signature(Column("x", name), Column("v", name, (2, 3))).arrow_schema()
    assert str(schema.field("v").type.value_type.value_type) == str(schema.field("x").type)
    assert isinstance(schema, pa.Schema)


def test_what_fits_passes_without_a_copy() -> None:
    """An array that is as the signature says is passed on, not copied."""
    x = np.zeros((3, 2), dtype=np.float32)
    names = np.array(["a", "b", "c"], dtype=object)
    ages = np.arange(3)
    checked = check_batch(MIXED, {"x": x, "name": names, "age": ages})
    assert checked["x"] is x
    assert checked["name"] is names
    assert checked["age"] is ages
    assert list(checked) == ["age", "name", "x"]


GOOD: list[tuple[Column, Any, list[Any]]] = [
    (Column("c", "int64"), [1, 2.0], [1, 2]),
    (Column("c", "int8"), np.array([127, -128]), [127, -128]),
    (Column("c", "int64"), np.array([[5], [6]]), [5, 6]),
    (Column("c", "float64"), [1, 2], [1.0, 2.0]),
    (Column("c", "float32"), [0.5, 2**24], [0.5, 2.0**24]),
    (Column("c", "float64"), [None, 1], [np.nan, 1.0]),
    (Column("c", "float64"), [np.nan, np.inf], [np.nan, np.inf]),
    (Column("c", "bool"), [True, False], [True, False]),
    (Column("c", "string"), ["a", ""], ["a", ""]),
    (Column("c", "string"), np.array(["a", "bc"]), ["a", "bc"]),
    (Column("c", "string"), [b"\xc3\xa9", "x"], ["é", "x"]),
    (Column("c", "string"), np.array([b"ab", b"c"]), ["ab", "c"]),
    (Column("c", "uint64"), [2**63 - 1, 0], [2**63 - 1, 0]),
    (Column("c", "float64", (1,)), [1.5, 2.5], [[1.5], [2.5]]),
]


@pytest.mark.parametrize(("column", "value", "expected"), GOOD)
def test_what_loses_nothing_is_coerced(column: Column, value: Any, expected: list[Any]) -> None:
    """Values that the column's type holds exactly are taken in whatever form they come."""
    (array,) = check_batch(signature(column), {"c": value}).values()
    assert array.dtype == column.dtype
    assert array.shape == (2, *column.shape)
    np.testing.assert_array_equal(array, np.array(expected, dtype=column.dtype))


BAD: list[tuple[Column, Any, str]] = [
    (Column("c", "int64"), [1, 2.5], r"row 1: 2\.5"),
    (Column("c", "int64"), [1, float("nan")], "row 1: nan"),
    (Column("c", "int64"), [1e300, 1], "row 0"),
    (Column("c", "int64"), [2.0**63, 1], "row 0"),
    (Column("c", "int64"), [2**63, 1], "cannot hold"),
    (Column("c", "int64"), [2**70, 1], "out of range"),
    (Column("c", "int8"), [1, 128], "row 1: 128"),
    (Column("c", "uint8"), [-1, 1], "row 0: -1"),
    (Column("c", "int64"), [1, None], "null in row 1"),
    (Column("c", "int64"), [True, False], "bool"),
    (Column("c", "int64"), [1, "2"], "str"),
    (Column("c", "int64"), ["1", "2"], "'1'"),
    (Column("c", "float64"), ["1.0", 2], "'1.0'"),
    (Column("c", "float64"), [True, None], "bool in row 0"),
    (Column("c", "float64"), [2**53 + 1, 0], "cannot hold"),
    (Column("c", "float64"), [2**53 + 1, None], "exactly"),
    (Column("c", "float32"), [1e39, 0.0], "row 0"),
    (Column("c", "bool"), [1, 0], "type int64"),
    (Column("c", "bool"), [True, None], "null in row 1"),
    (Column("c", "string"), ["a", 1], "int in row 1: 1"),
    (Column("c", "string"), ["a", None], "null in row 1"),
    (Column("c", "string"), [b"\xff", "a"], "not UTF-8"),
    (Column("c", "string"), np.array([1, 2]), "int64"),
    (Column("c", "float64"), 1.0, "shape"),
    (Column("c", "float64", (2,)), [[1.0, 2.0], [3.0]], "different lengths"),
    (Column("c", "float64", (2,)), [[1.0, 2.0, 3.0]], r"shape \(1, 3\)"),
    (Column("c", "float64"), [[1.0, 2.0]], "shape"),
    (Column("c", "float64"), {"a": 1}, "shape"),
    (Column("c", "float64"), [], "no rows"),
    (Column("c", "string"), [["a"], ["b", "c"]], "'c'"),
]


@pytest.mark.parametrize(("column", "value", "message"), BAD)
def test_what_would_lose_something_is_refused(column: Column, value: Any, message: str) -> None:
    """A value that the column cannot hold is refused, naming the column and the value."""
    with pytest.raises(InvalidInput, match=message):
        check_batch(signature(column), {"c": value})


def test_wrong_columns_are_named_all_at_once() -> None:
    """Missing and unknown columns are told together, with what the model takes."""
    with pytest.raises(InvalidInput, match=r"missing: 'name', 'x'; unknown: 'nmae'.*age, name, x"):
        check_batch(MIXED, {"age": [1], "nmae": ["a"]})
    with pytest.raises(InvalidInput, match="unknown: 'z'"):
        check_batch(MIXED, {"age": [1], "name": ["a"], "x": [[1, 2]], "z": [1]})
    with pytest.raises(InvalidInput, match="missing: 'x'; unknown: 'y'"):
        check_batch(MIXED, {"age": [1], "name": ["a"], "y": [[1, 2]]})


def test_columns_of_different_lengths_are_refused() -> None:
    """Every column has the same number of rows."""
    with pytest.raises(InvalidInput, match="'name' has 2 rows, column 'age' has 1"):
        check_batch(MIXED, {"age": [1], "name": ["a", "b"], "x": [[1, 2]]})


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
)


@given(
    kind=st.sampled_from(sorted(DTYPES)),
    shape=st.sampled_from([(), (1,), (2,)]),
    value=st.one_of(values, st.lists(values, max_size=4), st.lists(st.lists(values), max_size=3)),
)
def test_any_value_is_checked_or_refused(kind: str, shape: tuple[int, ...], value: Any) -> None:
    """Whatever is sent, it comes out as the signature says or as InvalidInput."""
    column = Column("c", kind, shape)
    try:
        (array,) = check_batch(signature(column), {"c": value}).values()
    except InvalidInput:
        return
    assert array.dtype == column.dtype
    assert array.shape[1:] == shape
    if kind == "string":
        assert all(type(text) is str for text in array.flat)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_never_change(numbers: list[int]) -> None:
    """An integer taken is the integer that was sent, for every integer and float type."""
    for kind in DTYPES:
        if kind in ("string", "bool"):
            continue
        try:
            (array,) = check_batch(signature(Column("c", kind)), {"c": numbers}).values()
        except InvalidInput:
            continue
        assert [int(value) for value in array] == numbers
