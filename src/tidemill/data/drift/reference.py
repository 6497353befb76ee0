"""Reference rows, frozen: the cells of every column, and how many rows each held.

Rows are read twice, in batches: a sample of at most ``SAMPLE`` rows, evenly spread, places the
cells, and then every row is counted. Memory does not grow with rows. The same rows give the same
reference, byte by byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.data.drift.cells import (
    Cells,
    NumberCounter,
    count_texts,
    number_cells,
    text_cells,
)
from tidemill.data.frames import as_table
from tidemill.foundation.errors import Corrupted, InvalidInput

SAMPLE = 1 << 16
BATCH_ROWS = 1 << 17
THREADS = 2
LAYOUT = "reference1"
"""Names the layout of a stored reference, and the laws by which cells are placed."""

_MAGIC = b"TIDEMILL REFERENCE 1\n"
_MOST_BYTES = 1 << 30

Floats = npt.NDArray[np.float64]


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """How many of some rows are in each cell of a column.

    Attributes:
        counts: rows with a value, by cell.
        missing: rows without; NaN is no value.
        low: the least number, if there is one.
        high: the largest.
    """

    counts: tuple[int, ...]
    missing: int
    low: float | None = None
    high: float | None = None

    @property
    def present(self) -> int:
        """How many rows have a value."""
        return sum(self.counts)

    def __add__(self, more: Tally) -> Tally:
        lows = [low for low in (self.low, more.low) if low is not None]
        highs = [high for high in (self.high, more.high) if high is not None]
        return Tally(
            counts=tuple(a + b for a, b in zip(self.counts, more.counts, strict=True)),
            missing=self.missing + more.missing,
            low=min(lows, default=None),
            high=max(highs, default=None),
        )


class FrozenColumn(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a reference: its cells, and the reference rows in them."""

    name: str
    cells: Cells
    tally: Tally


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What later rows are compared with.

    Attributes:
        rows: how many reference rows there were.
        columns: in the order of the rows.
        left_out: columns that were not counted, and why.
    """

    rows: int
    columns: tuple[FrozenColumn, ...]
    left_out: dict[str, str] = {}

    def to_bytes(self) -> bytes:
        """Returns what ``from_bytes`` reads: compressed, and with its own sha256."""
        plain = msgspec.msgpack.encode(self)
        packed: bytes = pa.Codec("zstd").compress(plain, asbytes=True)
        size = len(plain).to_bytes(8, "little")
        return _MAGIC + hashlib.sha256(size + packed).digest() + size + packed

    @staticmethod
    def from_bytes(data: bytes) -> Reference:
        """Returns the reference that ``to_bytes`` gave.

        Raises:
            Corrupted: these are not its bytes.
        """
        body = data[len(_MAGIC) :]
        digest, size, packed = body[:32], body[32:40], body[40:]
        whole = data.startswith(_MAGIC) and hashlib.sha256(size + packed).digest() == digest
        if not whole or int.from_bytes(size, "little") > _MOST_BYTES:
            raise Corrupted(
                "a stored reference is not what was written",
                remedy="Delete it; it is made again from its snapshot.",
            )
        plain = pa.Codec("zstd").decompress(packed, int.from_bytes(size, "little"), asbytes=True)
        return msgspec.msgpack.decode(plain, type=Reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedRows:
    """Rows in the cells of a reference.

    Attributes:
        rows: how many.
        tallies: by column.
        errors: columns that could not be counted, and why.
        new: columns that the reference does not have.
    """

    rows: int
    tallies: Mapping[str, Tally]
    errors: Mapping[str, str] = field(default_factory=dict)
    new: tuple[str, ...] = ()

    def __add__(self, more: CountedRows) -> CountedRows:
        """Returns these rows and others that were counted in the same cells."""
        tallies = {
            name: tally + more.tallies[name]
            for name, tally in self.tallies.items()
            if name in more.tallies
        }
        return CountedRows(
            rows=self.rows + more.rows,
            tallies=tallies,
            errors={**self.errors, **more.errors},
            new=tuple(dict.fromkeys((*self.new, *more.new))),
        )


def freeze(data: Any, *, leave_out: Mapping[str, str] | None = None) -> Reference:
    """Returns the reference that rows make.

    Args:
        data: an Arrow table, a Polars or pandas frame, or paths of Parquet files of the same
            columns.
        leave_out: columns that are not to be counted, and why.

    Raises:
        InvalidInput: there is no row, or the data is none of that.
    """
    source = _Source(data)
    if not source.rows:
        raise InvalidInput("there are no reference rows", remedy="Give at least one row.")
    left_out = {name: why for name, why in (leave_out or {}).items() if name in source.kinds}
    families = {}
    for name, kind in source.kinds.items():
        family = _family(kind)
        if name in left_out:
            continue
        if family is None:
            left_out[name] = f"values of type {kind} are not compared"
        else:
            families[name] = family
    cells = _placed(source, families)
    tallies = _tallied(source, cells)
    columns = tuple(
        FrozenColumn(name=name, cells=cells[name], tally=tallies[name]) for name in cells
    )
    return Reference(rows=source.rows, columns=columns, left_out=left_out)


def count(
    reference: Reference, data: Any, *, leave_out: Collection[str] = frozenset()
) -> CountedRows:
    """Returns rows, counted in the cells of a reference.

    Args:
        reference: as ``freeze`` made it.
        data: as for ``freeze``.
        leave_out: columns that need not be counted.

    Raises:
        InvalidInput: the data is none of that.
    """
    source = _Source(data)
    cells, errors = {}, {}
    for column in reference.columns:
        kind = source.kinds.get(column.name)
        if column.name in leave_out:
            continue
        wanted = "numbers" if column.cells.kind == "numbers" else "texts"
        if kind is None:
            errors[column.name] = "the rows have no such column"
        elif _family(kind) not in (wanted, "nothing"):
            errors[column.name] = f"it was {wanted} in the reference and is {kind} now"
        else:
            cells[column.name] = column.cells
    known = {column.name for column in reference.columns} | set(reference.left_out)
    new = tuple(name for name in source.kinds if name not in known and name not in leave_out)
    return CountedRows(rows=source.rows, tallies=_tallied(source, cells), errors=errors, new=new)


# --- where rows come from ----------------------------------------------------------------------


class _Source:
    """Rows of a frame or of Parquet files, in batches."""

    def __init__(self, data: Any) -> None:
        self._paths = _paths(data)
        self._table: pa.Table | None = None
        try:
            if self._paths is None:
                self._table = as_table(data)
                self.rows = self._table.num_rows
                schema = self._table.schema
            else:
                files = [pq.ParquetFile(path) for path in self._paths]
                self.rows = sum(file.metadata.num_rows for file in files)
                schema = files[0].schema_arrow
        except (OSError, pa.ArrowException) as error:
            raise InvalidInput(
                f"the rows cannot be read: {error}", remedy="Give a frame or Parquet files."
            ) from error
        self.kinds = dict(zip(schema.names, schema.types, strict=True))

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yields some columns of all rows, in order."""
        if not names:
            return
        if self._table is not None:
            yield from self._table.select(list(names)).to_batches(max_chunksize=BATCH_ROWS)
            return
        texts = [name for name in names if _family(self.kinds[name]) == "texts"]
        try:
            for path in self._paths or ():
                file = pq.ParquetFile(path, read_dictionary=texts, pre_buffer=False)
                for batch in file.iter_batches(BATCH_ROWS, columns=list(names)):
                    yield batch.select(list(names))
        except (OSError, KeyError, pa.ArrowException) as error:
            raise InvalidInput(
                f"the rows cannot be read: {error}", remedy="Give Parquet files of equal columns."
            ) from error


