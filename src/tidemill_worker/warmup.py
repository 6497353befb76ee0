"""A made-up row, so that a model's first real batch is not its slowest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from tidemill_worker.frames import Batch


class Column(Protocol):
    """What is needed of a signature's column; ``shape`` is that of one row."""

    @property
    def name(self) -> str:
        """The column's name."""

    @property
    def type(self) -> str:
        """Its type: "string", "bool", "int64", "float32", …"""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row's value; () is a scalar."""


def synthetic_row(columns: Iterable[Column]) -> Batch:
    """Returns a batch of one row: zeros, and empty strings.

    Example:
        >>> from types import SimpleNamespace
        >>> synthetic_row([SimpleNamespace(name="x", type="float32", shape=(2,))])
        {'x': array([[0., 0.]], dtype=float32)}
    """
    return {column.name: _values(column) for column in columns}


def _values(column: Column) -> Any:
    shape = (1, *column.shape)
    if column.type == "string":
        return np.full(shape, "", dtype=object)
    return np.zeros(shape, dtype=column.type)
