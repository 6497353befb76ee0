"""Stored features: the inputs of each key, kept so that a key alone is enough to ask a model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.foundation.files import put_content
from tidemill.foundation.home import Home
from tidemill.models.signature import Signature
from tidemill.recipes.distinct_rows import ROWS, column_names
from tidemill.recipes.keyed_rows import KeyedRows
from tidemill.tables.answer import encode_answers
from tidemill.tables.build import TableBuilder
from tidemill.tables.catalog import get_table, store_table
from tidemill.tables.key import KeyEncoder
from tidemill.tables.predictions import PredictionPart, keep_parts, list_parts
from tidemill.tables.table import TableInfo
from tidemill.training.examples import feature_batch


def store_features(home: Home, info: TableInfo, signature: Signature, work: Path) -> str | None:
    """Keeps the inputs of each key that the key does not say, as a table, and all rows as Parquet.

    Args:
        home: the installation.
        info: of the table of answers that is built from the same rows.
        signature: of the model.
        work: the folder of the build, with the rows, each key once, as ``write_distinct`` wrote
            them.

    Returns:
        The id of the features; None where the key says all inputs, so that none are left.

    Raises:
        Unavailable: the disk is full.
    """
    key = [name for name, _ in info.key]
    if len(key) == len(signature.inputs):
        return None
    folder, distinct = work / "features", work / ROWS
    shutil.rmtree(folder, ignore_errors=True)  # of a build that was killed before it was stored
    encoder, names = KeyEncoder(info.key), [column.name for column in signature.inputs]
    with (
        TableBuilder(folder, clock=home.clock) as builder,
        pq.ParquetFile(distinct) as rows,
    ):
        for at in range(rows.num_row_groups):
            part = rows.read_row_group(at, column_names(names)).rename_columns(names)
            batch = feature_batch(part, signature.inputs)
            keys = encoder.many([batch[name] for name in key])
            values = {name: array for name, array in batch.items() if name not in key}
            builder.put(keys, encode_answers(values))
        inputs = tuple((column.name, column.type) for column in signature.inputs)
        complete = builder.commit(msgspec.structs.replace(info, kind="features", inputs=inputs))
    part_key = put_content(home.files, distinct, folder="features", suffix="parquet")
    rows_kept = pq.read_metadata(distinct).num_rows
    keep_parts(home, complete.id, [PredictionPart(file_key=part_key, rows=rows_kept)])
    return store_table(home, folder).id


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
