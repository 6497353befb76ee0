"""What a build takes over from a table of the same version: answers whose inputs did not change.

Each key's answer is kept, in the warehouse, with a digest of the inputs that it was made of. A row
of the source whose digest is there has the same answer; only the others are sorted, and scored.
What is told apart is one folder, whole or not there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.data.keys import KEYS_SUFFIX, Hashes, hash_rows
from tidemill.foundation.durable import remove_folder, sync_folder, write_atomic
from tidemill.foundation.errors import Corrupted, InvalidInput, Unavailable
from tidemill.foundation.files import fetch_content
from tidemill.foundation.home import Home
from tidemill.foundation.logs import log
from tidemill.models.format import ModelManifest
from tidemill.models.signature import Column
from tidemill.recipes.distinct_rows import column_names, write_distinct
from tidemill.recipes.known_rows import Known, digest_words
from tidemill.recipes.merging import AmbiguousError, is_plan_of, write_plan
from tidemill.recipes.pieces import CHUNK
from tidemill.recipes.scored_rows import read_answers
from tidemill.serving.replicas.address import RUNTIME
from tidemill.tables.builds import KeyCounts, list_builds
from tidemill.tables.catalog import get_table
from tidemill.tables.predictions import PredictionPart, list_parts

DIGEST = f"tidemill_row_digest_{KEYS_SUFFIX}"
"""The column of the answers' files that tells which inputs, all of them, they were made of."""

_COUNTS, _GIVEN_UP = "counts.json", "given_up"
_FRESH = "fresh.parquet"

_JUDGED_AT = 1 << 20
"""After so many rows it is judged whether looking for known ones is worth it."""
_LOOKING_US = 0.5
"""What it takes of a core to look for a row, and to put fresh ones among those of the base."""
_DEAR_US = 20.0
"""From there on a spared row is worth so much that the first rows of a source decide nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A table whose answers may be taken over.

    Args:
        table: its id.
        parts: the files of its answers, in the order of the keys.
        paths: where they are here.
        columns: what they hold: the key, the outputs and the digest.
        key_us: what a key took of a core when all were scored; None where that is not known.
    """

    table: str
    parts: tuple[PredictionPart, ...]
    paths: tuple[Path, ...]
    columns: pa.Schema
    key_us: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A source's distinct rows, apart: those to score, and those whose answers are known.

    Args:
        fresh: rows to score, as ``write_distinct`` writes them; it may have none.
        counts: how many of each there are.
        plan: the folder that says what comes from the base, as ``write_plan`` left it; None where
            nothing does, as none was given or another build of all rows is cheaper.
    """

    fresh: Path
    counts: KeyCounts
    plan: Path | None = None


def digests(rows: pa.Table) -> pa.Array:
    """Returns 16 bytes a row, equal for inputs that are equal bit for bit.

    Args:
        rows: all inputs in their order, in the model's types.
    """
    data = np.ascontiguousarray(_hashes(rows), "<u8").tobytes()
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), rows.num_rows, [None, pa.py_buffer(data)]
    )


def _hashes(rows: pa.Table) -> Hashes:
    columns = [_bits(column.combine_chunks()) for column in rows.columns]
    return hash_rows(pa.table(columns, names=column_names(columns)), column_names(columns))


def _bits(column: Any) -> Any:
    """Returns floats as the integers of their bits: no two of them are equal, nor one unequal."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_floating(column.type):
        return column.view(pa.type_for_alias(f"int{column.type.bit_width}"))
    return column


def find_base(
    home: Home,
    table: str,
    manifest: ModelManifest,
    version: tuple[str, int],
    key: Sequence[str],
    *,
    keep: bool = False,
) -> Base | None:
    """Returns what can be taken over from a table; None if nothing can.

    Nothing can be where the table was built with another version or key, represents its inputs, is
    without a warehouse, or was built
    before digests were kept; nor from a model in another server, which may answer otherwise by now.

    Args:
        home: the installation.
        table: its id.
        manifest: of the version that scores now.
        version: its model and its number.
        key: the columns of the key now.
        keep: whether keys of the table are to stay, so that something must be taken over.

    Raises:
        NotFound: there is no such table, or its answers are gone from the files.
        Corrupted: files of its answers are not what was stored.
        InvalidInput: its keys are to stay, and nothing can be taken over.
    """
    found = _find_base(home, table, manifest, version, key)
    if keep and found is None:
        raise InvalidInput(
            f"the keys of table {table} cannot be kept: it has another version or key, or nothing "
            "tells what its answers were made of",
            remedy="Build without --keep, from a source with all keys.",
        )
    return found


