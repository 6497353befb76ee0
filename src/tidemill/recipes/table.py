"""Builds a table: every key of a source is scored by one model version, and kept for look-ups.

A build goes in three stages, each in files that are whole or not there: the source's distinct rows,
the answers to each chunk of them, the sorted table. Killed anywhere, the same build goes on with
what is there. The answers are kept twice: as the table, and as Parquet for questions in SQL.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from tidemill.foundation.durable import make_folder, replacing
from tidemill.foundation.errors import Conflict, InvalidInput, NotFound, Unavailable
from tidemill.foundation.files import put_content, write_atomic
from tidemill.foundation.home import Home
from tidemill.foundation.locks import hold
from tidemill.foundation.processes import own_cpu_s
from tidemill.models.format import read_manifest
from tidemill.models.registry import Registry
from tidemill.models.runtime import Runtime, open_runtime
from tidemill.models.signature import Array, Batch, Column, Signature
from tidemill.recipes.distinct_rows import ROWS, write_distinct
from tidemill.recipes.features import store_features
from tidemill.recipes.keyed_rows import KeyedRows, rows_of_files, rows_of_table
from tidemill.recipes.refresh import (
    DIGEST,
    Base,
    digested,
    digests,
    find_base,
    split_rows,
    whole_split,
)
from tidemill.tables.answer import encode_answers
from tidemill.tables.build import TableBuilder
from tidemill.tables.builds import Build, KeyCounts, keep_build
from tidemill.tables.catalog import get_table, store_table
from tidemill.tables.freshness import born_at
from tidemill.tables.key import KeyEncoder
from tidemill.tables.predictions import PredictionPart, keep_parts
from tidemill.tables.table import TableInfo
from tidemill.training.examples import feature_batch

Progress = Callable[[int, int], None]

_ABANDONED_S = 7 * 86_400.0
"""A build that nobody went on with for so long is removed."""

_CONCURRENT = frozenset({"onnx"})
"""Runtimes that answer several calls at once; the others get one call, with all the threads."""


def build_table(
    home: Home,
    *,
    application: str,
    model: str,
    version: int,
    key: tuple[str, ...],
    source: Path | pa.Table | KeyedRows,
    source_name: str,
    progress: Progress | None = None,
    threads: int = 0,
    base: str | None = None,
    keep: bool = False,
    part: bool = False,
    features: bool = False,
) -> TableInfo:
    """Scores each distinct key of a source and stores the table; nothing goes live by it.

    What it came to is in the store: ``tables.builds``.

    Args:
        home: the installation.
        application: whose queries it is for.
        model: the model's name.
        version: the version that scores.
        key: the columns that make a key; they must determine every other input.
        source: rows with all of the model's inputs: a file or folder (CSV, Parquet), a table, or
            what ``keyed_rows`` makes.
        source_name: what the rows are, for the table's record.
        progress: told the rows done and all rows.
        threads: that score at once; 0 for as many as there are cores.
        base: a table whose answers are taken over where a key's inputs did not change; what cannot
            be taken over is scored.
        keep: whether keys of the base that the source lacks stay.
        part: whether the source is the head of another one only.
        features: whether inputs that the key does not say are stored.

    Raises:
        NotFound: there is no such base.
        InvalidInput: a column is missing, or two rows with one key differ in another input; the
            inputs that vary are named. Or keys are to be kept that cannot be.
        DataRefused: the source has no row.
        Conflict: the same build is under way in another process.
        Unavailable: the disk is full; what was done before stays, and the next build goes on.
    """
    began = (home.clock.monotonic(), own_cpu_s())
    rows = _keyed_rows(source, source_name)
    folder = Registry(home).fetch(model, version)
    workers = threads or os.cpu_count() or 1
    manifest = read_manifest(folder)
    concurrent = manifest.runtime in _CONCURRENT
    runtime = open_runtime(folder, trust_code=True, threads=1 if concurrent else workers)
    with _explained(application), closing(runtime):
        signature = runtime.signature
        columns = _encoder(signature, key).columns
        info = TableInfo(
            application=application, model=model, version=version, key=columns, source=source_name
        )
        taken = None
        if base is not None:
            taken = find_base(home, base, manifest, (model, version), key, keep=keep)
        identity = repr((application, model, version, key, rows.identity, base, keep))
        with _work(home, identity if rows.identity is not None else None) as work:
            resumed = any(work.iterdir())
            info = msgspec.structs.replace(info, as_of=_as_of(home, work, base if keep else None))
            files, counts = _answer(
                runtime, rows, key, work, base=taken, keep=keep, progress=progress,
                workers=workers if concurrent else 1,
            )  # fmt: skip
            complete = _store(home, info, signature, files, work)
            of = None if taken is None else taken.table
            stored = store_features(home, info, signature, work) if features else None
            build = Build(
                table=complete.id, keys=counts, resumed=resumed, part=part, base=of, features=stored
            )
            _keep_measured(home, build, began)
            return complete


@contextmanager
def _explained(application: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"the table of {application!r} cannot be built: {error.strerror or error}",
            remedy="Free space on the home's disk; the same command goes on where this one ended.",
        ) from error


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


def _keyed_rows(source: Path | pa.Table | KeyedRows, name: str) -> KeyedRows:
    if isinstance(source, KeyedRows):
        return source
    return rows_of_files(source, name) if isinstance(source, Path) else rows_of_table(source, name)


def _encoder(signature: Signature, key: tuple[str, ...]) -> KeyEncoder:
    inputs = {column.name: column.type for column in signature.inputs}
    unknown = [name for name in key if name not in inputs]
    if unknown or not key:
        raise InvalidInput(
            f"key column {unknown[0]!r} is no input of the model"
            if unknown
            else "the key is empty",
            remedy=f"Choose among: {', '.join(inputs)}.",
        )
    if len(set(key)) < len(key):
        twice = next(name for name in key if key.count(name) > 1)
        raise InvalidInput(f"key column {twice!r} is named twice", remedy="Name it once.")
    return KeyEncoder([(name, inputs[name]) for name in key])


@contextmanager
def _work(home: Home, identity: str | None) -> Iterator[Path]:
    """Gives the folder of a build, with what one before it left; it is gone once all is done."""
    if identity is None:
        with home.scratch("table") as folder:
            yield folder
        return
    builds = home.cache_path / "builds"
    make_folder(builds)
    _remove_abandoned(builds, before=home.clock.now() - _ABANDONED_S)
    folder = builds / hashlib.sha256(identity.encode()).hexdigest()[:32]
    busy = Conflict(
        "the same table is being built by another process", remedy="Wait until it has ended."
    )
    with hold(builds / f"{folder.name}.lock", busy=busy):
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def _as_of(home: Home, work: Path, kept: str | None) -> float:
    """Returns from when on a build's answers age: since it began, however often it was killed.

    Keys of another table that are kept though the source lacks them are as old as that table's.
    """
    path = work / "began"
    if not path.exists():
        write_atomic(path, repr(home.clock.now()).encode())
    began = float(path.read_bytes())
    return began if kept is None else min(began, born_at(get_table(home.store, kept)))


def _remove_abandoned(builds: Path, *, before: float) -> None:
    for path in builds.iterdir():
        if path.stat().st_mtime >= before:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _keep_measured(home: Home, build: Build, began: tuple[float, float]) -> None:
    """Makes a build known with what it took since it began, at these seconds and this CPU."""
    at, cpu_s = began
    done = msgspec.structs.replace(
        build,
        at=home.clock.now(),
        seconds=home.clock.monotonic() - at,
        cpu_s=own_cpu_s() - cpu_s,
    )
    keep_build(home, done)


def _answer(
    runtime: Runtime,
    rows: KeyedRows,
    key: tuple[str, ...],
    work: Path,
    *,
    base: Base | None,
    keep: bool,
    progress: Progress | None,
    workers: int,
) -> tuple[list[Path], KeyCounts]:
    """Returns the files of the answers to a source, scored and taken over, and how many there are.

    What was done in the folder before is not done again.
    """
    inputs, distinct = runtime.signature.inputs, work / ROWS
    if not distinct.exists():
        write_distinct(rows.batches(), inputs, key, distinct)
    if base is None:
        split = whole_split(distinct)
    else:
        split = split_rows(distinct, base, inputs, key, keep=keep, folder=work / "split")
    scored = _score(runtime, split.fresh, key, work, progress=progress, workers=workers)
    return [*scored, *split.taken], split.counts


def _score(
    runtime: Runtime,
    rows_path: Path,
    key: tuple[str, ...],
    work: Path,
    *,
    progress: Progress | None,
    workers: int,
) -> list[Path]:
    """Answers each chunk that was not answered before; returns the files of all answers."""
    with pq.ParquetFile(rows_path) as rows:
        chunks, total = rows.num_row_groups, rows.metadata.num_rows
        sizes: list[int] = [rows.metadata.row_group(at).num_rows for at in range(chunks)]
    places = digested(runtime.signature.inputs, key)
    paths = [work / f"scored-{at:06}.parquet" for at in range(chunks)]

    def score(at: int) -> int:
        if not paths[at].exists():
            with pq.ParquetFile(rows_path) as mine:
                part = mine.read_row_group(at)
            named = part.rename_columns([column.name for column in runtime.signature.inputs])
            batch = feature_batch(named, runtime.signature.inputs)
            answers = _arrow(batch, runtime.predict(batch), key, runtime.signature)
            if places:
                answers = answers.append_column(DIGEST, digests(part, places))
            with replacing(paths[at], work) as unfinished:
                pq.write_table(answers, unfinished, compression="zstd", compression_level=1)
        return sizes[at]

    done = 0
    with ThreadPoolExecutor(workers, "tidemill.score") as pool:
        for size in pool.map(score, range(chunks)):
            done += size
            if progress is not None:
                progress(done, total)
    return paths


def _arrow(batch: Batch, outputs: Batch, key: tuple[str, ...], signature: Signature) -> pa.Table:
    """Returns keys and answers as a table; a vector is a list."""
    columns = {name: _column(batch[name]) for name in key}
    for column in signature.outputs:
        name = column.name if column.name not in columns else f"predicted_{column.name}"
        columns[name] = _column(outputs[column.name])
    return pa.table(columns)


def _column(array: Array) -> pa.Array:
    flat = pa.array(array.reshape(-1).tolist() if array.dtype == object else array.reshape(-1))
    for size in reversed(array.shape[1:]):
        flat = pa.FixedSizeListArray.from_arrays(flat, size)
    return flat


def _store(
    home: Home, info: TableInfo, signature: Signature, scored: list[Path], work: Path
) -> TableInfo:
    folder = work / "table"
    shutil.rmtree(folder, ignore_errors=True)  # of a build that was killed before it was stored
    encoder, key = KeyEncoder(info.key), [name for name, _ in info.key]
    inputs = {column.name: column for column in signature.inputs}
    with TableBuilder(folder, clock=home.clock) as builder:
        for path in scored:
            rows = pq.read_table(path)
            keys = encoder.many([_array(rows, name, inputs[name]) for name in key])
            outputs = {
                c.name: _array(rows, c.name if c.name not in key else f"predicted_{c.name}", c)
                for c in signature.outputs
            }
            builder.put(keys, encode_answers(outputs))
        complete = builder.commit(info)
    parts = [
        PredictionPart(
            file_key=put_content(home.files, path, folder="predictions", suffix="parquet"),
            rows=pq.read_metadata(path).num_rows,
        )
        for path in scored
    ]
    keep_parts(home, complete.id, parts)
    return store_table(home, folder)


def _array(rows: pa.Table, name: str, column: Column) -> Array:
    """Returns a column of the answers' files as the array that it was."""
    values: Any = rows.column(name).combine_chunks()
    for _ in column.shape:
        values = values.flatten()
    if column.dtype == object:
        flat = np.empty(len(values), dtype=object)
        flat[:] = values.to_pylist()
    else:
        flat = values.to_numpy(zero_copy_only=False)
    return flat.reshape(rows.num_rows, *column.shape)