def _paths(data: Any) -> list[Path] | None:
    if isinstance(data, str | Path):
        return [Path(data)]
    if isinstance(data, Sequence) and data and all(isinstance(one, str | Path) for one in data):
        return [Path(one) for one in data]
    return None


def _family(kind: pa.DataType) -> str | None:
    """Says how a column is counted: ``numbers``, ``texts``, ``nothing``, or not at all."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_null(kind):
        return "nothing"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "numbers"
    if types.is_timestamp(kind) or types.is_date(kind):
        return "numbers"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "texts"
    return "texts" if types.is_boolean(kind) else None


# --- counting --------------------------------------------------------------------------------


def _placed(source: _Source, families: Mapping[str, str]) -> dict[str, Cells]:
    """Returns the cells of each column, from a sample of the rows."""
    step = -(-source.rows // SAMPLE)
    numbers: dict[str, list[Floats]] = {}
    texts: dict[str, dict[str, int]] = {}
    before = 0
    for batch in source.batches(list(families)):
        rows = pa.array(np.arange(-before % step, batch.num_rows, step))
        before += batch.num_rows
        for name, family in families.items():
            values = batch.column(name).take(rows) if step > 1 else batch.column(name)
            if family == "texts":
                _add_texts(texts.setdefault(name, {}), values)
            else:
                numbers.setdefault(name, []).append(_numbers(values)[0])
    found = {}
    for name, family in families.items():
        if family == "texts":
            found[name] = text_cells(texts.get(name, {}))
        else:
            found[name] = number_cells(np.concatenate([np.empty(0), *numbers.get(name, [])]))
    return found


def _add_texts(times: dict[str, int], values: pa.Array) -> None:
    for pair in pc.value_counts(_texts(values).cast(pa.string())).to_pylist():
        if pair["values"] is not None and len(times) <= 4 * SAMPLE:
            times[pair["values"]] = times.get(pair["values"], 0) + pair["counts"]


class _Counter:
    """One column's tally while rows come."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._numbers = NumberCounter(cells) if cells.ordered else None
        self._counts = np.zeros(cells.count, np.int64)
        self._missing = 0
        self._low: float | None = None
        self._high: float | None = None

    def add(self, values: pa.Array) -> None:
        """Counts some rows."""
        if pa.types.is_null(values.type):
            self._missing += len(values)
        elif self._numbers is None:
            texts = _texts(values)
            self._missing += texts.null_count
            self._counts += count_texts(self._cells, texts)
        else:
            numbers, missing = _numbers(values)
            self._missing += missing
            if len(numbers):
                low, high = float(numbers.min()), float(numbers.max())
                self._low = low if self._low is None else min(self._low, low)
                self._high = high if self._high is None else max(self._high, high)
                self._counts += self._numbers.count(numbers)

    def result(self) -> Tally:
        """Returns the tally."""
        return Tally(
            counts=tuple(self._counts.tolist()),
            missing=self._missing,
            low=self._low,
            high=self._high,
        )


