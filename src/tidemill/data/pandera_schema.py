"""Schemas as pandera's, and pandera's as ours; pandera is asked for when it is used.

What pandera has no word for travels in the ``metadata`` of its columns, so that the way there and
back loses nothing. What it has a word for and we have not (a check by a function, an index, a
column named by a pattern) is refused by its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Literal, NoReturn

import msgspec

from tidemill.data.schema import Column, Schema, Type
from tidemill.foundation.errors import InvalidInput, Unavailable

Library = Literal["pandas", "polars"]

KEY = "tidemill"
"""Under which the rest of a column's rules stands in its ``metadata``."""

_WRITTEN = {"name", "type", "required", "unique", "pattern"}


def to_pandera(
    schema: Schema, *, library: Library = "pandas", environment: str | None = None
) -> Any:
    """Returns a ``pandera.DataFrameSchema`` for pandas or Polars frames.

    Args:
        schema: complete: every column has a type, and none holds lists.
        library: whose frames it is to judge.
        environment: without the columns that this one doesn't have.

    Raises:
        Unavailable: pandera isn't installed.
        InvalidInput: a column has no type or holds lists, or the schema names no such environment.
    """
    pandera = _pandera(library)
    columns = {}
    for column in schema.columns:
        if column.deprecated or not schema.in_force(column, environment):
            continue
        if column.type is None or column.holds_lists:
            raise InvalidInput(
                f"column {column.name!r} has no type, or holds lists", remedy="Leave it out."
            )
        columns[column.name] = pandera.Column(
            _dtype(column.type, library),
            checks=_checks(column, pandera.Check, library),
            nullable=not column.required,
            required=not column.may_be_absent,
            unique=column.unique,
            metadata={KEY: _rest(column)},
        )
    rest = msgspec.to_builtins(msgspec.structs.replace(schema, columns=()))
    return pandera.DataFrameSchema(
        columns,
        strict=schema.severities.get("SCHEMA_NEW_COLUMN") == "error",
        metadata={KEY: rest},
    )


def from_pandera(pandera_schema: Any) -> Schema:
    """Returns what a ``pandera.DataFrameSchema`` says.

    Raises:
        InvalidInput: it isn't one, or it has a rule without a counterpart here.
    """
    if not hasattr(pandera_schema, "columns") or not hasattr(pandera_schema, "strict"):
        raise InvalidInput(
            f"a {type(pandera_schema).__name__} is no pandera schema",
            remedy="Give a DataFrameSchema; a DataFrameModel has to_schema().",
        )
    if pandera_schema.checks:
        _refuse("the schema", "a check of the whole frame")
    if getattr(pandera_schema, "index", None) is not None:
        _refuse("the schema", "an index")
    together = pandera_schema.unique or []
    together = [together] if isinstance(together, str) else list(together)
    if len(together) > 1:
        _refuse("the schema", "columns that are unique together")
    try:
        columns = tuple(
            _column(name, column, unique=name in together)
            for name, column in pandera_schema.columns.items()
        )
        rest = dict((pandera_schema.metadata or {}).get(KEY, {}))
        if pandera_schema.strict is True:
            rest["severities"] = {**rest.get("severities", {}), "SCHEMA_NEW_COLUMN": "error"}
        return msgspec.structs.replace(
            msgspec.convert({**rest, "columns": []}, Schema), columns=columns
        )
    except ValueError as error:
        raise InvalidInput(
            f"the pandera schema cannot be read: {error}", remedy="Correct it."
        ) from error


def _pandera(library: Library) -> Any:
    if library not in ("pandas", "polars"):
        raise InvalidInput(f"there is no library {library!r}", remedy="Use pandas or polars.")
    try:
        return import_module(f"pandera.{library}")
    except ImportError as error:
        raise Unavailable(
            f"pandera for {library} is not installed", remedy="Install pandera and the library."
        ) from error


# --- there -----------------------------------------------------------------------------------


def _dtype(kind: Type, library: Library) -> Any:
    if library == "polars":
        import polars as pl  # noqa: PLC0415 - rarely needed  # type: ignore[import-not-found]

        return {
            "int64": pl.Int64,
            "float64": pl.Float64,
            "bool": pl.Boolean,
            "timestamp": pl.Datetime("us", "UTC"),
            "string": pl.String,
        }[kind]
    names = {"int64": "Int64", "bool": "boolean", "timestamp": "datetime64[us, UTC]"}
    return names.get(kind, kind)


def _checks(column: Column, check: Any, library: Library) -> list[Any]:
    found = []
    if column.type != "string":
        if column.min is not None:
            found.append(check.ge(column.min))
        if column.max is not None:
            found.append(check.le(column.max))
    if column.values is not None:
        soft = not column.domain_strict
        found.append(check.isin(list(column.values), raise_warning=soft))
    if column.pattern is not None:
        found.append(check.str_matches(f"{_BEGIN}{column.pattern}{_ENDS[library]}"))
    return found


_BEGIN = "^(?:"
_ENDS: dict[Library, str] = {"pandas": r")\Z", "polars": ")$"}
"""Where a whole text ends: Python's ``$`` leaves room for a newline, and Rust knows no other."""


