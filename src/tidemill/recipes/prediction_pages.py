"""Pages of the warehouse: rows predicted beforehand, filtered by key, from a cursor on.

Rows come in the order of the build's files, which never change: a cursor names the table and the
place in it, so that pages go on where they ended, whatever is built meanwhile. A page is bounded in
rows, bytes and time; it may have fewer rows than were asked for, or none, and go on all the same.
Values are compared as Arrow's values, never written into a query.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.foundation.names import check_name
from tidemill.recipes.refresh import DIGEST
from tidemill.tables.catalog import list_tables
from tidemill.tables.predictions import PredictionPart, list_parts
from tidemill.tables.table import TableInfo

Op = Literal["eq", "lt", "le", "gt", "ge"]

ROWS, MAX_ROWS = 1000, 65_536
MAX_BYTES = 16 << 20
WITHIN_S = 5.0
MAX_FILTERS, MAX_COLUMNS = 100, 1000

Places = npt.NDArray[np.intp]

_BATCH = 8192
_FILTER = re.compile(r"(?P<column>.+?):(?P<op>eq|lt|le|gt|ge):(?P<value>.*)\Z", re.DOTALL)
_CURSOR = re.compile(r"([0-9a-f]{16})-(\d{1,9})-(\d{1,9})-(\d{1,18})\Z", re.ASCII)
_COMPARE: dict[str, Callable[..., Any]] = {
    "eq": pc.equal,
    "lt": pc.less,
    "le": pc.less_equal,
    "gt": pc.greater,
    "ge": pc.greater_equal,
}


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What a key column's value must be: equal to, below or above a value, given as text."""

    column: str
    op: Op
    value: str


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """The place of a row: in which table, file, row group, and where in that."""

    table: str
    part: int = 0
    group: int = 0
    row: int = 0

    def __str__(self) -> str:
        return f"{self.table}-{self.part}-{self.group}-{self.row}"


class PageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for.

    Attributes:
        application: whose predictions.
        history: of all its tables, the newest first; else of the newest, or the cursor's.
        columns: only these, in this order; None for all.
        filters: all of them hold.
        limit: rows of a page.
        cursor: where it begins; None for the first row.
    """

    application: str
    history: bool = False
    columns: tuple[str, ...] | None = None
    filters: tuple[Filter, ...] = ()
    limit: int = ROWS
    cursor: Cursor | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some rows, all of one table, and where the next ones begin; None behind the last."""

    info: TableInfo
    rows: pa.Table
    next: Cursor | None


def read_filter(text: str) -> Filter:
    """Returns a filter from its text, ``COLUMN:OP:VALUE``.

    Raises:
        InvalidInput: it is none.

    Example:
        >>> read_filter("hour:ge:17")
        Filter(column='hour', op='ge', value='17')
    """
    found = _FILTER.match(text)
    if found is None:
        raise InvalidInput(
            f"filter {text[:100]!r} is none",
            remedy=f"Write COLUMN:OP:VALUE, with {', '.join(get_args(Op))} for OP.",
        )
    return msgspec.convert(found.groupdict(), Filter)


def read_cursor(text: str) -> Cursor:
    """Returns a cursor from what a page said.

    Raises:
        InvalidInput: no page said that.
    """
    found = _CURSOR.match(text)
    if found is None:
        raise InvalidInput(
            f"cursor {text[:100]!r} is none", remedy="Give what the page before had as next."
        )
    table, part, group, row = found.groups()
    return Cursor(table=table, part=int(part), group=int(group), row=int(row))


def read_page(home: Home, asked: PageRequest) -> Page:
    """Returns one page.

    Raises:
        NotFound: the application has no predictions, or the cursor's table is gone.
        InvalidInput: a column, a value or a number is wrong.
    """
    check_name("application", asked.application)
    if not 1 <= asked.limit <= MAX_ROWS:
        raise InvalidInput(f"limit is {asked.limit}", remedy=f"Give 1 to {MAX_ROWS}.")
    if len(asked.filters) > MAX_FILTERS:
        raise InvalidInput(f"there are {len(asked.filters)} filters", remedy="Give fewer.")
    columns = asked.columns or ()
    if len(columns) > MAX_COLUMNS or len(set(columns)) < len(columns):
        raise InvalidInput(
            f"there are {len(columns)} columns, {len(set(columns))} of them different",
            remedy=f"Name at most {MAX_COLUMNS}, each once.",
        )
    tables = _tables(home, asked)
    info, parts = tables[0]
    page = _Reading(home, info, parts, asked).page()
    older = tables[1][0].id if len(tables) > 1 else None
    if page.next is None and older is not None:
        return msgspec.structs.replace(page, next=Cursor(table=older))
    return page


