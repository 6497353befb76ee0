"""What a build takes over from a table of the same version: answers whose inputs did not change.

Each key's answer is kept, in the warehouse, with a digest of the inputs that it was made of. A row
of the source whose key has the same digest there has the same answer; all others are scored. The
split is one folder, whole or not there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.data.keys import KEYS_SUFFIX, hash_rows
from tidemill.data.queries import literal, spilling
from tidemill.foundation.durable import replacing, sync_folder, write_atomic
from tidemill.foundation.errors import InvalidInput, Unavailable
from tidemill.foundation.home import Home
from tidemill.models.format import ModelManifest
from tidemill.models.signature import Column
from tidemill.recipes.distinct_rows import column_names
from tidemill.recipes.pieces import CHUNK, Pieces
from tidemill.recipes.scored_rows import file_options
from tidemill.serving.replicas.address import RUNTIME
from tidemill.tables.builds import KeyCounts
from tidemill.tables.catalog import get_table
from tidemill.tables.predictions import list_parts

DIGEST = f"tidemill_digest_{KEYS_SUFFIX}"
"""The column of the answers' files that tells which inputs they were made of."""

_MEMORY = "500MB"
_COUNTS = "counts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A table whose answers may be taken over.

    Args:
        table: its id.
        parts: the files of its answers.
        columns: what they hold: the key, the outputs, and the digest where there is one.
    """

    table: str
    parts: tuple[Path, ...]
    columns: pa.Schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A source's distinct rows, apart: those to score, and the answers of the others.

    Args:
        fresh: rows to score, as ``write_distinct`` writes them; it may have none.
        taken: files of answers, as a build writes them.
        counts: how many of each there are.
    """

    fresh: Path
    taken: tuple[Path, ...]
    counts: KeyCounts


def digested(inputs: Sequence[Column], key: Sequence[str]) -> list[int]:
    """Returns the places of the inputs that a key of a table does not say by itself.

    Of numbers with a fraction, 0 and -0 are one key, and two inputs.
    """
    return [
        at for at, column in enumerate(inputs) if column.name not in key or column.dtype.kind == "f"
    ]


def digests(rows: pa.Table, places: Sequence[int]) -> pa.Array:
    """Returns 16 bytes a row, equal for inputs that are equal bit for bit.

    Args:
        rows: distinct rows, in the model's types.
        places: of the columns that count; see ``digested``.
    """
    columns = [_bits(rows.column(at).combine_chunks()) for at in places]
    hashes = hash_rows(pa.table(columns, names=column_names(columns)), column_names(columns))
    data = np.ascontiguousarray(hashes, "<u8").tobytes()
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), rows.num_rows, [None, pa.py_buffer(data)]
    )


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
    parts = tuple(home.files.fetch(part.file_key) for part in list_parts(home, info.id))
    if not parts:
        return None
    columns = pq.read_schema(parts[0]).remove_metadata()
    wanted = len(key) + len(signature.outputs)
    if digested(signature.inputs, key):
        if columns.names[wanted:] != [DIGEST]:
            return None
    elif len(columns) != wanted:
        return None
    return Base(table=table, parts=parts, columns=columns)


def whole_split(distinct: Path) -> Split:
    """Returns the split of a build that takes nothing over: every row is scored."""
    with pq.ParquetFile(distinct) as rows:
        return Split(fresh=distinct, taken=(), counts=KeyCounts(new=rows.metadata.num_rows))


def split_rows(
    distinct: Path,
    base: Base,
    inputs: Sequence[Column],
    key: Sequence[str],
    *,
    keep: bool,
    folder: Path,
) -> Split:
    """Tells rows to score from those whose answers are known; done before, it is only read.

    Args:
        distinct: the source's rows, each key once, as ``write_distinct`` wrote them.
        base: what may be taken over.
        inputs: of the model.
        key: the columns of the key.
        keep: whether keys of the base that the source lacks stay.
        folder: where the split is left; it appears whole.

    Raises:
        Unavailable: the disk is full.
    """
    import duckdb  # noqa: PLC0415 - slow to import

    if not (folder / _COUNTS).exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            _write_split(distinct, base, inputs, key, keep=keep, folder=unfinished)
        except (duckdb.Error, pa.ArrowException) as error:
            raise Unavailable(
                f"the answers of table {base.table} cannot be taken over: {str(error)[:300]}",
                remedy="Free space on the home's disk and build again, or build with --full.",
            ) from error
        sync_folder(unfinished)
        unfinished.rename(folder)
        sync_folder(folder.parent)
    counts = msgspec.json.decode((folder / _COUNTS).read_bytes(), type=KeyCounts)
    return Split(
        fresh=folder / "fresh.parquet",
        taken=tuple(sorted(folder.glob("taken-*.parquet"))),
        counts=counts,
    )