def _rest(column: Column) -> dict[str, Any]:
    """Returns the rules that pandera has no word for."""
    held = _WRITTEN | {"values", "domain_strict"}
    held |= {"min", "max"} if column.type != "string" else set()
    rules = msgspec.to_builtins(column)
    default = msgspec.to_builtins(Column(name=column.name))
    return {key: rules[key] for key in rules if key not in held and rules[key] != default[key]}


# --- back ------------------------------------------------------------------------------------


def _column(name: Any, column: Any, *, unique: bool) -> Column:
    where = f"column {name!r}"
    if not isinstance(name, str) or column.regex:
        _refuse(where, "a name that is a pattern")
    kind = _type(where, column.dtype)
    rules: dict[str, Any] = dict((column.metadata or {}).get(KEY, {}))
    if not column.nullable:
        rules["required"] = True
    if not column.required:
        if not column.nullable:
            _refuse(where, "a column that may be absent but must have values")
        rules["min_count"] = 0
    rules |= {"name": name, "type": kind, "unique": bool(column.unique or unique)}
    for check in column.checks:
        _take(where, rules, check)
    return msgspec.convert(rules, Column)


_NAMES: tuple[tuple[tuple[str, ...], Type], ...] = (
    (("int", "uint"), "int64"),
    (("float",), "float64"),
    (("bool",), "bool"),
    (("datetime", "timestamp", "date"), "timestamp"),
    (("str", "object", "utf8", "category"), "string"),
)


def _type(where: str, dtype: Any) -> Type | None:
    if dtype is None:
        return None
    word = str(dtype).lower()
    for starts, kind in _NAMES:
        if word.startswith(starts):
            return kind
    return _refuse(where, f"type {dtype}")


def _take(where: str, rules: dict[str, Any], check: Any) -> None:
    """Adds what a check says to a column's rules."""
    said, name = check.statistics or {}, check.name
    take = _TAKES.get(name)
    if take is None:
        _refuse(where, f"check {name!r}")
    kind = rules["type"]
    take({**said, "soft": bool(getattr(check, "raise_warning", False)), "kind": kind}, rules)


def _at_least(said: dict[str, Any], rules: dict[str, Any]) -> None:
    _bound(rules, "min", said["min_value"], max)


def _at_most(said: dict[str, Any], rules: dict[str, Any]) -> None:
    _bound(rules, "max", said["max_value"], min)


def _over(said: dict[str, Any], rules: dict[str, Any]) -> None:
    _bound(rules, "min", _next(said["min_value"], said["kind"], 1), max)


def _under(said: dict[str, Any], rules: dict[str, Any]) -> None:
    _bound(rules, "max", _next(said["max_value"], said["kind"], -1), min)


def _in_range(said: dict[str, Any], rules: dict[str, Any]) -> None:
    (_at_least if said.get("include_min", True) else _over)(said, rules)
    (_at_most if said.get("include_max", True) else _under)(said, rules)


def _equal(said: dict[str, Any], rules: dict[str, Any]) -> None:
    if said["kind"] == "string":
        _among({**said, "allowed_values": [said["value"]]}, rules)
        return
    _bound(rules, "min", said["value"], max)
    _bound(rules, "max", said["value"], min)


def _among(said: dict[str, Any], rules: dict[str, Any]) -> None:
    values: Iterable[Any] = said["allowed_values"]
    known = rules.get("values")
    rules["values"] = [each for each in values if known is None or each in known]
    rules["domain_strict"] = not said["soft"]


def _matches(said: dict[str, Any], rules: dict[str, Any]) -> None:
    if rules.get("pattern") is not None:
        raise ValueError("a column has one pattern, not two")
    pattern = getattr(said["pattern"], "pattern", said["pattern"])
    ours = pattern.startswith(_BEGIN) and pattern.endswith(tuple(_ENDS.values()))
    end = next((end for end in _ENDS.values() if pattern.endswith(end)), "")
    rules["pattern"] = pattern[len(_BEGIN) : -len(end)] if ours else f"(?:{pattern})(?s:.*)"


_TAKES: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "greater_than_or_equal_to": _at_least,
    "less_than_or_equal_to": _at_most,
    "greater_than": _over,
    "less_than": _under,
    "in_range": _in_range,
    "equal_to": _equal,
    "isin": _among,
    "str_matches": _matches,
}


def _bound(
    rules: dict[str, Any], rule: str, value: Any, stricter: Callable[[Any, Any], Any]
) -> None:
    if hasattr(value, "to_pydatetime"):
        value = value.to_pydatetime()
    if isinstance(value, datetime) and value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    if hasattr(value, "item"):  # NumPy's numbers
        value = value.item()
    if isinstance(value, float) and rules["type"] == "int64":
        value = math.ceil(value) if rule == "min" else math.floor(value)
    known = rules.get(rule)
    rules[rule] = value if known is None else stricter(known, value)


def _next(value: Any, kind: str, step: int) -> Any:
    """Returns the smallest number over, or the largest under another."""
    if kind == "float64":
        return math.nextafter(float(value), step * math.inf)
    if kind != "int64":
        raise ValueError(f"a range of {kind} that leaves its end out has no counterpart")
    return (math.floor(value) + 1) if step > 0 else (math.ceil(value) - 1)


def _refuse(where: str, what: str) -> NoReturn:
    raise InvalidInput(
        f"{where} of the pandera schema has {what}, which has no counterpart",
        remedy="Leave it out, or write an expectation in SQL.",
    )