def _find_base(
    home: Home, table: str, manifest: ModelManifest, version: tuple[str, int], key: Sequence[str]
) -> Base | None:
    signature = manifest.signature
    info = get_table(home.store, table)
    if (info.model, info.version) != version or tuple(n for n, _ in info.key) != tuple(key):
        return None
    if info.represent or manifest.runtime == RUNTIME:  # answers of others, or by others
        return None
    parts = tuple(list_parts(home, info.id))
    if not parts:
        return None
    paths = _fetch_parts(home, info.id, parts)
    columns = pq.read_schema(paths[0]).remove_metadata()
    if columns.names[len(key) + len(signature.outputs) :] != [DIGEST]:
        return None
    key_us = _key_us(home, table)
    return Base(table=table, parts=parts, paths=paths, columns=columns, key_us=key_us)


def _fetch_parts(home: Home, table: str, parts: Sequence[PredictionPart]) -> tuple[Path, ...]:
    """Returns the files of a table's answers on this machine, their sha256 compared.

    Raises:
        NotFound: one is gone from the files.
        Corrupted: some are not what was stored; they are counted.
    """
    paths, damaged = [], []
    for part in parts:
        try:
            paths.append(fetch_content(home.files, part.file_key))
        except Corrupted:
            damaged.append(part.file_key)
    if damaged:
        raise Corrupted(
            f"{len(damaged)} of {len(parts)} files of answers of table {table} are not what was "
            f"stored: {damaged[0]}",
            remedy="Restore them from a backup, or build without --keep, from all keys.",
        )
    return tuple(paths)


def _key_us(home: Home, table: str) -> float | None:
    """Returns what a key took of a core in the build from which a table's answers began."""
    seen: set[str] = set()
    while table not in seen:
        seen.add(table)
        build = next(iter(list_builds(home.store, table)), None)
        if build is None or build.resumed:
            return None
        if build.base is None:
            return 1e6 * build.cpu_s / build.keys.scored if build.keys.scored else None
        table = build.base
    return None


def is_worth_it(known: int, rows: int, key_us: float | None) -> bool:
    """Says whether to go on telling a source's rows apart, or rather to score all of them.

    Args:
        known: of the first rows, those whose answers are known.
        rows: how many were looked at.
        key_us: what a key takes of a core when all are scored; None where that is not known.

    Example:
        >>> is_worth_it(900, 1000, 1.5), is_worth_it(100, 1000, 1.5), is_worth_it(0, 1000, 50.0)
        (True, False, True)
    """
    return key_us is None or key_us >= _DEAR_US or known / rows * key_us >= _LOOKING_US


def whole_split(distinct: Path) -> Split:
    """Returns the split of a build that takes nothing over: every row is scored."""
    with pq.ParquetFile(distinct) as rows:
        return Split(fresh=distinct, counts=KeyCounts(new=rows.metadata.num_rows))


def rows_of_distinct(distinct: Path, inputs: Sequence[Column]) -> Iterator[pa.RecordBatch]:
    """Yields what ``write_distinct`` wrote as the rows of a source."""
    with pq.ParquetFile(distinct) as file:
        for batch in file.iter_batches(CHUNK, columns=column_names(inputs)):
            yield batch.rename_columns([column.name for column in inputs])


