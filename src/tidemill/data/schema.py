"""What the rows of a dataset look like: inferred once, frozen, edited by people as TOML.

What was inferred warns; what a person declared holds rows:

    type                   always holds: a value that is not of its column's type is quarantined
    required, min, max     never inferred (except required for key and time): they hold rows
    values                 inferred for strings with few distinct values: a new value warns;
                           with ``domain_strict = true`` (never inferred) it holds the row
    max_missing_fraction   inferred with room to breathe: more missing values warn

A file written by a person may leave out columns and types: the first ingest infers them. After
that, columns and types are frozen and everything else may be edited.

    [columns.dep_time]
    type = "int64"
    min = 1
    max = 2400
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from tidemill.data.summaries import ColumnStatistics, TableStatistics
from tidemill.foundation.errors import Conflict, InvalidInput, NotFound
from tidemill.foundation.toml import toml_key, toml_value

Type = Literal["int64", "float64", "bool", "timestamp", "string"]
Bound = int | float | datetime


DOMAIN_SIZE = 100
DOMAIN_SHARE = 0.05


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One column's rules.

    Attributes:
        name: as in the file's header.
        type: of its values; timestamps are UTC with microseconds. None: to be inferred.
        required: a row without a value is quarantined.
        min: smallest value allowed (numbers and timestamps).
        max: largest value allowed.
        values: the values seen or allowed (strings).
        domain_strict: a value outside ``values`` is quarantined rather than told.
        max_missing_fraction: a batch with a larger part missing is told.
    """

    name: str
    type: Type | None = None
    required: bool = False
    min: Bound | None = None
    max: Bound | None = None
    values: tuple[str, ...] | None = None
    domain_strict: bool = False
    max_missing_fraction: float | None = None

    def __post_init__(self) -> None:
        if self.type is not None:
            _check(self)


class Schema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    r"""The columns of a dataset, in order.

    Example:
        >>> schema = Schema.from_toml('[columns.age]\ntype = "int64"\nmin = 0\n')
        >>> schema.column("age").min
        0
        >>> Schema.from_toml(schema.to_toml()) == schema
        True
    """

    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.columns)

    @property
    def sha256(self) -> str:
        """The hash of what it says, as 64 hexadecimal digits."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    def column(self, name: str) -> Column | None:
        """Returns a column, or None."""
        return next((column for column in self.columns if column.name == name), None)

    def to_toml(self) -> str:
        """Returns what ``from_toml`` reads."""
        return "\n".join(_column_toml(column) for column in self.columns)

    @staticmethod
    def from_toml(text: str, *, origin: str = "the schema") -> Schema:
        """Returns the schema that a person wrote.

        Raises:
            InvalidInput: it isn't TOML, or a key or a value is unknown; named with its path.
        """
        try:
            raw: dict[str, Any] = tomllib.loads(text)
            unknown = sorted(set(raw) - {"columns"})
            if unknown or not isinstance(raw.get("columns"), dict):
                raise InvalidInput(
                    f"{origin} has {', '.join(unknown) or 'no columns'}",
                    remedy="It consists of tables [columns.NAME].",
                )
            columns = [{"name": name, **rules} for name, rules in raw["columns"].items()]
            return msgspec.convert({"columns": columns}, Schema)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError, TypeError) as error:
            raise InvalidInput(
                f"{origin} cannot be read: {error}", remedy="Correct it and try again."
            ) from error


def read_schema(path: Path) -> Schema:
    """Returns the schema in a TOML file.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it isn't a schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"schema file {path} does not exist", remedy="Check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"schema file {path} cannot be read", remedy=str(error)) from error
    return Schema.from_toml(text, origin=str(path))


def amend(frozen: Schema, edited: Schema, *, always: Iterable[str] = ()) -> Schema:
    """Returns the edited rules over a frozen schema.

    Columns that the edit leaves out keep their rules; those it names take the edit's. Those in
    ``always`` stay required.

    Raises:
        InvalidInput: a rule doesn't fit its column's type.
        Conflict: the edit names a new column or another type; snapshots have the old ones.
    """
    for column in edited.columns:
        old = frozen.column(column.name)
        if old is None:
            raise Conflict(
                f"the schema is frozen without a column {column.name!r}",
                remedy="Ingest into a new dataset to add columns.",
            )
        if column.type not in (None, old.type):
            raise Conflict(
                f"column {column.name!r} is frozen as {old.type}, not {column.type}",
                remedy="Ingest into a new dataset to change types.",
            )
    edits = {column.name: column for column in edited.columns}
    return _built(
        (edits.get(old.name, old), old.type, old.name in always) for old in frozen.columns
    )


