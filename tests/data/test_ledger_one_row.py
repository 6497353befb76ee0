"""Queries of one row, each by itself, are kept as those of a batch are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from tidemill.data.ledger_frames import (
    PredictionFrame,
    _stored,
    decode,
    encode_predictions,
)
from tidemill.foundation.errors import InvalidInput

TEXTS = np.empty(1, object)
TEXTS[:] = ["é"]


def prediction(inputs: Any, outputs: Any, answers: Any) -> Any:
    """A query that was answered, by itself or in a batch."""
    named = {"request_id": "0" * 32, "time": 1.0, "event_time": None, "application": "a"}
    told = {"version": 1, "row_sources": None, "source": "table", "n": 1, "start": 0, "plain": None}
    return SimpleNamespace(**named, **told, inputs=inputs, outputs=outputs, answers=answers)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"k": np.array([7])},
        {"k": TEXTS, "b": np.array([True]), "f": np.array([0.5], np.float32)},
        {"v": np.arange(32.0).reshape(1, 32), "k": np.array([7])},
        {"v": np.arange(33.0).reshape(1, 33)},
        {"k": np.array([7]), "v": np.arange(40).reshape(1, 4, 10)},
        {"t": TEXTS.repeat(40).reshape(1, 40)},
    ],
)
@pytest.mark.parametrize("y", [np.array([1.5]), np.ones((1, 10)), np.ones((1, 50))])
def test_a_row_alone_is_stored_as_in_a_batch(inputs: Any, y: Any) -> None:
    """Byte for byte."""
    outputs = {"y": y}
    shared = SimpleNamespace(inputs=inputs, outputs=outputs)
    alone = encode_predictions([prediction(inputs, outputs, None)] * 2)
    assert alone == encode_predictions([prediction(inputs, outputs, shared)] * 2)


def test_columns_of_other_lengths_are_still_refused() -> None:
    """One value too many is no row."""
    inputs = {"a": np.array([1]), "b": np.array([1, 2])}
    with pytest.raises(InvalidInput):
        encode_predictions([prediction(inputs, {"y": np.array([1.0])}, None)])


BATCH = {
    "x": np.arange(120.0).reshape(3, 40),
    "turned": np.arange(240, dtype=np.int16).reshape(40, 6).T[::2],
    "foreign": np.arange(120).reshape(3, 5, 8).astype(">i4"),
    "half": np.arange(99).reshape(3, 33).astype(np.float16),
    "flags": np.arange(105).reshape(3, 35) % 2 == 0,
    "few": np.arange(6).reshape(3, 2),
    "one": np.array([1.5, 2.5, 3.5]),
    "texts": np.array([["a"] * 40, ["b"] * 40, ["é"] * 40], object),
}


def test_large_rows_of_a_batch_are_kept_as_they_are_alone() -> None:
    """Whether queries of one row or of several come first: the same values, in the same form."""
    shared = SimpleNamespace(inputs=BATCH, outputs={"y": np.arange(150).reshape(3, 50)})
    several = [
        SimpleNamespace(**{**vars(prediction({}, {}, shared)), "n": n, "start": start})
        for n, start in ((1, 0), (1, 1), (2, 1), (1, 2), (3, 0))
    ]
    for asked in (several, several[::-1], several[2:], several[:2]):
        kept = decode(encode_predictions(asked))
        assert isinstance(kept, PredictionFrame)
        for query, record in zip(asked, kept.records, strict=True):
            rows = slice(query.start, query.start + query.n)
            for columns, values in ((BATCH, record.inputs), (shared.outputs, record.outputs)):
                whole = [_stored(array[rows]) for array in columns.values()]
                assert msgspec.msgpack.encode(values) == msgspec.msgpack.encode(whole)
