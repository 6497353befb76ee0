"""Builds a table: every key of a source is scored by one model version, and kept for look-ups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from tidemill.foundation.errors import DataRefused, InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.models.registry import Registry
from tidemill.models.runtime import Runtime, open_runtime
from tidemill.tables.answer import encode_answers
from tidemill.tables.build import TableBuilder
from tidemill.tables.catalog import store_table
from tidemill.tables.key import KeyEncoder
from tidemill.tables.table import TableInfo
from tidemill.training.examples import feature_batch

CHUNK = 8192

Progress = Callable[[int, int], None]


def build_table(
    home: Home,
    *,
    application: str,
    model: str,
    version: int,
    key: tuple[str, ...],
    source: Path | pa.Table,
    source_name: str,
    progress: Progress | None = None,
    threads: int = 0,
) -> TableInfo:
    """Scores each distinct key of a source and stores the table; nothing goes live by it.

    Args:
        home: the installation.
        application: whose queries it is for.
        model: the model's name.
        version: the version that scores.
        key: the columns that make a key; they must determine every other input.
        source: keyed rows with all of the model's inputs: a file (CSV, Parquet) or a table.
        source_name: what the rows are, for the table's record.
        progress: told the rows done and all rows.
        threads: of the model; 0 for as many as there are cores.

    Raises:
        InvalidInput: a column is missing, or two rows with one key differ in another input; the
            inputs that vary are named.
        DataRefused: the source has no row.
    """
    rows = source if isinstance(source, pa.Table) else read_rows(source)
    registry = Registry(home)
    runtime = open_runtime(registry.fetch(model, version), trust_code=True, threads=threads)
    try:
        inputs = {column.name: column.type for column in runtime.signature.inputs}
        distinct = _distinct(rows, key, tuple(inputs))
        encoder = KeyEncoder([(name, inputs[name]) for name in key])
        info = TableInfo(
            application=application,
            model=model,
            version=version,
            key=encoder.columns,
            source=source_name,
        )
        with home.scratch("table") as work:
            folder = work / "table"
            with TableBuilder(folder, clock=home.clock) as builder:
                _score(runtime, distinct, encoder, builder, progress)
                builder.commit(info)
            return store_table(home, folder)
    finally:
        runtime.close()


def examples_source(folder: Path) -> pa.Table:
    """Returns all examples of a run, as the source of a table's keys."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


def read_rows(path: Path) -> pa.Table:
    """Reads keyed rows of a CSV or Parquet file.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it cannot be read; nothing of it is used then.
    """
    if not path.is_file():
        raise NotFound(f"{path} does not exist", remedy="Check the path.")
    try:
        parquet = path.suffix.lower() == ".parquet"
        rows = pq.read_table(path) if parquet else csv.read_csv(path)
        rows.column_names  # noqa: B018 - only now their bytes are decoded
    except (pa.ArrowInvalid, UnicodeError, OSError) as error:
        raise InvalidInput(
            f"{path} cannot be read: {error}", remedy="Give a CSV or Parquet file of keyed rows."
        ) from error
    return rows


def _distinct(rows: pa.Table, key: tuple[str, ...], inputs: tuple[str, ...]) -> pa.Table:
    """Returns one row for each key, having checked that the key determines the other inputs."""
    unknown = [name for name in key if name not in inputs]
    if unknown or not key:
        raise InvalidInput(
            f"key column {unknown[0]!r} is no input of the model"
            if unknown
            else "the key is empty",
            remedy=f"Choose among: {', '.join(inputs)}.",
        )
    for name in inputs:
        given = rows.column_names.count(name)
        if given != 1:
            raise InvalidInput(
                f"the source has {'two columns' if given else 'no column'} {name!r}",
                remedy=f"It needs every input of the model, once: {', '.join(inputs)}.",
            )
    if rows.num_rows == 0:
        raise DataRefused("the source has no rows", remedy="Give a source with keyed rows.")
    distinct = rows.select(list(inputs)).group_by(list(inputs)).aggregate([])
    others = [name for name in inputs if name not in key]
    missing_too = pc.CountOptions(mode="all")
    counts = distinct.group_by(list(key)).aggregate(
        [*((name, "count_distinct", missing_too) for name in others), ([], "count_all")]
    )
    several = counts.filter(pc.greater(counts["count_all"], 1))
    if several.num_rows:
        varying = [name for name in others if pc.max(several[f"{name}_count_distinct"]).as_py() > 1]
        raise InvalidInput(
            f"the key ({', '.join(key)}) does not determine {', '.join(varying)}: "
            f"{several.num_rows} keys would have several answers",
            remedy="Add those columns to the key, or make them equal in the source.",
        )
    return distinct


def _score(
    runtime: Runtime,
    rows: pa.Table,
    encoder: KeyEncoder,
    builder: TableBuilder,
    progress: Progress | None,
) -> None:
    batch = feature_batch(rows, runtime.signature.inputs)
    for start in range(0, rows.num_rows, CHUNK):
        part = {name: array[start : start + CHUNK] for name, array in batch.items()}
        keys = encoder.many([part[name] for name, _ in encoder.columns])
        builder.put(keys, encode_answers(runtime.predict(part)))
        if progress is not None:
            progress(min(start + CHUNK, rows.num_rows), rows.num_rows)
