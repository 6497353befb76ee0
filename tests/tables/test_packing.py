"""Rows packed at once are the bytes of rows encoded one by one."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.foundation.errors import InvalidInput
from tidemill.tables.answer import decode_answer, encode_answer, encode_answers
from tidemill.tables.key import KeyEncoder
from tidemill.tables.packing import Packed, list_head, map_head, pack

INTEGERS = st.sampled_from(
    sorted({sign * (2**bits) + near for bits in (0, 5, 7, 8, 15, 16, 31, 32, 63)
            for sign in (-1, 1) for near in (-2, -1, 0, 1, 2)})
)  # fmt: skip
FLOATS = st.floats(allow_nan=True, allow_infinity=True)


def numbers(kind: str, floats: Any) -> Any:
    """Numbers of a type; integers around every bound where the form changes."""
    letter = np.dtype(kind).kind
    if letter == "f":
        return floats
    if letter == "b":
        return st.booleans()
    bound = np.iinfo(kind)
    return INTEGERS.filter(lambda value: bound.min <= value <= bound.max)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(16, 60))
def test_answers_are_those_of_one_by_one(data: Any, n: int) -> None:
    """Scalars and vectors of every numeric type, mixed forms included."""
    outputs = {}
    for at in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["int64", "uint64", "int8", "float32", "float64", "bool"]))
        width = data.draw(st.sampled_from([None, 1, 3, 17]))
        size = n * (width or 1)
        values = numbers(kind, FLOATS)
        drawn = data.draw(st.lists(values, min_size=size, max_size=size))
        with np.errstate(over="ignore"):
            array = np.array(drawn).astype(kind)
        outputs[f"output {at}"] = array if width is None else array.reshape(n, width)
    found = encode_answers(outputs)
    for row in range(n):
        assert found[row] == encode_answer({name: array[row] for name, array in outputs.items()})
    decode_answer(found[0])


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(16, 60))
def test_keys_are_those_of_one_by_one(data: Any, n: int) -> None:
    """Columns of numbers, in their own width or another; NaN and -0.0 among them."""
    columns, arrays = [], []
    for at in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["int64", "uint8", "float32", "float64", "bool"]))
        given_as = "float64" if kind == "float32" and data.draw(st.booleans()) else kind
        values = numbers(kind, st.one_of(st.floats(-1e30, 1e30), st.just(math.nan)))
        drawn = data.draw(st.lists(values, min_size=n, max_size=n))
        columns.append((f"c{at}", kind))
        arrays.append(np.array(drawn).astype(given_as))
    encoder = KeyEncoder(columns)
    wanted = [encoder.one([array[row] for array in arrays]) for row in range(n)]
    assert encoder.many(arrays) == wanted


def test_what_does_not_fit_is_still_refused() -> None:
    """A number too large for its float32, a matrix, columns of several lengths."""
    encoder = KeyEncoder([("a", "float32")])
    with pytest.raises(InvalidInput, match="1e\\+300"):
        encoder.many([np.full(20, 1e300)])
    with pytest.raises(InvalidInput, match="shape"):
        encoder.many([np.zeros((20, 2))])
    two = KeyEncoder([("a", "float64"), ("b", "float64")])
    with pytest.raises(InvalidInput, match="20, 21 rows"):
        two.many([np.zeros(20), np.zeros(21)])


@pytest.mark.parametrize("size", [0, 1, 15, 16, 255, 65535, 65536])
def test_heads_are_those_of_msgpack(size: int) -> None:
    """Of lists and maps of any size."""
    assert msgspec.msgpack.encode([None] * size).startswith(list_head(size))
    entries = {str(at): None for at in range(size)}
    assert msgspec.msgpack.encode(entries).startswith(map_head(size))


def test_text_and_few_rows_are_left_to_others() -> None:
    """Nothing is gained there."""
    assert pack([(b"", np.array(["a"] * 20, object))]) is None
    assert pack([(b"", np.zeros(3))]) is None


@given(st.lists(st.binary(max_size=40), max_size=60), st.sampled_from([1, 30]))
def test_what_is_put_together_is_cut_apart(items: list[bytes], times: int) -> None:
    """Of any sizes, empty ones among them, and more than are cut at once."""
    assert Packed.of(items * times).cut() == items * times
