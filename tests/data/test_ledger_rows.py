"""Rows that are recorded together are, byte for byte, what they are one by one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tidemill.data.ledger import PlainRows, PredictionRecord, stored_rows
from tidemill.data.ledger_frames import encode_predictions, encode_rows
from tidemill.foundation.errors import InvalidInput

TEXTS = np.array([f"ü{row}" for row in range(3)], object)
COLUMNS = {
    "scalar": {"a": np.arange(3), "b": np.array([0.1, np.nan, 3.0], np.float32)},
    "row": {"a": np.arange(6.0).reshape(3, 2), "t": TEXTS, "k": np.array([True, False, True])},
    "large": {"a": np.arange(120, dtype=np.float16).reshape(3, 40), "t": TEXTS},
    "texts": {"t": np.array([["x"] * 40] * 3, object)},
}


@pytest.mark.parametrize("said", COLUMNS)
@pytest.mark.parametrize("asked", COLUMNS)
def test_rows_are_encoded_as_queries_of_one_row_each(asked: str, said: str) -> None:
    """Whatever their types and sizes, as parts of the same batch."""
    inputs, outputs = COLUMNS[asked], COLUMNS[said]
    ids = [f"{row:032x}" for row in range(3)]
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
