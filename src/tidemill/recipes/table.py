"""Builds a table: every key of a source is scored by one model version, and kept for look-ups.

A build leaves files that are whole or not there: the source's distinct rows by their keys, then the
answers to each chunk of them, which go into the table while the next are scored. Killed anywhere,
the same build goes on with what is there. The answers are kept twice: as the table, and as Parquet
for questions in SQL. What a build came to is in the store, too: ``tables.builds``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from tidemill.foundation.durable import (
    is_half_removed,
    make_folder,
    remove_folder,
    replacing,
)
from tidemill.foundation.errors import Conflict, Corrupted, InvalidInput, NotFound, Unavailable
from tidemill.foundation.files import put_content, write_atomic
from tidemill.foundation.home import Home
from tidemill.foundation.locks import hold
from tidemill.foundation.logs import log
from tidemill.foundation.processes import own_cpu_s
from tidemill.models.format import ModelManifest, read_manifest
from tidemill.models.registry import Registry
from tidemill.models.runtime import open_runtime
from tidemill.models.signature import Column, Signature
from tidemill.recipes.ahead import in_order
from tidemill.recipes.chunks import Asked, Chunk, Pool, Threads, Where
from tidemill.recipes.distinct_rows import ROWS, Counted, write_distinct
from tidemill.recipes.encoding import Encoding, Kept
from tidemill.recipes.features import store_features
from tidemill.recipes.keyed_rows import KeyedRows, rows_of_files, rows_of_table
from tidemill.recipes.merging import merged
from tidemill.recipes.on_ray import actors
from tidemill.recipes.refresh import (
    Base,
    Split,
    find_base,
    rows_of_distinct,
    split_rows,
    whole_split,
)
from tidemill.recipes.representatives import Representing, choose_representatives
from tidemill.tables.build import TableBuilder
from tidemill.tables.builds import Build, keep_build
from tidemill.tables.catalog import get_table, place_table, store_table
from tidemill.tables.freshness import born_at
from tidemill.tables.predictions import PredictionPart, check_parts, keep_parts
from tidemill.tables.redis import check_library, publish_table
from tidemill.tables.represented import Keys, keys_of
from tidemill.tables.table import TableInfo

Progress = Callable[[int, int], None]

_ABANDONED_S = 7 * 86_400.0
"""A build that nobody went on with for so long is removed."""

_BEGAN = "began"
"""What the file is called that says since when a build is under way."""

_LAYOUT = 3
"""Of a build's folder: what one of another layout left is not gone on with."""

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
    representing: Representing = Representing(),  # noqa: B008 - frozen
    progress: Progress | None = None,
    threads: int = 0,
    base: str | None = None,
    keep: bool = False,
    part: bool = False,
    features: bool = False,
    on: Where = "here",
) -> TableInfo:
    """Scores each distinct key of a source and stores the table; nothing goes live by it.

    Args:
        home: the installation.
        application: whose queries it is for.
        model: the model's name.
        version: the version that scores.
        key: the columns that make a key; they must determine every other input.
        source: rows with all of the model's inputs: files, a table, or what ``keyed_rows`` makes.
        source_name: what the rows are, for the table's record.
        representing: what represents key columns; all rows are scored, and compared.
        progress: told the rows done and all rows.
        threads: that score at once; 0 for as many as there are cores, here or in the cluster.
        base: a table whose answers are taken over where a key's inputs did not change.
        keep: whether keys of the base that the source lacks stay.
        part: whether the source is the head of another one only.
        features: whether inputs that the key does not say are stored.
        on: where the model scores; a build that began in one place may go on in the other.

    Raises:
        NotFound: there is no such base.
        InvalidInput: a column is missing, or two rows with one key differ in another input; the
            inputs that vary are named. Or keys are to be kept that cannot be.
        DataRefused: the source has no row, or too few agree with what represents them.
        Conflict: the same build is under way in another process.
        Corrupted: answers of the base that are to be kept, or of the build, are damaged.
        Unavailable, WorkerLost: the disk is full, or the Ray cluster is of no use; what was done
            before stays, and the next build goes on.
    """
    began = (home.clock.monotonic(), own_cpu_s())
    rows = _keyed_rows(source, source_name)
    folder = Registry(home).fetch(model, version)
    manifest = read_manifest(folder)
    signature = manifest.signature
    keys = _keys(signature, key, representing.columns)
    info = TableInfo(
        application=application, model=model, version=version, key=keys.columns,
        represent=(folds := representing.of(key)), source=source_name,
    )  # fmt: skip
    asked = Asked(key=key, fold=keys.columns if folds else None, represent=folds)
    with (
        _explained(application),
        _pool(home, folder, manifest, asked, on=on, threads=threads) as pool,
    ):
        taken, damaged = _base(home, base, manifest, info, keep=keep)
        what = (_LAYOUT, application, model, version, key, rows.identity, base, keep, *folds)
        with _work(home, rows, repr(what)) as work:
            resumed = any(work.iterdir())
            info = msgspec.structs.replace(info, as_of=_as_of(home, work, base if keep else None))
            split = _split(rows, signature.inputs, asked, work, taken, keep=keep, features=features)
            given = _scored(pool, split.fresh, progress=progress)
            given, info = _represented(
                info, signature, given, work, representing, alone=rows.representatives
            )
            kept = _kept(Encoding(keys=keys, signature=signature), given, split, taken, work)
            info, files = _store(home, info, kept, work)
            done = Build(
                table=info.id, keys=split.counts, resumed=resumed, part=part, damaged=damaged,
                features=store_features(home, info, signature, work, files) if features else None,
            )  # fmt: skip
            _keep_measured(home, done, taken if split.plan else None, began, pool.cpu_s)
            return info