def _write_split(
    distinct: Path,
    base: Base,
    inputs: Sequence[Column],
    key: Sequence[str],
    *,
    keep: bool,
    folder: Path,
) -> None:
    places = digested(inputs, key)
    names = column_names(inputs)
    answers = [f"b{at}" for at in range(len(base.columns))]
    keys = [names[[column.name for column in inputs].index(name)] for name in key]
    files = ", ".join(literal(str(path)) for path in base.parts)
    known = f"(select *, true as known from read_parquet([{files}]) as t({', '.join(answers)}))"  # noqa: S608 - quoted
    same = " and ".join(
        f"r.{one} is not distinct from b.{other}" for one, other in zip(keys, answers, strict=False)
    )
    new = changed = unchanged = gone = 0
    with (
        replacing(folder / "fresh.parquet", folder) as unfinished,
        _writer(unfinished, pq.read_schema(distinct)) as writer,
        spilling(folder, memory=_MEMORY) as connection,
    ):
        fresh = Pieces(lambda rows: writer.write_table(rows.cast(writer.schema)))
        taken = Pieces(_Taken(folder, base.columns))
        connection.register("rows", _with_digests(distinct, places))
        joined = connection.sql(
            f"select r.*, {', '.join(f'b.{name}' for name in answers)}, b.known "  # noqa: S608 - ours
            f"from rows r left join {known} b on {same}"
        )
        for batch in pa.RecordBatchReader.from_stream(joined):
            part = pa.table(batch)
            found = pc.fill_null(part["known"], False)
            equal = found
            if places:  # none is equal to that of a key that is not known
                equal = pc.fill_null(pc.equal(part["d"], part[answers[-1]]), False)
            unequal = part.filter(pc.invert(equal))
            fresh.add(unequal.select(names))
            taken.add(part.filter(equal).select(answers))
            again = pc.sum(pc.and_(found, pc.invert(equal))).as_py() or 0
            changed += again
            new += unequal.num_rows - again
            unchanged += part.num_rows - unequal.num_rows
        fresh.finish()
        lacking = f"from {known} b anti join read_parquet({literal(str(distinct))}) r on {same}"
        if keep:
            left = connection.sql(f"select {', '.join(answers)} {lacking}")
            for batch in pa.RecordBatchReader.from_stream(left):
                gone += batch.num_rows
                taken.add(pa.table(batch))
        else:
            (gone,) = connection.execute(f"select count(*) {lacking}").fetchone()
        taken.finish()
    shutil.rmtree(folder / "spill", ignore_errors=True)
    counts = KeyCounts(
        new=new,
        changed=changed,
        unchanged=unchanged,
        kept=gone if keep else 0,
        dropped=0 if keep else gone,
    )
    write_atomic(folder / _COUNTS, msgspec.json.encode(counts))


def _writer(path: Path, schema: pa.Schema) -> Any:
    return pq.ParquetWriter(path, schema, **file_options(schema))


class _Taken:
    """Writes each piece of answers into a file of its own, as a build writes them."""

    def __init__(self, folder: Path, columns: pa.Schema) -> None:
        self._folder = folder
        self._columns = columns
        self._written = 0

    def __call__(self, rows: pa.Table) -> None:
        """Writes one file."""
        cast = rows.rename_columns(self._columns.names).cast(self._columns)
        target = self._folder / f"taken-{self._written:06}.parquet"
        with replacing(target, self._folder) as unfinished:
            pq.write_table(cast, unfinished, **file_options(cast.schema))
        self._written += 1


def _with_digests(distinct: Path, places: Sequence[int]) -> pa.RecordBatchReader:
    """Returns the rows with their digests in a column ``d``."""
    schema = pq.read_schema(distinct).remove_metadata()
    if places:
        schema = schema.append(pa.field("d", pa.binary(16)))

    def batches() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(distinct) as file:
            for batch in file.iter_batches(CHUNK):
                part = pa.table(batch)
                if places:
                    part = part.append_column("d", digests(part, places))
                yield from part.cast(schema).combine_chunks().to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())
