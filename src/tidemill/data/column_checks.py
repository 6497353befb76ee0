"""What a schema says of one column, as SQL: which rows break a rule, and what would mend it.

A check has a condition that the rows to blame meet, and the edit that would make them good. The
numbers that an edit needs (the largest value, how many distinct ones) are measured in the same
pass as the rows are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from tidemill.data.casting import type_of
from tidemill.data.queries import literal, quoted
from tidemill.data.schema import Bound, Column
from tidemill.data.schema_edits import SchemaEdit

INT = "'[+-]?[0-9]{1,18}'"
NO_NUMBER = ("INT_TYPE_NOT_INT_STRING", "FLOAT_TYPE_STRING_NOT_FLOAT")
NO_RULES: dict[str, Any] = dict.fromkeys(
    ("min", "max", "values", "domain", "pattern", "min_domain_mass", "drift", "skew")
) | {"domain_strict": False, "allow_nan": False, "allow_inf": False}
"""Rules that a column of another type can't keep."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Measured = Mapping[str, Any]
Sql = Callable[[str], str]
"""SQL about a value, from SQL for that value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One rule of one column.

    Attributes:
        kind: of the anomaly.
        breaks: the SQL condition that rows which break it meet; None: it is about all rows.
        says: what is wrong, given what was measured.
        mends: the rules to set, given what was measured; None if nothing mends it.
        measures: SQL aggregates, by name.
        fails: given what was measured, whether it is broken; with ``breaks`` None.
        error: it is one whatever the kind usually is.
    """

    kind: str
    says: Callable[[Measured], str]
    mends: Callable[[Measured], dict[str, Any]] | None
    breaks: str | None = None
    measures: dict[str, str] = field(default_factory=dict)
    fails: Callable[[Measured], bool] | None = None
    error: bool = False


def checks_of(column: Column, kind: pa.DataType) -> Iterator[Check]:
    """Yields the checks of a column that is there, but those of its shape and its domain's values.

    Args:
        column: its rules; it has a type.
        kind: what its values (those of its lists, if it holds lists) are in the rows.
    """
    yield from _presence(column)
    if column.holds_lists:
        yield from _valency(column)
    if pa.types.is_null(kind):
        return
    mismatch = _type_check(column, kind)
    if mismatch is not None:
        yield mismatch
        if mismatch.breaks is None:  # not one value can be judged by the rest
            return
    yield from _uniqueness(column)
    if pa.types.is_floating(kind):
        yield from _finite(column)
    if column.domain == "bool":
        yield from _truth(column)
    elif column.domain is not None and column.type == "string":
        yield from _spelled_number(column)
    yield from _range(column)
    if column.pattern is not None:
        yield _pattern(column, column.pattern)


def any_value(column: Column, condition: Sql) -> str:
    """Returns a condition on rows from one on a value.

    Example:
        >>> any_value(Column(name="n", type="int64"), lambda x: f"{x} > 1")
        '"n" > 1'
    """
    name = quoted(column.name)
    if column.holds_lists:
        return f"len([x for x in {name} if {condition('x')}]) > 0"
    return condition(name)


def as_edit(column: Column, rules: dict[str, Any]) -> SchemaEdit:
    """Returns the edit that sets rules of a column."""
    return SchemaEdit(column=column.name, set=rules)


# --- presence and shape ----------------------------------------------------------------------


def _presence(column: Column) -> Iterator[Check]:
    name = column.name
    most = 0.0 if column.required else column.max_missing_fraction
    if column.may_be_absent:
        return
    yield Check(
        kind="FEATURE_TYPE_NOT_PRESENT",
        says=lambda _: f"{name} has no value in any row",
        mends=lambda _: {"required": False, "max_missing_fraction": 1.0, "min_count": 0},
        fails=lambda m: (
            m["present"] == 0
            and (column.required or (column.min_count or 0) > 0 or (most is not None and most < 1))
        ),
    )
    if most is not None:
        yield Check(
            kind="FEATURE_TYPE_LOW_FRACTION_PRESENT",
            says=lambda m: f"{_missing(m):.1%} of {name} is missing; at most {most:.1%} may be",
            mends=lambda m: {
                "required": False,
                "max_missing_fraction": max(column.max_missing_fraction or 0.0, _missing(m)),
            },
            breaks=f"{quoted(name)} IS NULL",
            fails=lambda m: m["present"] > 0 and _missing(m) > most,
            error=column.required,
        )
    if column.min_count:
        least = column.min_count
        yield Check(
            kind="FEATURE_TYPE_LOW_NUMBER_PRESENT",
            says=lambda m: f"{name} has a value in {m['present']} rows; at least {least} must have",
            mends=lambda m: {"min_count": m["present"]},
            fails=lambda m: 0 < m["present"] < least,
        )