@contextmanager
def _pool(
    home: Home, folder: Path, manifest: ModelManifest, asked: Asked, *, on: Where, threads: int
) -> Iterator[Pool]:
    """Gives what scores: threads of this process, or actors in a Ray cluster."""
    if on == "ray":
        with actors(folder, asked, address=home.settings.ray.address, workers=threads) as pool:
            yield pool
        return
    workers = threads or os.cpu_count() or 1
    concurrent = manifest.runtime in _CONCURRENT
    runtime = open_runtime(folder, trust_code=True, threads=1 if concurrent else workers)
    with closing(runtime):
        yield Threads(runtime, asked, workers if concurrent else 1)


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


def _keys(signature: Signature, key: tuple[str, ...], represent: Mapping[str, str]) -> Keys:
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
    for name in represent:
        if name not in key:
            raise InvalidInput(
                f"column {name!r} is represented, and no part of the key",
                remedy=f"The key: {', '.join(key)}.",
            )
    return keys_of([(name, inputs[name]) for name in key], represent)


def _base(
    home: Home, table: str | None, manifest: ModelManifest, info: TableInfo, *, keep: bool
) -> tuple[Base | None, str | None]:
    """Returns what can be taken over from a table, if one is named; and its id if it is damaged.

    Where inputs are represented, nothing is: all are scored, to be compared. Nor is it of a table
    whose answers are not what was stored.

    Raises:
        NotFound: there is no such table.
        InvalidInput: its keys are to stay, and cannot.
        Corrupted: they are to stay, and are damaged.
    """
    if table is None:
        return None, None
    if not info.represent:
        key = tuple(name for name, _ in info.key)
        version = (info.model, info.version)
        try:
            return find_base(home, table, manifest, version, key, keep=keep), None
        except Corrupted as error:
            if keep:
                raise
            log("recipes.table").warning("table.base_damaged", base=table, reason=str(error))
            return None, table
    if keep:
        raise InvalidInput(
            f"the keys of table {table} cannot be kept: inputs are represented, and all are scored",
            remedy="Build without --keep, from a source with all keys.",
        )
    return None, None


