"""The rows that are held now: all that ingests held, but those that a review moved away.

A held row's place is its ingest and its position in that ingest's file. Reviews name rows by
their places, so that each is released or discarded once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.data.casting import Mask
from tidemill.data.catalog import find_ingests, find_reviews, find_sources, get_dataset
from tidemill.data.csv_records import Ints
from tidemill.data.held_texts import read_again
from tidemill.data.quarantine import HELD_SCHEMA
from tidemill.data.queries import Queries
from tidemill.data.records import HeldGroup, Kind, Selection
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.home import Home

ROWS = 1 << 14
PLACES = pa.schema([("ingest", pa.string()), ("position", pa.int64())])
"""What a review's file says: the places of its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some held rows of one ingest: their places, and a table of ``HELD_SCHEMA``."""

    ingest: str
    positions: Ints
    rows: pa.Table

    def places(self) -> pa.Table:
        """Returns the rows' places, as a table of ``PLACES``."""
        return pa.table([pa.repeat(self.ingest, len(self.positions)), self.positions], PLACES)

    def where(self, mask: Mask) -> Piece:
        """Returns the rows at which the mask is true."""
        return replace(self, positions=self.positions[mask], rows=self.rows.filter(pa.array(mask)))


def list_held(home: Home, name: str, *, ingest: str | None = None) -> list[HeldGroup]:
    """Returns the held rows of a dataset in groups, oldest ingest first, largest group first.

    Rows that were accepted later, with their file or by a release, are not held any more.

    Args:
        home: the installation.
        name: the dataset.
        ingest: only those of one ingest.

    Raises:
        NotFound: there is no such dataset.
    """
    get_dataset(home, name)
    merged: dict[tuple[str, str, str, str, str | None], HeldGroup] = {}
    for source in find_sources(home, name):
        for group in source.groups:
            if ingest not in (None, group.ingest):
                continue
            key = (group.ingest, group.kind, group.reason, group.rule, group.column)
            old = merged.get(key)
            merged[key] = (
                replace(
                    group, rows=group.rows + old.rows, discarded=group.discarded + old.discarded
                )
                if old
                else group
            )
    return sorted(merged.values(), key=lambda group: (group.held_at, group.ingest, -group.rows))


def show_held(
    home: Home,
    name: str,
    *,
    reason: str | None = None,
    kind: Kind | None = None,
    ingest: str | None = None,
    where: str | None = None,
    limit: int = 50,
) -> pa.Table:
    """Returns held rows of a dataset that nobody discarded, newest ingest first, in file order.

    Args:
        home: the installation.
        name: the dataset.
        reason: only those held for it.
        kind: only ``quarantined``, ``duplicate`` or ``late`` ones.
        ingest: only those of one ingest.
        where: only those that meet this condition; see ``Selection``.
        limit: at most so many.

    Returns:
        A table of ``HELD_SCHEMA``.

    Raises:
        NotFound: there is no such dataset.
        InvalidInput: the limit is negative, or the condition can't be computed.
    """
    if limit < 0:
        raise InvalidInput(f"limit {limit} is negative", remedy="Give 0 or more.")
    selection = Selection(reason=reason, kind=kind, ingest=ingest, where=where)
    found: list[pa.Table] = [HELD_SCHEMA.empty_table()]
    left = limit
    for piece in select(home, name, selection, newest_first=True) if limit else ():
        found.append(piece.rows.slice(0, left))
        left -= found[-1].num_rows
        if not left:
            break
    return pa.concat_tables(found)


def select(
    home: Home, name: str, selection: Selection, *, newest_first: bool = False
) -> Iterator[Piece]:
    """Yields the held rows that are meant and that nobody discarded, in the order of their files.

    Raises:
        NotFound: there is no such dataset.
        InvalidInput: the condition can't be computed.
    """
    dataset = get_dataset(home, name)
    schema = dataset.schema or dataset.declared
    condition = _Condition(selection.where, schema.names if schema else ())
    paths: dict[str, set[str]] = {}
    for source in find_sources(home, name):
        for group in source.groups:
            paths.setdefault(group.ingest, set()).add(source.record.path)
    gone = _gone(home, name)
    ids = None if selection.ingest is None else [selection.ingest]
    rows = find_ingests(home, name, ids=ids)
    for row in reversed(rows) if newest_first else rows:
        if row.held_key is None or row.id not in paths:
            continue
        path = home.files.fetch(row.held_key)
        for piece in _pieces(path, row.id, gone.get(row.id), sorted(paths[row.id])):
            meant = piece.where(_meant(piece.rows, selection))
            meant = meant.where(condition.of(meant.rows)) if len(meant.positions) else meant
            if len(meant.positions):
                yield meant


