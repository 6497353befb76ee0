"""One row of columns as plain values: what a question by key and its answer mostly are.

A key that comes in a URL, and the answer that a table holds to it, need no array on their way to
the client and to the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tidemill.models.signature import Batch, Column


class RowForm:
    """What the rows of some columns have in common.

    Args:
        columns: in order.
    """

    __slots__ = ("columns", "names", "nested")

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)
        self.names = tuple(column.name for column in columns)
        self.nested = any(column.shape for column in columns)


class Row:
    """One row: a Python value for each column, or lists of its shape.

    Each is what the column's array would say of itself, to the last bit: whoever wants an array
    gets the same from either.

    Args:
        form: the columns.
        values: one for each column, in order.

    Example:
        >>> row = Row(RowForm([Column("hour", "int64"), Column("y", "float32", (2,))]), [5, [1, 2]])
        >>> {name: array.tolist() for name, array in row.arrays().items()}
        {'hour': [5], 'y': [[1.0, 2.0]]}
    """

    __slots__ = ("form", "values")

    def __init__(self, form: RowForm, values: Sequence[Any]) -> None:
        self.form = form
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return self.form.names

    @property
    def stored(self) -> Sequence[Any]:
        """The values as the ledger keeps them: as lists of one row, where one is a list itself."""
        return [[value] for value in self.values] if self.form.nested else self.values

    def arrays(self) -> Batch:
        """Returns the row as arrays (1, …)."""
        return {
            column.name: np.array([value], column.dtype).reshape((1, *column.shape))
            for column, value in zip(self.form.columns, self.values, strict=True)
        }