@contextmanager
def _work(home: Home, rows: KeyedRows, identity: str) -> Iterator[Path]:
    """Gives the folder of a build, with what one before it left; it is gone once all is done.

    Nothing is left of rows without an identity, nor of what began longer ago than rows last.
    """
    if rows.identity is None:
        with home.scratch("table") as folder:
            yield folder
        return
    builds = home.cache_path / "builds"
    make_folder(builds)
    _remove_abandoned(builds, before=home.clock.now() - _ABANDONED_S)
    folder = builds / hashlib.sha256(identity.encode()).hexdigest()[:32]
    with hold(_lock_of(folder), busy=_busy()):
        now = home.clock.now()
        if rows.lasting_s is not None and _began(folder, now) < now - rows.lasting_s:
            remove_folder(folder)
        folder.mkdir(exist_ok=True)
        yield folder
        with suppress(OSError):  # the table is there; what could not go, goes when it is old
            remove_folder(folder)


def _as_of(home: Home, work: Path, kept: str | None) -> float:
    """Returns from when on a build's answers age: since it began, however often it was killed.

    Keys of another table that are kept though the source lacks them are as old as that table's.
    """
    began = _began(work, now := home.clock.now())
    if began == now:
        write_atomic(work / _BEGAN, repr(now).encode())
    return began if kept is None else min(began, born_at(get_table(home.store, kept)))


def _began(work: Path, now: float) -> float:
    """Returns when the first build in a folder began: now, if there was none."""
    path = work / _BEGAN
    return float(path.read_bytes()) if path.exists() else now


def _remove_abandoned(builds: Path, *, before: float) -> None:
    """Removes builds, and locks of such, that are old and not under way in another process."""
    for path in builds.iterdir():
        with suppress(OSError, Conflict):  # another process was faster, or goes on with it
            if is_half_removed(path):
                shutil.rmtree(path, ignore_errors=True)
            elif path.stat().st_mtime >= before:
                continue
            elif path.is_dir():
                with hold(_lock_of(path), busy=_busy()):
                    if path.stat().st_mtime < before:
                        remove_folder(path)
            elif not path.with_suffix("").is_dir():  # of a build that is done
                with hold(path, busy=_busy()):
                    path.unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _busy() -> Conflict:
    return Conflict(
        "the same table is being built by another process", remedy="Wait until it has ended."
    )


def _keep_measured(
    home: Home, build: Build, base: Base | None, began: tuple[float, float], elsewhere_s: float
) -> None:
    """Makes a build known with what it took since it began, at these seconds and this CPU.

    What it took of other processors, elsewhere, counts as well.
    """
    at, cpu_s = began
    done = msgspec.structs.replace(
        build,
        base=None if base is None else base.table,
        at=home.clock.now(),
        seconds=home.clock.monotonic() - at,
        cpu_s=own_cpu_s() - cpu_s + elsewhere_s,
    )
    keep_build(home, done)


def _split(
    rows: KeyedRows,
    inputs: Sequence[Column],
    asked: Asked,
    work: Path,
    base: Base | None,
    *,
    keep: bool,
    features: bool,
) -> Split:
    """Returns a source's distinct rows, those to score apart from those whose answers are known.

    What was done in the folder before is not done again. Where features are stored, all distinct
    rows are there afterwards.
    """
    distinct = work / ROWS

    def whole() -> Path:
        if not distinct.exists():
            counted = None if asked.fold is None else Counted(rows.times)
            write_distinct(rows.batches(), inputs, asked.key, distinct, counted=counted)
        return distinct

    if base is None:
        return whole_split(whole())
    batches = rows.batches
    if features or distinct.exists():
        batches = partial(rows_of_distinct, whole(), inputs)
    return split_rows(
        batches, base, inputs, asked.key, keep=keep, folder=work / "split", whole=whole
    )