def _gone(home: Home, name: str) -> dict[str, Ints]:
    """Returns the positions that reviews moved away or discarded, by ingest."""
    found: dict[str, list[Ints]] = {}
    for review in find_reviews(home, name):
        places = pq.read_table(home.files.fetch(review.positions_key), schema=PLACES)
        for ingest in pc.unique(places.column("ingest")).to_pylist():
            mine = places.filter(pc.equal(places.column("ingest"), ingest))
            found.setdefault(ingest, []).append(mine.column("position").to_numpy())
    return {ingest: np.concatenate(parts) for ingest, parts in found.items()}


def _pieces(path: Path, ingest: str, gone: Ints | None, sources: list[str]) -> Iterator[Piece]:
    before = 0
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(batch_size=ROWS):
            positions = np.arange(before, before + batch.num_rows, dtype=np.int64)
            before += batch.num_rows
            rows = pa.Table.from_batches([batch])
            for field in HELD_SCHEMA:  # files of older versions have fewer columns
                if field.name not in rows.column_names:
                    rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
            mask = np.asarray(pc.is_in(rows.column("source"), pa.array(sources)), np.bool_)
            if gone is not None:
                mask &= ~np.isin(positions, gone)
            yield Piece(ingest=ingest, positions=positions, rows=rows).where(mask)


def _meant(rows: pa.Table, selection: Selection) -> Mask:
    mask: Mask = np.ones(rows.num_rows, np.bool_)
    for column, value in (("reason", selection.reason), ("kind", selection.kind)):
        if value is not None:
            mask &= np.asarray(pc.equal(rows.column(column), value), np.bool_)
    return mask


# --- conditions ------------------------------------------------------------------------------


_SUBQUERY = re.compile(r"\bselect\b|\(\s*(from|values|table|with)\b", re.IGNORECASE)
_LITERAL = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")


class _Condition:
    """A person's condition on one row, computed with nothing but the rows in reach."""

    def __init__(self, where: str | None, names: Sequence[str]) -> None:
        if where is not None and _SUBQUERY.search(_LITERAL.sub("''", where)):
            raise InvalidInput(
                f"the condition {where[:200]!r} holds a query",
                remedy="Write a condition on one row, without SELECT.",
            )
        self._where = where
        self._names = names

    def of(self, rows: pa.Table) -> Mask:
        """Returns where it is true; where it is null, it is not."""
        count = rows.num_rows
        if self._where is None:
            return np.ones(count, np.bool_)
        known = rows.append_column("data", own_columns(rows, self._names))
        known = known.append_column("_place", pa.array(np.arange(count)))
        try:
            with Queries(known) as queries:
                sql = f"SELECT _place FROM rows WHERE (\n{self._where}\n)"  # noqa: S608 - as above
                places = queries.select(sql).column("_place").to_numpy()
        except InvalidInput as error:
            raise InvalidInput(
                f"the condition {self._where[:200]!r} fails: {error.what}",
                remedy="Write a condition over held rows, such as "
                "reason = 'wrong_type' and data.COLUMN = 'x'.",
            ) from error
        meant: Mask = np.zeros(count, np.bool_)
        meant[places] = True
        return meant


def own_columns(rows: pa.Table, names: Sequence[str]) -> pa.StructArray:
    """Returns the texts of the rows' own columns, null where a row can't be read or has none.

    Args:
        rows: a table of ``HELD_SCHEMA``.
        names: columns that are there in any case.
    """
    count = rows.num_rows
    found: dict[str, list[str | None]] = {name: [None] * count for name in names}
    for batch in read_again(rows, np.arange(count, dtype=np.int64)):
        for column in batch.table.column_names:
            texts = found.setdefault(column, [None] * count)
            values = batch.table.column(column).cast(pa.string()).to_pylist()
            for place, value in zip(batch.lines.tolist(), values, strict=True):
                texts[place] = value
    unlike = {name.lower(): name for name in reversed(found)}  # SQL takes no notice of case
    every = [name for name in found if unlike[name.lower()] == name] or ["_"]
    arrays = [pa.array(found.get(name, [None] * count), pa.string()) for name in every]
    return pa.StructArray.from_arrays(arrays, every)
