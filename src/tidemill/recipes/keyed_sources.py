"""Keyed rows from elsewhere: objects of a bucket, and what a database answers to a query.

They are found and copied as an ingest does it: ``data.elsewhere``. Equal content is the same
source, so that a build that was killed goes on where bucket or database still say the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.data.batches import Progress
from tidemill.data.elsewhere import looking_elsewhere
from tidemill.data.sources import Source, locate, named_sources
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.home import Home
from tidemill.recipes.keyed_rows import KeyedRows, rows_of_files, rows_of_source


@contextmanager
def keyed_source(
    home: Home,
    text: str,
    *,
    query: str | None = None,
    table: str | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Iterator[KeyedRows]:
    """Gives the rows of a source as it is named; copies of what is elsewhere last as long.

    Args:
        home: the installation.
        text: a path, an ``s3://`` URL, or that of a database.
        query: what the database is asked.
        table: or its table that is read whole.
        progress: told the bytes that were brought.

    Raises:
        NotFound: there is no such file or object.
        InvalidInput: a database is asked nothing, twice, or wrongly; or the URL is of another kind.
        TooLarge: what a database answers takes more disk than ``data.spool_bytes``.
        Unavailable: a bucket or a database can't be reached.
    """
    (source,) = named_sources([text], query=query, table=table)
    if isinstance(source, str) and "://" not in source:
        yield rows_of_files(Path(source))
        return
    with looking_elsewhere(home, progress) as elsewhere:
        files, _ = locate([source], elsewhere)

        def batches() -> Iterator[pa.RecordBatch]:
            for file in files:
                yield from rows_of_source(file)

        hashes = [file.record.sha256 for file in files]
        identity = hashlib.sha256(repr(hashes).encode()).hexdigest()
        yield KeyedRows(name=_name(source), batches=batches, identity=identity)


@contextmanager
def as_parquet(
    home: Home,
    text: str,
    *,
    query: str | None = None,
    table: str | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Iterator[Path]:
    """Gives a source as a Parquet file of this machine, its types those of its first rows.

    A file or folder of this machine is given as it is.

    Raises:
        TidemillError: as ``keyed_source``.
        InvalidInput: later rows have other columns or types.
    """
    if "://" not in text and query is None and table is None:
        yield Path(text)
        return
    with (
        keyed_source(home, text, query=query, table=table, progress=progress) as rows,
        home.scratch("source") as folder,
    ):
        path = folder / "rows.parquet"
        batches = rows.batches()
        first = next(batches)
        with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
            writer.write_batch(first)
            for batch in batches:
                try:
                    writer.write_table(pa.Table.from_batches([batch]).cast(first.schema))
                except (pa.ArrowException, ValueError) as error:
                    raise InvalidInput(
                        f"the rows of {rows.name} are not all of the same columns and types: "
                        f"{str(error)[:300]}",
                        remedy="Have the query or the files say one type a column.",
                    ) from error
        yield path


def _name(source: Source) -> str:
    return str(source) if isinstance(source, str | Path) else source.name
