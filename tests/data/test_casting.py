from __future__ import annotations

from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data.casting import cast, infer_type
from tidemill.data.schema import Type

NULLS = ("", "NA")


@pytest.mark.parametrize(
    ("to", "text", "value"),
    [
        ("int64", "17", 17),
        ("int64", " +17 ", 17),
        ("int64", "-9223372036854775808", -(1 << 63)),
        ("int64", "517.0", 517),
        ("float64", "1.5e3", 1500.0),
        ("float64", ".5", 0.5),
        ("bool", "TRUE", True),
        ("timestamp", "2013-01-01T10:00:00Z", datetime(2013, 1, 1, 10, tzinfo=UTC)),
        ("timestamp", "2013-01-01 10:00", datetime(2013, 1, 1, 10, tzinfo=UTC)),
        ("timestamp", "2013-01-01", datetime(2013, 1, 1, tzinfo=UTC)),
        ("timestamp", "2013-01-01T10:00:00+05:00", datetime(2013, 1, 1, 5, tzinfo=UTC)),
        ("string", " x ", " x "),
    ],
)
def test_text_of_a_type_is_cast(to: Type, text: str, value: Any) -> None:
    """Each type has the notations that the module names."""
    found = cast(pa.array([text, "NA"]), to, NULLS)
    assert found.values.to_pylist() == [value, None]
    assert found.missing.tolist() == [False, True]
    assert not found.wrong.any()
    assert not found.not_finite.any()


@pytest.mark.parametrize(
    ("to", "text"),
    [
        ("int64", "1.5"),
        ("int64", "0x1F"),
        ("int64", "9223372036854775808"),
        ("int64", "--1"),
        ("int64", "1_0"),
        ("int64", "\uff11"),
        ("float64", "1,5"),
        ("float64", "x"),
        ("bool", "1"),
        ("timestamp", "2013-02-30"),
        ("timestamp", "2013"),
        ("timestamp", "tomorrow"),
    ],
)
def test_text_not_of_a_type_is_wrong(to: Type, text: str) -> None:
    """A wrong value is marked, and does not hurt its neighbours."""
    good = {"bool": "true", "timestamp": "2013-01-01"}.get(to, "1")
    found = cast(pa.array([good, text]), to, NULLS)
    assert found.wrong.tolist() == [False, True]
    assert found.values[0].is_valid


@pytest.mark.parametrize("text", ["NaN", "inf", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_not_finite(text: str) -> None:
    """NaN and infinity are numbers to nobody's rule: they are marked apart."""
    found = cast(pa.array([text, "1"]), "float64", NULLS)
    assert found.not_finite.tolist() == [True, False]
    assert found.values.to_pylist() == [None, 1.0]


@given(st.lists(st.text(max_size=6)), st.sampled_from(["int64", "float64", "bool", "timestamp"]))
def test_no_text_breaks_a_cast(texts: list[str], to: Type) -> None:
    """Every value is exactly one of valid, missing, wrong, not finite, alone or in company."""
    found = cast(pa.array(texts, pa.string()), to, NULLS)
    valid = ~found.values.is_null().to_numpy(zero_copy_only=False)
    fates = valid.astype(int) + found.missing + found.wrong + found.not_finite
    assert (fates == 1).all()
    for text, value in zip(texts, found.values, strict=True):
        assert cast(pa.array([text]), to, NULLS).values[0].equals(value)


@given(st.lists(st.one_of(st.none(), st.floats())))
def test_typed_floats_become_integers_where_they_are(numbers: list[float | None]) -> None:
    """A Parquet float without a fraction is an integer; no other value is."""
    found = cast(pa.array(numbers, pa.float64()), "int64", NULLS)
    for number, value in zip(numbers, found.values.to_pylist(), strict=True):
        assert value is None or value == number


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1"] * 97 + ["x"] * 3, "int64"),
        (["1"] * 90 + ["x"] * 10, "string"),
        (["1", "2.5", "NA"], "float64"),
        (["1.0", "NaN"], "float64"),
        (["true", "False"], "bool"),
        (["2013-01-01T00:00:00Z", ""], "timestamp"),
        (["02139", "10001"], "string"),
        (["0", "0.5"], "float64"),
        (["", "NA"], "string"),
        (["NaN", "nan"], "string"),
        ([str((1 << 62) + i) for i in range(9)], "int64"),
        ([str((1 << 64) - i) for i in range(9)], "string"),
        ([str(((1 << 60) + 1) * i) for i in range(1, 15)], "string"),
        (["1"] * 97 + ["9" * 26] * 3, "int64"),
        (["1"] * 80 + ["NaN"] * 20, "float64"),
        (["0.5", "9" * 26], "float64"),
        (["1", *(str((1 << 62) + i) for i in range(7)), "NaN", "NaN"], "float64"),
        (["1", *(str((1 << 62) + i) for i in range(18)), "NaN"], "int64"),
    ],
)
def test_the_large_majority_decides_the_type(values: list[str], kind: str) -> None:
    """A few bad values don't turn a column of numbers into one of strings."""
    assert infer_type(pa.array(values), NULLS) == kind


@given(st.integers(14, 30), st.integers(0, 10**14))
def test_no_digit_of_a_long_integer_is_lost(digits: int, above: int) -> None:
    """Identifiers differ in their last digits: as floats, many of them would be duplicates."""
    texts = [str(10**digits + above + i) for i in range(40)]
    kind = infer_type(pa.array(texts), NULLS)
    values = cast(pa.array(texts), kind, NULLS).values
    assert [str(one) for one in values.to_pylist()] == texts


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array([1], pa.uint8()), "int64"),
        (pa.array([1.5], pa.float32()), "float64"),
        (pa.array(["a"]).dictionary_encode(), "string"),
        (pa.array([datetime(2013, 1, 1)]), "timestamp"),  # noqa: DTZ001
        (pa.array([1 << 63], pa.uint64()), "int64"),
    ],
)
def test_typed_columns_keep_their_type(array: pa.Array, kind: Type) -> None:
    """Parquet columns are of the nearest type of a schema, and cast to it."""
    assert infer_type(array, NULLS) == kind
    found = cast(array, kind, NULLS)
    assert len(found.values) == 1
    assert found.wrong.tolist() == [array.type == pa.uint64()]


@given(st.integers(-(10**38) + 1, 10**38 - 1), st.integers(0, 38))
def test_decimals_are_rounded_as_their_text_is(digits: int, scale: int) -> None:
    """19.99 is 19.99, from a file's decimal as from its text."""
    value = Decimal(digits).scaleb(-scale, Context(prec=40))
    found = cast(pa.array([value], pa.decimal128(38, scale)), "float64", ())
    assert found.values.to_pylist() == [float(value)]


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 60))
def test_integers_that_fit_are_never_text(short: int, long: int, missing: int) -> None:
    """However many of which length: beside NaN they are floats, or integers if it is rare."""
    texts = ["7"] * short + [str(1 << 62)] * long + ["NaN"] * missing
    rare = short + long >= 19 * missing
    kind = "int64" if rare else "float64"
    assert infer_type(pa.array(texts), NULLS) == kind
