"""A table's answers and fresh ones, in one order: first a plan by the keys alone, then the rows.

Both come in the order of their keys, and are gone through side by side, a block of each at a time.
A file of answers from which nothing goes, and to which nothing comes, is taken as it is.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.foundation.durable import replacing, write_atomic
from tidemill.foundation.errors import Corrupted
from tidemill.models.signature import Column
from tidemill.recipes.ahead import in_order
from tidemill.recipes.encoding import Encoding, Kept
from tidemill.recipes.pieces import CHUNK
from tidemill.recipes.scored_rows import column_array, file_options, read_answers
from tidemill.tables.key import KeyEncoder
from tidemill.tables.predictions import PredictionPart
from tidemill.tables.runs import KEY, bytes_array, first_above, key_order, repeated
from tidemill.training.examples import feature_batch

Order = npt.NDArray[np.int64]

_PLAN, _ORDERS = "plan.json", "orders"
_SMALL = CHUNK // 2
"""Fewer rows than that are put into one file with the next ones."""


class AmbiguousError(Exception):
    """A key has a row whose answer is known, and another one: this house's own, never shown."""


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Some rows of the base's next file, and the next fresh ones.

    Args:
        part: the number of the file.
        start: the first of its rows.
        stop: the one behind the last.
        whole: these are all of its rows, and nothing else comes.
        fresh: how many fresh ones.
        ordered: how many rows both together have; the next so many numbers of the orders say
            which. None: all, the fresh ones behind the others.
    """

    part: int
    start: int
    stop: int
    whole: bool
    fresh: int
    ordered: int | None

    @property
    def rows(self) -> int:
        """How many rows come of it."""
        return self.stop - self.start + self.fresh if self.ordered is None else self.ordered


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is made of the base's files, and of fresh rows.

    Args:
        parts: the keys of these files.
        pieces: in order.
    """

    parts: list[str]
    pieces: list[Piece]


def write_plan(
    files: Sequence[tuple[PredictionPart, Path]],
    unchanged: npt.NDArray[np.bool_],
    fresh: Path,
    key: Sequence[Column],
    names: Sequence[str],
    *,
    keep: bool,
    folder: Path,
) -> int:
    """Says in a folder which rows of some files stay, and where fresh ones come between them.

    Args:
        files: the answers, in the order of the keys, and where they are here.
        unchanged: which of their rows the source has as they are.
        fresh: its other rows, each key once, in the order of the keys.
        key: the columns of the key.
        names: what they are called among the fresh rows.
        keep: whether rows stay that the source lacks.
        folder: where the plan is left.

    Returns:
        How many fresh rows have the key of a row that goes for them.

    Raises:
        AmbiguousError: a fresh row has the key of one that is unchanged.
        Corrupted: the answers are not in order.
    """
    encoder = KeyEncoder([(column.name, column.type) for column in key])
    ahead = _Ahead(_keys_of_fresh(fresh, key, names, encoder))
    pieces: list[Piece] = []
    changed = first = 0
    with (folder / _ORDERS).open("wb") as orders:

        def add(part: int, span: tuple[int, int], order: Order | None, more: int = 0) -> None:
            start, stop = span
            whole = order is None and more == 0 and start == 0 and stop == rows.num_rows
            pieces.append(
                Piece(
                    part=part, start=start, stop=stop, whole=whole, fresh=more,
                    ordered=None if order is None else len(order),
                )
            )  # fmt: skip
            if order is not None:
                order.astype("<i4").tofile(orders)

        for part, (_, path) in enumerate(files):
            rows = read_answers(path, [column.name for column in key])
            same = unchanged[first : first + rows.num_rows]
            first += rows.num_rows
            block = _Block(rows, key, encoder)
            while block.start < rows.num_rows:
                below = ahead.below(block.first())
                if below:
                    add(part, (block.start, block.start), None, below)
                    continue
                stop, keys = block.until(ahead)
                mine = same[block.start : stop]
                order, again = _merged(block.keys(stop), keys, mine, keep=keep)
                add(part, (block.start, stop), order, 0 if keys is None else len(keys))
                changed += again
                block.start = stop
        while left := ahead.below(None):
            add(len(files) - 1, (0, 0), None, left)
        orders.flush()
        os.fsync(orders.fileno())
    plan = Plan(parts=[part.file_key for part, _ in files], pieces=pieces)
    write_atomic(folder / _PLAN, msgspec.json.encode(plan))
    return changed


def is_plan_of(folder: Path, parts: Sequence[PredictionPart]) -> bool:
    """Says whether ``write_plan`` left a plan of these files in a folder."""
    return _read_plan(folder).parts == [part.file_key for part in parts]