def _tables(home: Home, asked: PageRequest) -> list[tuple[TableInfo, list[PredictionPart]]]:
    """Returns the table to read and, in a history, the one behind it."""
    infos = list_tables(home.store, asked.application)
    if asked.cursor is not None:
        places = [at for at, info in enumerate(infos) if info.id == asked.cursor.table]
        if not places:
            raise NotFound(
                f"application {asked.application!r} has no table {asked.cursor.table!r}",
                remedy="Begin again without a cursor.",
            )
        infos = infos[places[0] :]
    found = []
    for info in infos:
        parts = list_parts(home, info.id)
        if parts:
            found.append((info, parts))
        if len(found) == (2 if asked.history else 1):
            break
    if not found:
        raise NotFound(
            f"application {asked.application!r} has no predictions",
            remedy="tidemill table build makes them.",
        )
    return found


class _Reading:
    """One page of one table, as it is read."""

    def __init__(
        self, home: Home, info: TableInfo, parts: list[PredictionPart], asked: PageRequest
    ) -> None:
        self._home = home
        self._clock: Clock = home.clock
        self._info = info
        self._parts = parts
        self._asked = asked
        cursor = asked.cursor if asked.cursor and asked.cursor.table == info.id else None
        self._at = cursor or Cursor(table=info.id)
        self._until = home.clock.monotonic() + WITHIN_S
        self._found: list[pa.Table] = []
        self._left = asked.limit
        self._bytes = 0

    def page(self) -> Page:
        """Reads until the page is full, its time is over, or the table is."""
        schema: pa.Schema | None = None
        for number in range(self._at.part, len(self._parts)):
            if schema is not None and self._is_full():
                return self._page(Cursor(table=self._info.id, part=number))
            path = self._home.files.fetch(self._parts[number].file_key)
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
                plan = _Plan(self._info, schema, self._asked)
                self._found = self._found or [plan.nothing()]
                if not self._read_part(file, plan, number):
                    return self._page(self._at)
        if schema is None:  # a cursor behind the last file
            raise InvalidInput("the cursor is behind the last row", remedy="Begin again.")
        return self._page(None)

    def _page(self, after: Cursor | None) -> Page:
        return Page(info=self._info, rows=pa.concat_tables(self._found), next=after)

    def _read_part(self, file: pq.ParquetFile, plan: _Plan, number: int) -> bool:
        """Reads on in one file; tells whether it came to its end with room for more."""
        first = self._at.group if self._at.part == number else 0
        for group in range(first, file.num_row_groups):
            begins = self._at.row if (self._at.part, self._at.group) == (number, group) else 0
            wanted = plan.may_match(file.metadata.row_group(group))
            if wanted and not self._read_group(file, plan, number, group, begins):
                return False
        return True

    def _read_group(
        self, file: pq.ParquetFile, plan: _Plan, number: int, group: int, begins: int
    ) -> bool:
        passed = 0
        for batch in file.iter_batches(_BATCH, row_groups=[group], columns=plan.read):
            rows = pa.Table.from_batches([batch])
            places = plan.places(rows, max(0, begins - passed))
            taken = places[: self._left]
            if len(taken):
                self._found.append(plan.shown(rows.take(pa.array(taken))))
                self._left -= len(taken)
                self._bytes += max(self._found[-1].nbytes, len(taken) * len(plan.columns) * 8)
            passed += rows.num_rows
            if passed <= begins:  # rows of the pages before
                continue
            after = passed if len(taken) == len(places) else passed - rows.num_rows + taken[-1] + 1
            if self._is_full():
                self._at = Cursor(table=self._info.id, part=number, group=group, row=int(after))
                return self._is_last(file, number, group, int(after))
        return True

    def _is_full(self) -> bool:
        late = self._clock.monotonic() > self._until
        return self._left == 0 or self._bytes >= MAX_BYTES or late

    def _is_last(self, file: pq.ParquetFile, number: int, group: int, after: int) -> bool:
        """Tells whether nothing is behind a place."""
        last = (number, group) == (len(self._parts) - 1, file.num_row_groups - 1)
        return last and after >= file.metadata.row_group(group).num_rows


