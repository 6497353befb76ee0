"""Reads Avro's object container files as batches of text (the extra ``avro``).

Values are judged by their texts, as those of CSV are; dates and times are ISO 8601, and records and
lists within a row are JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from itertools import islice
from typing import Any
from uuid import UUID

from tidemill.data.batches import Batch, Progress, SourceFile, check_names
from tidemill.data.json_source import object_batch
from tidemill.foundation.errors import InvalidInput, Unavailable

ROWS = 1 << 13
MAGIC = b"Obj\x01"


def read_avro(file: SourceFile, progress: Progress) -> Iterator[Batch]:
    """Yields the rows of an Avro file, at least one batch; ``line`` counts records from 1.

    Raises:
        InvalidInput: it is broken, was cut, holds no records, or holds bytes.
        Unavailable: the extra ``avro`` is not installed.
    """
    try:
        import fastavro  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise Unavailable("Avro needs fastavro", remedy="pip install 'tidemill[avro]'.") from error

    with file.path.open("rb") as raw:
        try:
            reader = fastavro.reader(raw)
            schema: Any = reader.writer_schema
        except Exception as error:
            raise _broken(file, error) from error
        if not isinstance(schema, dict) or schema.get("type") != "record":
            raise InvalidInput(f"{file.name} holds no records", remedy="Write a record a row.")
        names = [field["name"] for field in schema["fields"]]
        check_names(file.name, names)
        yield object_batch([], names, 0)
        done = 0
        while rows := _some(file, reader):
            yield object_batch(rows, names, done)
            done += len(rows)
            progress(raw.tell(), file.record.bytes)


def _some(file: SourceFile, reader: Iterator[Any]) -> list[dict[str, Any]]:
    try:
        found = list(islice(reader, ROWS))
    except Exception as error:  # a broken file raises whatever its bytes lead to
        raise _broken(file, error) from error
    return [{name: _plain(name, value) for name, value in row.items()} for row in found]


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(name, one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, one) for one in value]
    raise InvalidInput(
        f"column {name!r} holds {type(value).__name__}, which can't be kept",
        remedy="Write it as numbers, booleans, timestamps or strings.",
    )


def _broken(file: SourceFile, error: Exception) -> InvalidInput:
    return InvalidInput(
        f"{file.name} is a broken Avro file: {type(error).__name__} {str(error)[:200]}".rstrip(),
        remedy="It was probably cut while it was copied: copy or write it again.",
    )