def _scored(
    pool: Pool, rows_path: Path, *, progress: Progress | None
) -> Generator[Path, None, None]:
    """Answers each chunk that was not answered before; yields the files of all answers, in order.

    They are beside the rows, and go with them: answers to others have the same names. Beside each
    stands what its rows are folded to, where they are.
    """
    work = rows_path.parent
    with pq.ParquetFile(rows_path) as rows:
        chunks, total = rows.num_row_groups, rows.metadata.num_rows
        sizes: list[int] = [rows.metadata.row_group(at).num_rows for at in range(chunks)]
    paths = [work / f"scored-{at:06}.parquet" for at in range(chunks)]
    todo = [at for at, path in enumerate(paths) if not path.exists()]

    def keep(at: int, made: Chunk) -> None:
        if made.fold is not None:
            _write(_fold_of(paths[at]), made.fold, work)
        _write(paths[at], made.answers, work)  # last: it says that the chunk is done

    done, first = total - sum(sizes[at] for at in todo), 0
    missing = set(todo)
    for at in pool.scored(rows_path, todo, keep):
        done += sizes[at]
        missing.discard(at)
        if progress is not None:
            progress(done, total)
        while first < chunks and first not in missing:
            yield paths[first]
            first += 1
    yield from paths[first:]


def _write(target: Path, data: bytes, work: Path) -> None:
    with replacing(target, work) as unfinished:
        unfinished.write_bytes(data)


def _kept(
    encoding: Encoding,
    given: Generator[Path, None, None],
    split: Split,
    base: Base | None,
    work: Path,
) -> Generator[Kept, None, None]:
    """Yields what the table keeps of files of answers, and of its base where it has one."""
    with closing(given):  # whatever happens, nothing is scored any more once this ends
        if split.plan is None or base is None:
            yield from in_order(encoding.kept, given, threads=1)
        else:
            yield from merged(
                encoding, base.parts, base.paths, base.columns, given, plan=split.plan, work=work
            )


def _represented(
    info: TableInfo,
    signature: Signature,
    given: Generator[Path, None, None],
    work: Path,
    representing: Representing,
    *,
    alone: bool,
) -> tuple[Generator[Path, None, None], TableInfo]:
    """Returns the representatives among scored rows, and the record with their agreement.

    There is no agreement where representatives come ``alone``, without what they stand for.

    Where nothing is represented, all of them are as they are.

    Raises:
        DataRefused: the others agree too little with them.
    """
    if not info.represent:
        return given, info
    scored = list(given)
    chosen, agreement = choose_representatives(
        scored,
        [_fold_of(path) for path in scored],
        tuple(name for name, _ in info.key),
        signature,
        tolerance=representing.tolerance,
        work=work,
    )
    if not alone:
        representing.check(agreement)
        info = msgspec.structs.replace(info, agreement=agreement)
    return (path for path in chosen), info


def _fold_of(scored: Path) -> Path:
    return scored.with_name(scored.name.replace("scored", "folded"))


def _store(
    home: Home, info: TableInfo, kept: Generator[Kept, None, None], work: Path
) -> tuple[TableInfo, list[Path]]:
    """Writes the table from answers as they come; stores it, and their files."""
    folder = work / "table"
    shutil.rmtree(folder, ignore_errors=True)  # of a build that was killed before it was stored
    files: list[tuple[Path, PredictionPart | None]] = []
    with TableBuilder(folder, clock=home.clock) as builder:
        with closing(kept):
            for each in kept:
                builder.put(each.keys, each.values)
                files.append((each.path, each.part))
        with ThreadPoolExecutor(1, "tidemill.store") as other:
            parts = other.submit(_put_parts, home, files)
            complete = builder.commit(info)
            keep_parts(home, complete.id, parts.result())
    stored = store_table(home, folder)
    check_parts(home, stored.id, len(files))
    if home.settings.tables.url is None:
        place_table(home, stored, folder)
    else:
        _publish(home, stored.id)
    return stored, [path for path, _ in files]


def _put_parts(
    home: Home, files: Sequence[tuple[Path, PredictionPart | None]]
) -> list[PredictionPart]:
    return [_put_part(home, path) if part is None else part for path, part in files]


def _put_part(home: Home, path: Path) -> PredictionPart:
    key = put_content(
        home.files, path, folder="predictions", suffix="parquet", final=True, verify=True
    )
    return PredictionPart(file_key=key, rows=pq.read_metadata(path).num_rows)


def _publish(home: Home, table: str) -> None:
    """Has a table in Redis; where that is down, the server has it there once it is back."""
    check_library()
    try:
        publish_table(home, table)
    except Unavailable as error:
        log("recipes.table").warning("table.unpublished", table=table, reason=str(error))