def split_rows(
    batches: Callable[[], Iterator[pa.RecordBatch]],
    base: Base,
    inputs: Sequence[Column],
    key: Sequence[str],
    *,
    keep: bool,
    folder: Path,
    whole: Callable[[], Path],
) -> Split:
    """Tells rows to score from those whose answers are known; done before, it is only read.

    What was done beside other files of answers is done again, and what was scored of it, too.

    Where hardly any are known, and the model is quick, all are scored: that is cheaper.

    Args:
        batches: the source's rows.
        base: what may be taken over.
        inputs: of the model.
        key: the columns of the key.
        keep: whether keys of the base that the source lacks stay.
        folder: where the split is left; it appears whole.
        whole: writes all distinct rows of the source, with the proof of their key. It is called
            where some rows of a key are known and others are not: only all of them together tell
            whether it has several answers.

    Raises:
        InvalidInput: as ``write_distinct``.
        DataRefused: there are no rows.
        Corrupted: the base's answers are not in the order of their keys.
        Unavailable: the disk is full.
    """
    if folder.exists() and not _is_split_of(folder, base):
        remove_folder(folder)
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        try:
            try:
                _write_split(
                    batches(), base, inputs, key, keep=keep, judged=not keep, folder=unfinished
                )
            except _NotWorthItError:
                log("recipes.refresh").info("table.refresh_given_up", base=base.table)
                (unfinished / _GIVEN_UP).touch()
            except (InvalidInput, AmbiguousError):
                rows = rows_of_distinct(whole(), inputs)
                _write_split(rows, base, inputs, key, keep=keep, judged=False, folder=unfinished)
        except pa.ArrowException as error:
            raise Unavailable(
                f"the answers of table {base.table} cannot be taken over: {str(error)[:300]}",
                remedy="Free space on the home's disk and build again, or build with --full.",
            ) from error
        sync_folder(unfinished)
        unfinished.rename(folder)
        sync_folder(folder.parent)
    if (folder / _GIVEN_UP).exists():
        return whole_split(whole())
    counts = msgspec.json.decode((folder / _COUNTS).read_bytes(), type=KeyCounts)
    return Split(fresh=folder / _FRESH, counts=counts, plan=folder)


def _is_split_of(folder: Path, base: Base) -> bool:
    """Says whether a split tells rows apart beside these files: a table built again has others."""
    return (folder / _GIVEN_UP).exists() or is_plan_of(folder, base.parts)


def _write_split(
    batches: Iterator[pa.RecordBatch],
    base: Base,
    inputs: Sequence[Column],
    key: Sequence[str],
    *,
    keep: bool,
    judged: bool,
    folder: Path,
) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of a build that was killed, or of one way before
    folder.mkdir()
    unchanged = _write_fresh(batches, base, inputs, key, judged=judged, folder=folder)
    types = {column.name: column for column in inputs}
    changed = write_plan(
        list(zip(base.parts, base.paths, strict=True)),
        unchanged,
        folder / _FRESH,
        [types[name] for name in key],
        [column_names(inputs)[[*types].index(name)] for name in key],
        keep=keep,
        folder=folder,
    )
    with pq.ParquetFile(folder / _FRESH) as fresh:
        scored = fresh.metadata.num_rows
    same = int(unchanged.sum())
    gone = len(unchanged) - same - changed
    counts = KeyCounts(
        new=scored - changed,
        changed=changed,
        unchanged=same,
        kept=gone if keep else 0,
        dropped=0 if keep else gone,
    )
    write_atomic(folder / _COUNTS, msgspec.json.encode(counts))


def _write_fresh(
    batches: Iterator[pa.RecordBatch],
    base: Base,
    inputs: Sequence[Column],
    key: Sequence[str],
    *,
    judged: bool,
    folder: Path,
) -> npt.NDArray[np.bool_]:
    """Writes the rows that are not in the base; returns which of its own are in the source."""
    unchanged = np.zeros(sum(part.rows for part in base.parts), np.bool_)
    looked = same = 0
    with TemporaryDirectory(dir=folder) as large:
        known = Known(len(unchanged), map(_digests_of, base.paths), Path(large))

        def unknown(some: pa.Table) -> pa.Table:
            nonlocal looked, same, judged
            found = known.find(_hashes(some))
            here = found >= 0
            looked, same = looked + len(here), same + int(here.sum())
            if judged and looked >= _JUDGED_AT:
                judged = False
                if not is_worth_it(same, looked, base.key_us):
                    raise _NotWorthItError
            unchanged[found[here]] = True
            return some.filter(pa.array(~here)) if here.any() else some

        write_distinct(batches, inputs, key, folder / _FRESH, unknown=unknown)
    return unchanged


class _NotWorthItError(Exception):
    """To score all rows is cheaper."""


def _digests_of(path: Path) -> Hashes:
    return digest_words(read_answers(path, [DIGEST]).column(0))