def _missing(measured: Measured) -> float:
    rows = measured["rows"]
    return float((rows - measured["present"]) / rows) if rows else 0.0


def _valency(column: Column) -> Iterator[Check]:
    name, length = column.name, f"len({quoted(column.name)})"
    if column.min_values is not None:
        yield Check(
            kind="FEATURE_TYPE_LOW_NUMBER_VALUES",
            says=lambda m: (
                f"{name} has a list of {m['least']} values; at least "
                f"{column.min_values} are asked for"
            ),
            mends=lambda m: {"min_values": m["least"]},
            breaks=f"{length} < {column.min_values}",
            measures={"least": f"min({length})"},
        )
    if column.max_values is not None:
        yield Check(
            kind="FEATURE_TYPE_HIGH_NUMBER_VALUES",
            says=lambda m: (
                f"{name} has a list of {m['most']} values; at most {column.max_values} may be there"
            ),
            mends=lambda m: {"max_values": m["most"]},
            breaks=f"{length} > {column.max_values}",
            measures={"most": f"max({length})"},
        )


def _uniqueness(column: Column) -> Iterator[Check]:
    name = column.name
    measures = {"distinct": f"count(DISTINCT {quoted(name)})"}
    least, most = column.min_unique, column.max_unique
    if column.unique or least is not None:
        yield Check(
            kind="FEATURE_TYPE_LOW_UNIQUE",
            says=lambda m: (
                f"{name} has {m['distinct']} distinct values in {m['present']} rows; "
                + (
                    "each is to be there once"
                    if column.unique
                    else f"at least {least} are asked for"
                )
            ),
            mends=lambda m: {
                "unique": column.unique and m["distinct"] == m["present"],
                "min_unique": None if least is None else min(least, m["distinct"]),
            },
            measures=measures,
            fails=lambda m: (
                (column.unique and m["distinct"] < m["present"])
                or (least is not None and m["distinct"] < least)
            ),
        )
    if most is not None:
        yield Check(
            kind="FEATURE_TYPE_HIGH_UNIQUE",
            says=lambda m: f"{name} has {m['distinct']} distinct values; at most {most} may be",
            mends=lambda m: {"max_unique": m["distinct"]},
            measures=measures,
            fails=lambda m: m["distinct"] > most,
        )


# --- type ------------------------------------------------------------------------------------


def _type_check(column: Column, kind: pa.DataType) -> Check | None:
    """Returns the check of the values' type; None if every one is of it."""
    name, have = column.name, type_of(kind)
    if pa.types.is_dictionary(kind):
        have = type_of(kind.value_type)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _bytes(column)
    if have == column.type or (have, column.type) == ("int64", "float64"):
        return None
    breaks = None
    if (have, column.type) == ("float64", "int64"):  # as pandas has integers with missing values
        breaks = any_value(column, lambda x: f"NOT (isfinite({x}) AND {x} = trunc({x}))")
    return Check(
        kind="UNEXPECTED_DATA_TYPE",
        says=lambda _: f"{name} is {have}; {column.type} is expected",
        mends=lambda _: {**NO_RULES, **_floats(have), "type": have},
        breaks=breaks,
        fails=None if breaks else lambda _: True,
    )


def _floats(kind: str) -> dict[str, Any]:
    return {"allow_nan": True, "allow_inf": True} if kind == "float64" else {}


def _bytes(column: Column) -> Check:
    wrong = any_value(column, lambda x: f"{x} IS NOT NULL AND try(decode({x})) IS NULL")
    return Check(
        kind="ENUM_TYPE_INVALID_UTF8" if column.type == "string" else "UNEXPECTED_DATA_TYPE",
        says=lambda m: f"{column.name} holds bytes, and {m['bad']} rows have some that are no text",
        mends=None,
        measures={"bad": f"count(*) FILTER (WHERE {wrong})"},
        fails=lambda _: True,
    )


def _finite(column: Column) -> Iterator[Check]:
    if column.type == "float64" and not column.allow_nan:
        yield _not_finite(column, "FLOAT_TYPE_HAS_NAN", "isnan", "allow_nan")
    if column.type == "float64" and not column.allow_inf:
        yield _not_finite(column, "FLOAT_TYPE_HAS_INF", "isinf", "allow_inf")


def _not_finite(column: Column, kind: str, test: str, rule: str) -> Check:
    what = "NaN" if test == "isnan" else "infinity"
    return Check(
        kind=kind,
        says=lambda _: f"{column.name} holds {what}",
        mends=lambda _: {rule: True},
        breaks=any_value(column, lambda x: f"{test}({x})"),
    )


# --- domain ----------------------------------------------------------------------------------


