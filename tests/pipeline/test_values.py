from __future__ import annotations

import datetime as dt
import math
from typing import Any

import msgspec
import numpy as np
import pytest

from tidemill.foundation.errors import InvalidInput
from tidemill.pipeline.values import check_storable, decode_value, encode_value, preview


class Node(msgspec.Struct):
    value: float
    children: list[Node] = []


CASES: list[tuple[Any, Any]] = [
    (1, int),
    (2**63, int),
    (math.inf, float),
    ("naïve", str),
    (b"\x00\xff", bytes),
    (None, int | None),
    ({1: "a", 2: "b"}, dict[int, str]),
    ({1: ["a"]}, Any),
    ({"a": [1, None]}, dict[str, object]),
    ((1, "a"), tuple[int, str]),
    ({3, 1}, set[int]),
    (Node(1.0, [Node(math.inf)]), Node),
    (dt.datetime(2025, 1, 2, tzinfo=dt.UTC), dt.datetime),
]


@pytest.mark.parametrize(("value", "kind"), CASES)
def test_values_come_back_as_they_were(value: Any, kind: Any) -> None:
    """What the annotation says is what the next step gets, also what JSON would lose."""
    check_storable(kind, "it")
    data = encode_value(value, kind, "it")
    assert decode_value(data, kind, "it") == value
    assert encode_value(decode_value(data, kind, "it"), kind, "it") == data
    assert preview(data)


def test_nan_survives() -> None:
    """A metric that is not a number stays so."""
    assert math.isnan(decode_value(encode_value(math.nan, float, "it"), float, "it"))


def test_equal_values_are_equal_bytes() -> None:
    """The order in which a dict was filled does not make another artifact."""
    assert encode_value({"a": 1, "b": 2}, Any, "") == encode_value({"b": 2, "a": 1}, Any, "")


def test_scalars_of_array_libraries_are_numbers() -> None:
    """A metric straight from an array library is stored as the number that it is."""
    data = encode_value({"loss": np.float32(0.5), "n": np.int64(3)}, dict[str, float], "it")
    assert decode_value(data, dict[str, float], "it") == {"loss": 0.5, "n": 3.0}


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("1", int, r"what step 'a' returned does not match its annotation int: Expected `int`"),
        ({"a": "x"}, dict[str, int], r"Expected `int`, got `str` - at `\$\[\.\.\.\]`"),
        (Node("x"), Node, r"\$.value"),  # type: ignore[arg-type]
        (object(), Any, r"cannot be stored: object"),
        (np.arange(3), list[int], r"cannot be stored: ndarray"),
        (2**70, int, r"cannot be stored: int"),
    ],
)
def test_what_does_not_fit_is_named(value: Any, kind: Any, message: str) -> None:
    """A value that is not what was announced, or cannot be kept, is told with its place."""
    with pytest.raises(InvalidInput, match=message):
        encode_value(value, kind, "what step 'a' returned")
