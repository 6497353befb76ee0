"""Queries become one batch: which of them may, how, and whether the answers are theirs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tidemill.foundation.errors import ModelFailed
from tidemill.models.signature import Batch
from tidemill.serving.query import Packed, Query


def join(queries: Sequence[Query]) -> Batch:
    """Returns the rows of all queries as one batch, in their order."""
    if len(queries) == 1:
        return queries[0].inputs
    packed = [each.asked for each in queries if isinstance(each.asked, Packed)]
    if len(packed) == len(queries):
        rows = sum([each.n for each in packed])
        return Packed(packed[0].column, b"".join([each.data for each in packed]), rows).arrays()
    batch = [query.inputs for query in queries]
    return {name: np.concatenate([inputs[name] for inputs in batch]) for name in batch[0]}


def together(queries: list[Query]) -> int:
    """Returns how many of these may share a batch: one whose replica died goes alone.

    It may be what the replica died of, and must not take others with it a second time.
    """
    if not sum([query.attempts for query in queries]):
        return len(queries)
    return next(at for at, query in enumerate(queries) if query.attempts) or 1


def wrong_rows(outputs: Batch, rows: int) -> ModelFailed | None:
    """Returns the error for outputs that are not one per row: whose are they?"""
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            return ModelFailed(
                f"the model gave output {name!r} of shape {list(array.shape)} for {rows} rows",
                remedy="Each output needs one entry per row: mend the model.",
            )
    return None
