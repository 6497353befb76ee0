"""Stored features: the inputs of each key, kept so that a key alone is enough to ask a model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.foundation.errors import Corrupted
from tidemill.foundation.files import put_content
from tidemill.foundation.home import Home
from tidemill.models.signature import Signature
from tidemill.recipes.distinct_rows import ROWS, column_names
from tidemill.recipes.keyed_rows import KeyedRows
from tidemill.recipes.scored_rows import column_array, read_answers
from tidemill.tables.answer import pack_answers
from tidemill.tables.build import TableBuilder
from tidemill.tables.catalog import get_table, place_table, store_table
from tidemill.tables.key import KeyEncoder
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.packing import Packed
from tidemill.tables.predictions import PredictionPart, check_parts, keep_parts, list_parts
from tidemill.tables.represented import keys_of, standing_for
from tidemill.tables.table import TableInfo
from tidemill.training.examples import feature_batch

_AT_ONCE = 1 << 14


def store_features(
    home: Home,
    info: TableInfo,
    signature: Signature,
    work: Path,
    answers: Sequence[Path],
) -> str | None:
    """Keeps the inputs of each key that the key does not say, as a table, and all rows as Parquet.

    Where keys are represented, those of the row that stands for others are kept for all of them,
    too: ``tables.represented.standing_for``.

    Args:
        home: the installation.
        info: of the table of answers that is built from the same rows.
        signature: of the model.
        work: the folder of the build, with the rows, each key once, as ``write_distinct`` wrote
            them.
        answers: files of what the table holds: where keys are represented, of the rows that stand
            for others.

    Returns:
        The id of the features; None where the key says all inputs, so that none are left.

    Raises:
        Unavailable: the disk is full.
        Corrupted: what stands for others is no row of the build.
    """
    key = [name for name, _ in info.key]
    if len(key) == len(signature.inputs):
        return None
    folder, distinct = work / "features", work / ROWS
    inputs = tuple((column.name, column.type) for column in signature.inputs)
    record = msgspec.structs.replace(info, kind="features", inputs=inputs, agreement=None)
    plain = msgspec.structs.replace(record, represent=())
    with _building(home, work / "plain" if info.represent else folder) as builder:
        for keys, values in _features_of(distinct, key, signature):
            builder.put(keys, values)
        complete = builder.commit(plain)
    if info.represent:
        with _building(home, folder) as builder, LmdbTable.open(work / "plain") as known:
            for block in known.blocks(_AT_ONCE):
                builder.put(*zip(*block, strict=True))
            for path in answers:
                builder.put(*_standing(path, info, signature, known))
            complete = builder.commit(record)
    part_key = put_content(home.files, distinct, folder="features", suffix="parquet", verify=True)
    rows_kept = pq.read_metadata(distinct).num_rows
    keep_parts(home, complete.id, [PredictionPart(file_key=part_key, rows=rows_kept)])
    stored = store_table(home, folder)
    check_parts(home, stored.id, 1)
    place_table(home, stored, folder)
    return stored.id


@contextmanager
def _building(home: Home, folder: Path) -> Iterator[TableBuilder]:
    shutil.rmtree(folder, ignore_errors=True)  # of a build that was killed before it was stored
    with TableBuilder(folder, clock=home.clock) as builder:
        yield builder


def _features_of(
    distinct: Path, key: Sequence[str], signature: Signature
) -> Iterator[tuple[Packed, Packed]]:
    """Yields keys of values and what they do not say, a group of rows at a time."""
    types = {column.name: column.type for column in signature.inputs}
    encoder, names = KeyEncoder([(name, types[name]) for name in key]), [*types]
    with pq.ParquetFile(distinct) as rows:
        for at in range(rows.num_row_groups):
            part = rows.read_row_group(at, column_names(names)).rename_columns(names)
            batch = feature_batch(part, signature.inputs)
            values = {name: array for name, array in batch.items() if name not in key}
            yield encoder.packed([batch[name] for name in key]), pack_answers(values)


def _standing(
    path: Path, info: TableInfo, signature: Signature, known: LmdbTable
) -> tuple[list[bytes], list[bytes]]:
    """Returns the features of representatives, each under what is represented by it.

    Raises:
        Corrupted: one of them is no row of the build.
    """
    inputs = {column.name: column for column in signature.inputs}
    names = [name for name, _ in info.key]
    rows = read_answers(path, names)
    arrays = [column_array(rows, name, inputs[name]) for name in names]
    found = known.get(KeyEncoder(info.key).many(arrays))
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        raise Corrupted(f"{path.name} has rows that are not in the build", remedy="Build again.")
    keys = keys_of(info.key, dict(info.represent)).many(arrays)
    return [standing_for(each) for each in keys], values


def rows_of_features(home: Home, features: str) -> KeyedRows:
    """Returns the rows that features were stored from, as a table's source.

    Raises:
        NotFound: there are no such features, or their rows are gone from the files.
    """
    info = get_table(home.store, features)
    names = [name for name, _ in info.inputs]
    paths = [home.files.fetch(part.file_key) for part in list_parts(home, features)]

    def batches() -> Iterator[pa.RecordBatch]:
        for path in paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=column_names(names)):
                    yield batch.rename_columns(names)

    return KeyedRows(
        name=info.source or f"features {features}",
        batches=batches,
        identity=f"features {features}",
    )
