"""Statistics of a table that arrives in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.casting import ARROW, supported, type_of, without_views
from tidemill.data.statistics.column import ColumnState
from tidemill.data.statistics.sketches import Floats
from tidemill.data.statistics.state import pack, unpack
from tidemill.data.summaries import TableStatistics
from tidemill.foundation.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnPieces:
    """A column of some rows, piece by piece; ``size_bytes`` tells about how much it is."""

    name: str
    type: pa.DataType
    size_bytes: int
    pieces: Iterable[pa.ChunkedArray]


class Statistics:
    """Mergeable statistics of a table that arrives in pieces, in one pass and bounded memory.

    Counts, extremes, means and deviations are exact. Distinct values and the most frequent ones
    are exact up to 1,000 of them, and quantiles and histograms up to 16,384; beyond that, each
    result says how wrong it may be. The same pieces in the same order give the same bytes.

    Args:
        weight: a column of finite numbers from 0; by it, rows are counted a second time.

    Example:
        >>> first, second = Statistics(), Statistics()
        >>> first.update(pa.table({"x": [1, 2]}))
        >>> second.update(pa.table({"x": [3, None]}))
        >>> first.merge(second)
        >>> x = first.result().column("x")
        >>> x.mean, x.median, x.missing, x.distinct
        (2.0, 2.0, 1, 3)
    """

    def __init__(self, *, weight: str | None = None) -> None:
        self._weight = weight
        self._rows = 0
        self._columns: dict[str, ColumnState] = {}

    def update(self, table: pa.Table, *, pool: Executor | None = None) -> None:
        """Takes rows in: numbers, booleans, timestamps, strings, and lists of such.

        Where they are refused, none is taken in.

        Args:
            table: a piece.
            pool: where columns are worked on side by side.

        Raises:
            InvalidInput: a column is of another type than before, or of one that can't be kept;
                two have one name; or a weight is missing, negative or not finite.
        """
        columns = self._of(table.schema)
        weights = None if self._weight is None else weights_of(table, self._weight)
        each = map if pool is None else pool.map
        plain = [*each(_checked, columns, columns.values(), table.columns)]
        self._columns |= columns
        self._rows += table.num_rows
        list(each(lambda column, values: _take(column, values, weights), columns.values(), plain))

    def update_columns(self, rows: int, columns: Sequence[ColumnPieces], *, pool: Executor) -> None:
        """Takes rows in, column by column; else as ``update`` does, without a weight.

        After an error the statistics are spent: some columns may have rows that others lack.
        """
        states = self._of(pa.schema([(one.name, one.type) for one in columns]))
        self._columns |= states
        self._rows += rows

        def take(column: ColumnPieces) -> None:
            state = states[column.name]
            for piece in column.pieces:
                _take(state, _checked(column.name, state, piece), None)

        # The longest first, so that all end together.
        list(pool.map(take, sorted(columns, key=lambda one: -one.size_bytes)))

    def _of(self, schema: pa.Schema) -> dict[str, ColumnState]:
        """Returns the columns, new ones among them; refuses those that can't be kept."""
        if len(set(schema.names)) < len(schema.names):
            raise InvalidInput("two columns have one name", remedy="Rename one.")
        columns = {}
        for field in schema:
            plain = plain_array(pa.chunked_array([pa.nulls(0, field.type)]), field.name)
            new = ColumnState(type=type_of(_inner(plain.type)))
            columns[field.name] = self._columns.get(field.name, new)
        return columns

    def merge(self, other: Statistics) -> None:
        """Takes another's rows in, or, where they are refused, none.

        Raises:
            InvalidInput: a column is of another type there, or other weights were counted.
        """
        if self._weight != other._weight:
            raise InvalidInput(
                f"statistics by weight {self._weight!r} cannot be merged with those by "
                f"{other._weight!r}",
                remedy="Count all pieces by the same weight.",
            )
        for name, column in other._columns.items():
            if name in self._columns and column.count > column.missing:
                self._columns[name].check(column.type)
        self._rows += other._rows
        for name, column in other._columns.items():
            self._columns.setdefault(name, ColumnState(type=column.type)).merge(column)

    def result(self) -> TableStatistics:
        """Returns what is known so far; a row of a piece without a column has no value in it."""
        return TableStatistics(
            rows=self._rows,
            columns=tuple(
                column.result(name, absent=self._rows - column.count)
                for name, column in self._columns.items()
            ),
        )

    def to_bytes(self) -> bytes:
        """Returns all that ``merge`` needs, compressed; the same statistics give the same bytes."""
        return pack(self._rows, self._weight, self._columns)

    @staticmethod
    def from_bytes(data: bytes) -> Statistics:
        """Returns what ``to_bytes`` kept.

        Raises:
            Corrupted: it is something else, or of a later version.
        """
        rows, weight, columns = unpack(data)
        found = Statistics(weight=weight)
        found._rows, found._columns = rows, columns
        return found