def _truth(column: Column) -> Iterator[Check]:
    if column.type == "float64":
        yield _no_truth(column, "BOOL_TYPE_UNEXPECTED_FLOAT", "NOT IN (0, 1)")
    if column.type == "int64":
        yield _no_truth(column, "BOOL_TYPE_BIG_INT", "> 1")
        yield _no_truth(column, "BOOL_TYPE_SMALL_INT", "< 0")


def _no_truth(column: Column, kind: str, test: str) -> Check:
    return Check(
        kind=kind,
        says=lambda _: f"{column.name} stands for a truth value, and has values {test}",
        mends=lambda _: {"domain": None},
        breaks=any_value(column, lambda x: f"{x} {test}"),
    )


def _spelled_number(column: Column) -> Iterator[Check]:
    name, whole = column.name, column.domain == "int"

    def wrong(x: str) -> str:
        test = f"NOT regexp_full_match({x}, {INT})" if whole else f"try_cast({x} AS DOUBLE) IS NULL"
        return f"{x} IS NOT NULL AND {test}"

    yield Check(
        kind="INT_TYPE_NOT_INT_STRING" if whole else "FLOAT_TYPE_STRING_NOT_FLOAT",
        says=lambda _: f"{name} has texts that are no {'integer' if whole else 'number'}",
        mends=lambda _: {"domain": None, "min": None, "max": None},
        breaks=any_value(column, wrong),
    )


def _range(column: Column) -> Iterator[Check]:
    kind = "INT_TYPE" if column.type == "int64" or column.domain == "int" else "FLOAT_TYPE"
    what = "INT" if kind == "INT_TYPE" else "FLOAT"
    small, big = f"{kind}_SMALL_{what}", f"{kind}_BIG_{what}"
    if column.type == "timestamp":
        small, big = "TIMESTAMP_TYPE_EARLY_TIME", "TIMESTAMP_TYPE_LATE_TIME"
    if column.min is not None:
        yield _bounded(column, small, "min", "<", column.min)
    if column.max is not None:
        yield _bounded(column, big, "max", ">", column.max)


def _bounded(column: Column, kind: str, rule: str, sign: str, bound: Bound) -> Check:
    number = comparable(column)
    said = bound.isoformat() if isinstance(bound, datetime) else bound
    return Check(
        kind=kind,
        says=lambda m: f"{column.name} reaches {_seen(column, m[rule])}; its {rule} is {said}",
        mends=lambda m: {rule: _seen(column, m[rule])},
        breaks=any_value(column, lambda x: f"{number(x)} {sign} {_as_literal(bound)}"),
        measures={rule: _extreme(column, rule, number)},
        fails=lambda m: m[kind] > 0 and not any(m.get(other) for other in NO_NUMBER),
    )


def comparable(column: Column) -> Sql:
    """Returns what makes a value a number: times are microseconds, NaN is missing."""

    def no_nan(x: str) -> str:
        return f"CASE WHEN isnan({x}) THEN NULL ELSE {x} END"

    if column.type == "timestamp":
        return lambda x: f"epoch_us({x})"
    if column.type == "float64":
        return lambda x: no_nan(f"{x}::DOUBLE")
    if column.type != "string":
        return lambda x: x
    if column.domain == "int":
        return lambda x: f"CASE WHEN regexp_full_match({x}, {INT}) THEN try_cast({x} AS BIGINT) END"
    return lambda x: no_nan(f"try_cast({x} AS DOUBLE)")


def _extreme(column: Column, pick: str, number: Sql) -> str:
    name = quoted(column.name)
    if column.holds_lists:
        return f"{pick}(list_{pick}([{number('x')} for x in {name}]))"
    return f"{pick}({number(name)})"


def _as_literal(bound: Bound) -> str:
    return str(microseconds(bound)) if isinstance(bound, datetime) else literal(bound)


def microseconds(time: datetime) -> int:
    """Returns a time as ``comparable`` has it: microseconds since the epoch."""
    return (time - EPOCH) // timedelta(microseconds=1)


def _seen(column: Column, value: Any) -> Any:
    """Returns a bound from what was measured; None where no bound can hold it."""
    if column.type == "timestamp":
        try:
            return EPOCH + timedelta(microseconds=value)
        except OverflowError:
            return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return int(value) if column.type == "int64" else value


def _pattern(column: Column, pattern: str) -> Check:
    return Check(
        kind="ENUM_TYPE_PATTERN_MISMATCH",
        says=lambda _: f"{column.name} has texts that are not of the pattern {pattern[:100]!r}",
        mends=lambda _: {"pattern": None},
        breaks=any_value(column, lambda x: f"NOT regexp_full_match({x}, {literal(pattern)})"),
    )
