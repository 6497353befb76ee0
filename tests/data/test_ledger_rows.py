"""Rows that are recorded together are, byte for byte, what they are one by one."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tidemill.data.ledger import PlainRows, PredictionRecord, stored_rows
from tidemill.data.ledger_frames import encode_predictions
from tidemill.data.ledger_rows import encode_rows
from tidemill.foundation.errors import InvalidInput

REAL = [0.1, math.nan, -0.0, math.inf, 5e-8, -65504.0]
COLUMNS = {
    "whole": {"a": np.arange(100), "b": np.resize(REAL, 100).astype(np.float32)},
    "row": {
        "a": np.arange(200.0).reshape(100, 2),
        "t": np.array([f"ü{row}" for row in range(100)], object),
        "k": np.arange(100) % 3 == 0,
    },
    "large": {"a": np.arange(4000, dtype=np.float32).reshape(100, 40), "b": np.arange(100.0)},
    "texts": {"t": np.array([["x"] * 40] * 100, object)},
    "numbers": {"a": np.resize(REAL, 100), "b": np.resize(REAL, 100).astype(np.float16)},
    "rows of numbers": {
        "a": np.resize(REAL, 3200).reshape(100, 32),
        "b": np.resize(REAL, 100).astype(np.float32),
        "c": np.resize(REAL, 300).astype(np.float32).reshape(3, 100).T,
        "d": np.resize(REAL, 100).astype(">f8").reshape(100, 1),
    },
    "blocks of numbers": {"a": np.arange(400.0).reshape(100, 2, 2)},
    "nothing": {"a": np.empty((100, 0))},
}


@pytest.mark.parametrize("rows", [1, 3, 4, 16, 100])
@pytest.mark.parametrize("said", COLUMNS)
@pytest.mark.parametrize("asked", COLUMNS)
def test_rows_are_encoded_as_queries_of_one_row_each(asked: str, said: str, rows: int) -> None:
    """Whatever their types, sizes and number, as parts of the same batch."""
    inputs, outputs = (
        {key: column[:rows] for key, column in COLUMNS[each].items()} for each in (asked, said)
    )
    ids = [f"{row:032x}" for row in range(rows)]
    shared: dict[str, Any] = {"application": "app", "version": 3, "source": "model", "time": 1.5}
    batch = cast("Any", SimpleNamespace(inputs=inputs, outputs=outputs))
    one_by_one = encode_predictions(
        [
            PredictionRecord(
                request_id=name,
                n=1,
                inputs={key: column[at : at + 1] for key, column in inputs.items()},
                outputs={key: column[at : at + 1] for key, column in outputs.items()},
                answers=batch,
                start=at,
                **shared,
            )
            for at, name in enumerate(ids)
        ]
    )
    together = encode_rows(
        PlainRows(
            ids=ids,
            columns=((*inputs,), (*outputs,)),
            asked=stored_rows(inputs),
            said=stored_rows(outputs),
            **shared,
        )
    )
    assert together == one_by_one


def test_what_is_no_array_is_refused() -> None:
    """As it is of a query."""
    with pytest.raises(InvalidInput, match="cannot be kept in the ledger"):
        stored_rows(cast("Any", {"a": 5}))


def test_numbers_without_an_id_or_an_answer_each_are_refused() -> None:
    """Nothing is written that could not be told apart when it is read."""
    few, many = ({"a": np.arange(float(rows))} for rows in (4, 5))
    for ids, said in ((4 * ["0" * 32], many), (3 * ["0" * 32], few), (4 * ["0" * 31], few)):
        rows = PlainRows(
            application="app",
            version=3,
            source="model",
            time=1.5,
            ids=ids,
            columns=(("a",), ("a",)),
            asked=stored_rows(few),
            said=stored_rows(said),
        )
        with pytest.raises(InvalidInput, match="cannot be kept in the ledger"):
            encode_rows(rows)