def _checked(name: str, column: ColumnState, values: pa.ChunkedArray) -> pa.Array:
    """Returns values as a column takes them; refuses those of another type than it has."""
    plain = plain_array(values, name, coded=True)
    if plain.null_count < len(plain):
        column.check(type_of(_inner(plain.type)))
    return plain


def _take(column: ColumnState, plain: pa.Array, weights: Floats | None) -> None:
    if plain.null_count < len(plain):
        column.become(type_of(_inner(plain.type)))
    column.update(plain, weights)


def plain_array(column: pa.ChunkedArray, name: str, *, coded: bool = False) -> pa.Array:
    """Returns a column as one array of a type that can be kept, or of lists of such.

    Args:
        column: of a table.
        name: of the column, for errors.
        coded: texts of a small dictionary stay so.

    Raises:
        InvalidInput: it is of no such type, or a number is too large for one.
    """
    values = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.nulls(0, column.type)
    if (kind := without_views(values.type)) != values.type:
        values = values.cast(kind)
    if isinstance(values, pa.DictionaryArray):
        if coded and _small(values):
            return values
        values = values.dictionary_decode()
    kind = values.type
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    inner = kind.value_type if any(test(kind) for test in lists) else kind
    if not supported(inner):
        raise InvalidInput(
            f"column {name!r} is of type {kind}, which can't be kept",
            remedy="Write it as numbers, booleans, timestamps, strings, or lists of them.",
        )
    wanted = ARROW[type_of(inner)]
    wanted = wanted if inner is kind else pa.list_(wanted)
    if kind == wanted:
        return values
    try:
        exact = not (pa.types.is_timestamp(inner) or pa.types.is_decimal(inner))
        return values.cast(wanted, safe=exact)
    except pa.ArrowException as error:
        raise InvalidInput(
            f"column {name!r} cannot be kept: {error}", remedy="Write it as float64 or as text."
        ) from error


def _small(coded: pa.DictionaryArray) -> bool:
    """Tells whether a dictionary of texts has each once, and fewer than there are rows."""
    texts = coded.dictionary
    return (
        pa.types.is_string(texts.type)
        and not texts.null_count
        and len(texts) <= len(coded)
        and pc.count_distinct(texts).as_py() == len(texts)
    )


def _inner(kind: pa.DataType) -> pa.DataType:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind)
    return kind.value_type if lists else kind


def weights_of(table: pa.Table, weight: str) -> Floats:
    """Returns the weights of a table's rows.  # (rows,)

    Raises:
        InvalidInput: there is no such column, or a weight is missing, negative or not finite.
    """
    column = table.column(named(weight, table.column_names))
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise InvalidInput(
            f"weight {weight!r} is a column of {column.type}", remedy="Name a column of numbers."
        )
    weights = np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)
    if column.null_count or not np.isfinite(weights).all() or (weights < 0).any():
        raise InvalidInput(
            f"a weight in {weight!r} is missing, negative or not finite",
            remedy="Give each row a finite weight from 0.",
        )
    return weights


def named(column: str, columns: Sequence[str]) -> str:
    """Returns the name of a column that is there.

    Raises:
        InvalidInput: it isn't.
    """
    if column not in columns:
        known = ", ".join(columns[:30])
        raise InvalidInput(f"there is no column {column!r}", remedy=f"Columns: {known}.")
    return column
