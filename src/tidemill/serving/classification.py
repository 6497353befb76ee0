"""The protocol's classification extension: an output as its best classes, in text."""

from __future__ import annotations

import math

import numpy as np

from tidemill.foundation.errors import InvalidInput, TooLarge
from tidemill.models.signature import Array, Column
from tidemill.serving.query import Query
from tidemill.serving.tensors import datatype_of, show

MAX_ELEMENTS = 1_000_000
MAX_CLASSES = 65_536
"""Values of one output that are sorted for one answer, and classes that are written, at most."""

_COUNTED = frozenset(
    {"FP32", "FP64", *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))}
)


class Classified:
    """One output of which a client wants the best classes.

    Args:
        column: the output.
        count: how many classes, at most.

    Raises:
        InvalidInput: it is not of numbers, or too large.
    """

    __slots__ = ("column", "of", "width")

    def __init__(self, column: Column, count: int) -> None:
        if not has_classes(column):
            raise InvalidInput(
                f"class result not available for output {column.name!r} due to unsupported type "
                f"{datatype_of(column)!r}",
                remedy="Ask for the output as it is.",
            )
        self.of = column.name
        self.width = math.prod(column.shape)
        self.column = Column(column.name, "string", (min(count, self.width),))
        self.check(1)

    def check(self, n: int) -> None:
        """Refuses to classify more rows than it may.

        Raises:
            TooLarge: there are too many values or classes in all.
        """
        written = self.column.shape[0]
        if n * self.width > MAX_ELEMENTS or n * written > MAX_CLASSES:
            raise TooLarge(
                f"classification output {self.of!r} is too large: {n} rows of {self.width} values, "
                f"{written} classes each",
                remedy=f"At most {MAX_ELEMENTS} values and {MAX_CLASSES} classes in one answer.",
            )

    def texts(self, array: Array, labels: tuple[str, ...]) -> Array:
        """Returns each row's best classes (n, count) as "value:index", or "value:index:label".

        The highest value comes first, of equal ones the lower index. Numbers with a fraction are
        written with six digits after the point, as Triton does.
        """
        rows = array.reshape(len(array), self.width)
        count = self.column.shape[0]
        best = _best(rows, count)
        values = np.take_along_axis(rows, best, axis=1)
        form = "{:f}:{}" if array.dtype.kind == "f" else "{}:{}"
        known = labels if len(labels) == self.width else ()
        found = np.empty(best.size, object)
        found[:] = [
            form.format(value, index) + (f":{known[index]}" if known else "")
            for value, index in zip(values.ravel().tolist(), best.ravel().tolist(), strict=True)
        ]
        return found.reshape(best.shape)


def _best(rows: Array, count: int) -> Array:
    """Returns where each row's highest values are (n, count), in their order; NaN is the lowest."""
    if rows.dtype.kind == "f":
        rows = np.where(np.isnan(rows), -np.inf, rows)
    n, width = rows.shape
    if count < width:  # of those that are just high enough, the first ones; sorting all is slow
        least = np.partition(rows, width - count, axis=1)[:, width - count, np.newaxis]
        above, equal = rows > least, rows == least
        room = count - above.sum(axis=1, keepdims=True)
        first = np.cumsum(equal, axis=1) <= room
        chosen = np.nonzero(above | (equal & first))[1].reshape(n, count)
    else:
        chosen = np.broadcast_to(np.arange(width), rows.shape)
    values = np.take_along_axis(rows, chosen, axis=1)
    # Backwards and back: of equal values, the one that came first stays first.
    order = count - 1 - values[:, ::-1].argsort(axis=1, kind="stable")[:, ::-1]
    return np.take_along_axis(chosen, order, axis=1)


def has_classes(column: Column) -> bool:
    """Says whether a client may ask for an output's best classes."""
    return datatype_of(column) in _COUNTED


def read_count(parameters: dict[str, object] | None) -> int:
    """Returns how many classes an output's parameters ask for; 0 for the output as it is.

    Raises:
        InvalidInput: it is not a whole number, 0 or more.
    """
    count = 0 if parameters is None else parameters.get("classification", 0)
    if type(count) is not int or count < 0:
        raise InvalidInput(
            f"unable to set 'classification' to {show(count)}",
            remedy="Send a whole number: how many classes you want.",
        )
    return count


def classified(query: Query, wanted: tuple[Classified, ...], labels: tuple[str, ...]) -> Query:
    """Returns an answered query whose outputs are the classes that its client wants.

    The query itself stays as it is: others may share its answer.
    """
    texts = {each.of: each.texts(query.outputs[each.of], labels) for each in wanted}
    return query.with_outputs({**query.outputs, **texts})