def _built(rules: Iterable[tuple[Column, Type | None, bool]]) -> Schema:
    try:
        return Schema(
            columns=tuple(
                msgspec.structs.replace(column, type=kind, required=column.required or required)
                for column, kind, required in rules
            )
        )
    except ValueError as error:
        raise InvalidInput(str(error), remedy="Correct the schema.") from error


def complete(declared: Schema | None, types: dict[str, Type]) -> Schema:
    """Returns a schema with every column of a file: as declared, the rest by inferred type.

    Args:
        declared: what a person wrote; None if nothing.
        types: the inferred type of each column of the file, in order.

    Raises:
        InvalidInput: what was declared doesn't fit the inferred type.
    """
    rules = {column.name: column for column in declared.columns} if declared else {}
    columns = [rules.get(name, Column(name=name)) for name in types]
    columns += [column for name, column in rules.items() if name not in types]
    return _built(
        (column, column.type or types.get(column.name, "string"), False) for column in columns
    )


def infer(schema: Schema, statistics: TableStatistics) -> Schema:
    """Returns the schema with what a first snapshot teaches about it; what is declared stays.

    Strings with at most 100 distinct values, fewer than one in 20 rows, get a domain; every
    optional column gets twice its missing fraction, and 5 % more, as the most to expect.
    """
    return Schema(
        columns=tuple(
            _learned(column, seen) if (seen := statistics.column(column.name)) else column
            for column in schema.columns
        )
    )


def _learned(column: Column, seen: ColumnStatistics) -> Column:
    present = seen.count - seen.missing
    most = column.max_missing_fraction
    if most is None and not column.required and seen.count:
        most = round(min(1.0, 2 * seen.missing_fraction + 0.05), 4)
    values = column.values
    if values is None and column.type == "string" and seen.domain is not None:
        small = 0 < len(seen.domain) <= DOMAIN_SIZE and len(seen.domain) < DOMAIN_SHARE * present
        values = tuple(sorted(seen.domain)) if small else None
    return msgspec.structs.replace(column, max_missing_fraction=most, values=values)


def require(schema: Schema, names: Iterable[str]) -> Schema:
    """Returns the schema with the named columns required.

    Raises:
        InvalidInput: a column isn't in the schema.
    """
    wanted = set(names)
    missing = sorted(wanted - set(schema.names))
    if missing:
        raise InvalidInput(
            f"key or time column {missing[0]!r} is not among the columns",
            remedy=f"Columns: {', '.join(schema.names[:30])}.",
        )
    return _built((column, column.type, column.name in wanted) for column in schema.columns)


def _check(column: Column) -> None:
    bounds = [bound for bound in (column.min, column.max) if bound is not None]
    kind = datetime if column.type == "timestamp" else (int, float)
    if bounds and column.type not in ("int64", "float64", "timestamp"):
        raise ValueError(f"column {column.name!r} is {column.type}: it has no min or max")
    if any(not isinstance(bound, kind) or isinstance(bound, bool) for bound in bounds):
        raise ValueError(f"min and max of column {column.name!r} must be of type {column.type}")
    if any(isinstance(bound, float) and not math.isfinite(bound) for bound in bounds):
        raise ValueError(f"min and max of column {column.name!r} must be finite")
    if any(isinstance(bound, datetime) and bound.tzinfo is None for bound in bounds):
        raise ValueError(f"min and max of column {column.name!r} need a time zone, such as Z")
    if len(bounds) == 2 and bounds[0] > bounds[1]:  # type: ignore[operator]
        raise ValueError(f"column {column.name!r} has min {bounds[0]} over max {bounds[1]}")
    if column.values is not None and column.type != "string":
        raise ValueError(f"column {column.name!r} is {column.type}: only strings have values")
    if column.domain_strict and column.values is None:
        raise ValueError(f"column {column.name!r} is domain_strict and has no values")


def _column_toml(column: Column) -> str:
    lines = [f"[columns.{toml_key(column.name)}]"]
    for key in ("type", "required", "min", "max", "values", "domain_strict"):
        value = getattr(column, key)
        if value is not None and value is not False:
            lines.append(f"{key} = {toml_value(value)}")
    if column.max_missing_fraction is not None:
        lines.append(f"max_missing_fraction = {toml_value(column.max_missing_fraction)}")
    return "\n".join(lines) + "\n"