def _read_plan(folder: Path) -> Plan:
    return msgspec.json.decode((folder / _PLAN).read_bytes(), type=Plan)


class _Ahead:
    """Keys that come in blocks, looked at from the front."""

    def __init__(self, blocks: Iterator[Any]) -> None:
        self._blocks = blocks
        self._block: Any = next(blocks, None)

    def last(self) -> bytes | None:
        """Returns the last key of the block at hand; None if none is left."""
        return None if self._block is None else self._block[-1].as_py()

    def first(self) -> bytes | None:
        """Returns the next key; None if none is left."""
        return None if self._block is None else self._block[0].as_py()

    def below(self, bound: bytes | None) -> int:
        """Takes the block at hand if it is all below a key, or if there is no such; its size."""
        last = self.last()
        if last is None or (bound is not None and last >= bound):
            return 0
        return len(self._cut(len(self._block)))

    def up_to(self, bound: bytes) -> Any:
        """Takes the keys of the block at hand up to one; None if there is none."""
        first = self.first()
        if first is None or first > bound:
            return None
        return self._cut(first_above(pa.table({KEY: self._block}), bound))

    def _cut(self, count: int) -> Any:
        taken, left = self._block[:count], self._block[count:]
        self._block = left if len(left) else next(self._blocks, None)
        return taken


class _Block:
    """The keys of a file of answers, made of its rows as far as they are needed."""

    def __init__(self, rows: pa.Table, key: Sequence[Column], encoder: KeyEncoder) -> None:
        self._rows = rows
        self._key = key
        self._encoder = encoder
        self._all: Any = None
        self.start = 0

    def first(self) -> bytes:
        """Returns the first key that is left."""
        return self._at(self.start)

    def until(self, ahead: _Ahead) -> tuple[int, Any]:
        """Takes what is up to the last key of both; returns where it ends here, and the others.

        The others are None where none lies here.
        """
        end, last = self._rows.num_rows, self._at(self._rows.num_rows - 1)
        first, bound = ahead.first(), ahead.last()
        if first is None or bound is None or first > last:
            return end, None
        self._encode()
        if bound < last:
            end = first_above(pa.table({KEY: self._all}), bound)
        return end, ahead.up_to(min(bound, last))

    def keys(self, stop: int) -> Any:
        """Returns the keys up to a row; None where they were not needed."""
        return None if self._all is None else self._all[self.start : stop]

    def _at(self, row: int) -> bytes:
        if self._all is not None:
            found: bytes = self._all[row].as_py()
            return found
        return self._keys(self._rows.slice(row, 1))[0].as_py()  # type: ignore[no-any-return]

    def _encode(self) -> None:
        if self._all is None:
            self._all = self._keys(self._rows)
            if key_order(self._all) is not None or repeated(self._all).any():
                raise Corrupted(
                    "the answers of a table are not in the order of their keys",
                    remedy="Build with --full.",
                )

    def _keys(self, rows: pa.Table) -> Any:
        arrays = [column_array(rows, column.name, column) for column in self._key]
        return bytes_array(self._encoder.packed(arrays))


def _keys_of_fresh(
    path: Path, key: Sequence[Column], names: Sequence[str], encoder: KeyEncoder
) -> Iterator[Any]:
    own = [column.name for column in key]
    with pq.ParquetFile(path) as file:
        for at in range(file.num_row_groups):
            rows = file.read_row_group(at, list(names)).select(list(names)).rename_columns(own)
            arrays = feature_batch(rows, key)
            yield bytes_array(encoder.packed([arrays[name] for name in own]))