def _tallied(source: _Source, cells: Mapping[str, Cells]) -> dict[str, Tally]:
    counters = {name: _Counter(one) for name, one in cells.items()}
    with ThreadPoolExecutor(THREADS) as pool:
        for batch in source.batches(list(cells)):
            for done in [pool.submit(one.add, batch.column(n)) for n, one in counters.items()]:
                done.result()
    return {name: one.result() for name, one in counters.items()}


def _numbers(values: pa.Array) -> tuple[Floats, int]:
    """Returns the numbers, times as seconds since the epoch, and how many are missing."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    rows = len(values)
    if values.null_count:
        values = values.drop_null()
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        times = values.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False)
        found = times.cast(pa.int64()).to_numpy(zero_copy_only=False) / 1e6
    elif pa.types.is_decimal(kind):
        found = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    else:
        found = values.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    if len(found) and np.isnan(found.min()):  # NaN goes through
        found = found[~np.isnan(found)]
    return np.asarray(found, np.float64), rows - len(found)


def _texts(values: pa.Array) -> pa.DictionaryArray:
    kind = values.type
    if pa.types.is_null(kind):
        return values.cast(pa.string()).dictionary_encode()
    if pa.types.is_dictionary(kind):
        distinct = values.dictionary
        clean = not distinct.null_count and len(distinct.unique()) == len(distinct)
        if clean and pa.types.is_string(distinct.type):
            return values
        values = values.dictionary_decode()
    if not pa.types.is_string(values.type):
        values = values.cast(pa.large_string())
    return values.dictionary_encode()