class _Plan:
    """What is read of a file, what is kept of it, and what is shown."""

    def __init__(self, info: TableInfo, schema: pa.Schema, asked: PageRequest) -> None:
        self._origin = _origin(info)
        own = [name for name in schema.names if name != DIGEST]
        self._names = [*own, *(name for name in self._origin if name not in own)]
        self.columns = list(asked.columns or self._names)
        for name in self.columns:
            if name not in self._names and not asked.history:
                raise InvalidInput(
                    f"column {name[:100]!r} is not among the predictions",
                    remedy=f"Known: {', '.join(self._names)}.",
                )
        key = {name for name, _ in info.key} & set(own)
        unknown = [each.column for each in asked.filters if each.column not in key]
        # An older table may have had another key: none of its rows is meant.
        self._never = bool(unknown) and asked.history and asked.cursor is not None
        if unknown and not self._never:
            raise InvalidInput(
                f"column {unknown[0][:100]!r} is not in the key",
                remedy=f"Filter by {', '.join(name for name, _ in info.key)}.",
            )
        known = [each for each in asked.filters if each.column in key]
        self._filters = [_compared(each, schema.field(each.column).type) for each in known]
        needed = {*self.columns, *(name for name, _, _ in self._filters)}
        self.read = [name for name in own if name in needed] or own[:1]
        self._empty = schema.empty_table().select(self.read)

    def nothing(self) -> pa.Table:
        """Returns the columns that are shown, without a row."""
        return self.shown(self._empty)

    def may_match(self, group: pq.RowGroupMetaData) -> bool:
        """Tells whether a row group may hold what is asked for, by its extremes."""
        if self._never:
            return False
        at = {group.column(i).path_in_schema: i for i in range(group.num_columns)}
        for name, op, value in self._filters:
            said = group.column(at[name]).statistics if name in at else None
            if said is None or not said.has_min_max:
                continue
            least, most, wanted = said.min, said.max, value.as_py()
            try:
                if op in ("eq", "lt", "le") and least > wanted:
                    return False
                if op in ("eq", "gt", "ge") and most < wanted:
                    return False
            except TypeError:  # they are kept as something else
                continue
        return True

    def places(self, rows: pa.Table, begins: int) -> Places:
        """Returns which rows match, from one on."""
        mask = np.ones(rows.num_rows, bool)
        mask[:begins] = False
        for name, op, value in self._filters:
            matches = _COMPARE[op](rows.column(name), value)
            mask &= pc.fill_null(matches, fill_value=False).to_numpy()
        return np.flatnonzero(mask)

    def shown(self, rows: pa.Table) -> pa.Table:
        """Returns the rows with the columns that are shown."""
        columns = [self._column(rows, name) for name in self.columns]
        return pa.table(columns, names=self.columns)

    def _column(self, rows: pa.Table, name: str) -> Any:
        if name in rows.column_names:
            return rows.column(name)
        return pa.repeat(self._origin.get(name, pa.scalar(None)), rows.num_rows)


def _origin(info: TableInfo) -> dict[str, pa.Scalar]:
    """Returns the columns that say where the rows of a table come from."""
    built = pa.scalar(round(info.built_at * 1e6), pa.timestamp("us", tz="UTC"))
    return {
        "model": pa.scalar(info.model),
        "version": pa.scalar(info.version),
        "table_id": pa.scalar(info.id),
        "built_at": built,
    }


def _compared(each: Filter, kind: pa.DataType) -> tuple[str, str, pa.Scalar]:
    """Returns a filter with its value as the column has it."""
    try:
        value = pa.scalar(_value(each.value, kind), kind)
        _COMPARE[each.op](value, value)  # some types have no order
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise InvalidInput(
            f"filter {each.column}:{each.op}:{each.value[:100]} has no value of type {kind}",
            remedy="Give one.",
        ) from error
    return each.column, each.op, value


def _value(text: str, kind: pa.DataType) -> Any:
    if pa.types.is_boolean(kind):
        return ("false", "true").index(text.lower()) == 1
    if pa.types.is_integer(kind):
        return int(text)
    if pa.types.is_floating(kind):
        return np.dtype(kind.to_pandas_dtype()).type(float(text))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return text
    return pa.scalar(text).cast(kind).as_py()