def _merged(
    keys: Any, fresh: Any, unchanged: npt.NDArray[np.bool_], *, keep: bool
) -> tuple[Order | None, int]:
    """Returns which rows come of both, in order, and how many fresh ones take another's place.

    None is all of the former.
    """
    count = len(unchanged)
    stays = np.ones(count, np.bool_) if keep else unchanged
    if fresh is None:
        return (None if stays.all() else np.flatnonzero(stays)), 0
    both = pa.concat_arrays([keys, fresh])
    order = key_order(both)
    order = np.arange(len(both)) if order is None else order
    twins = order[:-1][repeated(both.take(pa.array(order)))]  # a fresh one comes behind its twin
    if unchanged[twins].any():
        raise AmbiguousError
    all_stay = np.concatenate([stays, np.ones(len(fresh), np.bool_)])
    all_stay[twins] = False
    return order[all_stay[order]], len(twins)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The rows of one piece: of a file, of fresh answers, or of both."""

    path: Path
    piece: Piece
    order: npt.NDArray[np.int32] | None
    fresh: pa.Table

    def rows(self, columns: pa.Schema) -> pa.Table:
        """Returns them."""
        start, stop = self.piece.start, self.piece.stop
        if stop == start:
            return self.fresh.cast(columns)
        mine = read_answers(self.path).slice(start, stop - start)
        both = pa.concat_tables([mine.cast(columns), self.fresh.cast(columns)])
        return both if self.order is None else both.combine_chunks().take(pa.array(self.order))


def merged(
    encoding: Encoding,
    parts: Sequence[PredictionPart],
    paths: Sequence[Path],
    columns: pa.Schema,
    given: Generator[Path, None, None],
    *,
    plan: Path,
    work: Path,
) -> Generator[Kept, None, None]:
    """Yields what a table keeps of old answers and fresh ones, in the order of the keys.

    Args:
        encoding: makes it of the rows.
        parts: the files of the old answers.
        paths: where they are here.
        columns: of the answers.
        given: files of the fresh answers, in order.
        plan: as ``write_plan`` left it.
        work: a folder for new files.

    Raises:
        Corrupted: the files have other rows than the plan says.
    """
    counter = iter(range(1 << 62))

    def made(sources: list[_Source]) -> list[Kept]:
        first = sources[0]
        if len(sources) == 1 and first.piece.whole:
            known = encoding.kept(first.path)
            _check_rows(len(known.keys), sources)
            return [replace(known, part=parts[first.piece.part])]
        rows = pa.concat_tables([each.rows(columns) for each in sources]).combine_chunks()
        _check_rows(rows.num_rows, sources)
        files = max(1, round(rows.num_rows / CHUNK))
        size = -(-rows.num_rows // files)
        found = []
        for start in range(0, rows.num_rows, size):
            path = work / f"merged-{next(counter):06}.parquet"
            some = rows.slice(start, size)
            # Of a build that was killed, a file of that name may be stored by now: that one stays.
            with replacing(path, work) as unfinished:
                pq.write_table(some, unfinished, **file_options(columns))
            found.append(encoding.of(some, path))
        return found

    groups = _groups(_sources(paths, columns, given, plan))
    with closing(in_order(made, groups, threads=1)) as together:
        for found in together:
            yield from found


def _check_rows(found: int, sources: Sequence[_Source]) -> None:
    planned = sum(each.piece.rows for each in sources)
    if found != planned:
        raise _unplanned(f"{found} rows come of {sources[0].path.name}, and {planned} were planned")


def _unplanned(what: str) -> Corrupted:
    return Corrupted(f"answers are not those of the plan: {what}", remedy="Build with --full.")


def _groups(sources: Iterator[_Source]) -> Iterator[list[_Source]]:
    """Yields sources together, so that no file is small, and none much larger than a chunk."""
    waiting: list[_Source] = []
    rows = 0
    for each in sources:
        if waiting and (rows >= _SMALL or rows + each.piece.rows > 2 * CHUNK):
            yield waiting
            waiting, rows = [], 0
        if each.piece.rows:
            waiting.append(each)
            rows += each.piece.rows
    if waiting:
        yield waiting


def _sources(
    paths: Sequence[Path], columns: pa.Schema, given: Iterator[Path], plan: Path
) -> Iterator[_Source]:
    answers = _Answers(given, columns)
    with (plan / _ORDERS).open("rb") as orders:
        for piece in _read_plan(plan).pieces:
            order = None if piece.ordered is None else np.fromfile(orders, "<i4", piece.ordered)
            fresh = answers.take(piece.fresh)
            yield _Source(path=paths[piece.part], piece=piece, order=order, fresh=fresh)
    answers.finish()


class _Answers:
    """The rows of files, one after the other."""

    def __init__(self, files: Iterator[Path], columns: pa.Schema) -> None:
        self._files = files
        self._left = columns.empty_table()

    def take(self, count: int) -> pa.Table:
        """Returns the next rows.

        Raises:
            Corrupted: there are fewer.
        """
        while self._left.num_rows < count:
            path = next(self._files, None)
            if path is None:
                raise _unplanned(f"{count - self._left.num_rows} more were to be scored")
            more = read_answers(path)
            self._left = pa.concat_tables([self._left, more.cast(self._left.schema)])
        taken, self._left = self._left.slice(0, count), self._left.slice(count)
        return taken

    def finish(self) -> None:
        """Does nothing where no row is left.

        Raises:
            Corrupted: some are.
        """
        left = self._left.num_rows + sum(read_answers(path).num_rows for path in self._files)
        if left:
            raise _unplanned(f"{left} that were scored have no place")
