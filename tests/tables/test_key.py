from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.foundation.errors import InvalidInput
from tidemill.tables.key import MAX_KEY_BYTES, KeyEncoder

COLUMNS = [("name", "string"), ("count", "int64"), ("size", "float64"), ("open", "bool")]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
ROWS = st.tuples(TEXT, INT64, st.floats(allow_nan=True), st.booleans())


def same(one: object, other: object) -> bool:
    """Equal as a key sees it: every NaN is one value, -0.0 is 0.0."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return one == other


@given(ROWS, ROWS)
def test_keys_are_equal_exactly_where_rows_are(
    one: tuple[object, ...], other: tuple[object, ...]
) -> None:
    """The encoding is injective on values and the same for equal ones."""
    encoder = KeyEncoder(COLUMNS)
    equal = all(same(a, b) for a, b in zip(one, other, strict=True))
    assert (encoder.one(one) == encoder.one(other)) == equal


@given(st.lists(st.sampled_from(["", "a", "b", "ab", "ba", "\x01", "aa"]), min_size=4, max_size=4))
def test_columns_do_not_run_into_each_other(texts: list[str]) -> None:
    """Text that moves over a column's border makes another key."""
    encoder = KeyEncoder([("a", "string"), ("b", "string")])
    keys = encoder.many([texts[:2], texts[2:]])
    assert (keys[0] == keys[1]) == (texts[0::2] == texts[1::2])


@given(st.lists(ROWS, max_size=20))
def test_one_and_many_agree_for_python_and_numpy(rows: list[tuple[object, ...]]) -> None:
    """A row has one key, however it comes: alone or in columns, as Python's or NumPy's values."""
    encoder = KeyEncoder(COLUMNS)
    alone = [encoder.one(row) for row in rows]
    lists = [[row[at] for row in rows] for at in range(4)]
    names = np.empty(len(rows), dtype=object)
    names[:] = lists[0]
    arrays = [
        names,
        np.array(lists[1], np.int64),
        np.array(lists[2], np.float64),
        np.array(lists[3], np.bool_),
    ]
    assert encoder.many(lists) == alone
    assert encoder.many(arrays) == alone
    assert [encoder.one(row) for row in zip(*arrays, strict=True)] == alone


def test_no_rows_have_no_keys() -> None:
    """Whatever the columns are: the questions of an application that nobody asked."""
    encoder = KeyEncoder([("n", "int64"), ("x", "float64")])
    nothing = [np.array([], np.int64), np.array([], np.float64)]
    assert encoder.many(nothing) == encoder.packed(nothing).cut() == []


def test_an_integer_has_one_key_in_every_width() -> None:
    """Integers of any width, and floats that are whole, make the same key."""
    encoder = KeyEncoder([("n", "int64")])
    same_values = [5, 5.0, np.int8(5), np.uint64(5), np.float32(5.0)]
    assert len({encoder.one([value]) for value in same_values}) == 1
    assert encoder.many([np.array([5], np.uint8)]) == encoder.many([[5.0]])
    assert KeyEncoder([("n", "int8")]).one([5]) == encoder.one([5])


def test_a_float_has_one_key() -> None:
    """-0.0 is 0.0, every NaN and null are one missing value, integers are floats."""
    encoder = KeyEncoder([("x", "float64")])
    assert encoder.one([-0.0]) == encoder.one([0.0]) == encoder.one([0]) == encoder.one([False + 0])
    missing = [math.nan, -math.nan, None, np.float32("nan")]
    assert len({encoder.one([value]) for value in missing}) == 1
    assert encoder.one([math.nan]) not in encoder.many([[0.0, math.inf, -math.inf]])


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_a_narrow_float_is_rounded_as_the_model_rounds_it(kind: str) -> None:
    """0.1 asks for the same row as the nearest float32, but not the same as in float64."""
    narrow = np.array([0.1], kind)
    encoder = KeyEncoder([("x", kind)])
    assert encoder.one([0.1]) == encoder.one([narrow[0]]) == encoder.many([narrow])[0]
    assert encoder.one([0.1]) != KeyEncoder([("x", "float64")]).one([0.1])


def test_types_do_not_meet() -> None:
    """One, true and "1" are three values, whatever a column calls them."""
    keys = [KeyEncoder([("x", kind)]).one([value]) for kind, value in [
        ("int64", 1), ("bool", True), ("string", "1"), ("float64", 1.0)
    ]]  # fmt: skip
    assert all(a != b for a, b in itertools.combinations(keys, 2))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int64", True),
        ("int64", np.True_),
        ("int64", 1.5),
        ("int64", math.nan),
        ("int64", math.inf),
        ("int64", 1e300),
        ("int64", 1 << 64),
        ("int64", "1"),
        ("int64", None),
        ("float64", True),
        ("float64", "1.0"),
        ("float64", (1 << 53) + 1),
        ("float64", 10**400),
        ("float32", 1e300),
        ("bool", 1),
        ("bool", None),
        ("string", 1),
        ("string", b"x"),
        ("string", None),
        ("string", "\ud800"),
    ],
)
def test_a_wrong_value_is_refused_by_the_column_s_name(kind: str, value: object) -> None:
    """What has no canonical form is refused in both ways, naming column and value."""
    encoder = KeyEncoder([("first", "int64"), ("second", kind)])
    with pytest.raises(InvalidInput, match="'second' holds"):
        encoder.one([1, value])
    with pytest.raises(InvalidInput, match="'second' holds"):
        encoder.many([[1], [value]])


def test_a_long_key_is_a_tagged_hash() -> None:
    """A key beyond LMDB's limit is replaced, injectively, and equals no short one."""
    encoder = KeyEncoder([("text", "string")])
    longest = encoder.one(["x" * 507])
    assert len(longest) == MAX_KEY_BYTES
    long, other = encoder.many([["x" * 508, "y" * 508]])
    assert encoder.one(["x" * 508]) == long != other
    assert len(long) == 33
    assert long[:1] == b"\xc1"
    assert "sha256" in encoder.show(long)


def test_a_key_is_shown_in_words() -> None:
    """A person sees the values behind a key, and no traceback where there are none."""
    encoder = KeyEncoder(COLUMNS)
    assert (
        encoder.show(encoder.one(["UA", 5, 1.5, True])) == "name='UA', count=5, size=1.5, open=True"
    )
    assert "no key" in encoder.show(b"a")


def test_shapes_are_checked() -> None:
    """Too many columns, columns of different lengths and vectors are refused."""
    encoder = KeyEncoder([("a", "int64"), ("b", "int64")])
    with pytest.raises(InvalidInput, match="2 columns was given 3"):
        encoder.one([1, 2, 3])
    with pytest.raises(InvalidInput, match="2 columns was given 1"):
        encoder.many([[1]])
    with pytest.raises(InvalidInput, match="2, 1 rows"):
        encoder.many([[1, 2], [1]])
    with pytest.raises(InvalidInput, match=r"shape \(1, 2\)"):
        encoder.many([np.ones((1, 2), int), [1]])
    assert encoder.many([[], []]) == []


def test_an_encoder_needs_known_columns() -> None:
    """No column, or one of an unknown type, is refused."""
    with pytest.raises(InvalidInput, match="at least one"):
        KeyEncoder([])
    with pytest.raises(InvalidInput, match="'decimal'"):
        KeyEncoder([("price", "decimal")])
