"""Judges rows by a schema: which are good, which rule each other one breaks, what is strange.

Pure: (rows, schema) in, a judgement out. A row is held under the first rule that it breaks, in the
order of the schema's columns:

    missing_column  the file lacks a column of the schema: holds every row
    wrong_type      the value isn't of the column's type
    not_finite      the number is NaN or infinite
    inexact         a value of the key has more digits than its column's type keeps
    missing         a required column has no value
    out_of_range    the value is under ``min`` or over ``max``
    not_in_domain   the string isn't among ``values`` and the column is ``domain_strict``
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.casting import ARROW, Cast, Mask, cast, infer_type, supported, type_of
from tidemill.data.csv_records import Ints
from tidemill.data.exactness import inexact, key_type
from tidemill.data.records import Anomaly, DatasetOptions
from tidemill.data.schema import Column, Schema, Type
from tidemill.data.summaries import TableStatistics
from tidemill.foundation.errors import InvalidInput

NEW_VALUE = "ENUM_TYPE_UNEXPECTED_STRING_VALUES"
NEW_VALUES_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule that rows broke: its short word, its sentence, its column."""

    reason: str
    text: str
    column: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What became of a batch.

    Attributes:
        table: every row, cast to the schema; what can't be cast is null.
        broken: index into ``rules`` of the rule that each row breaks, or -1.  # (rows,)
        rules: the rules broken.
        anomalies: what is strange about the batch.
    """

    table: pa.Table
    broken: Ints
    rules: tuple[Rule, ...]
    anomalies: tuple[Anomaly, ...]

    @property
    def good(self) -> Mask:
        """Tells which rows break no rule.  # (rows,)"""
        return self.broken < 0


def infer_types(table: pa.Table, options: DatasetOptions) -> dict[str, Type]:
    """Returns the type of each column of a sample; a key's keeps all its digits.

    Raises:
        InvalidInput: a Parquet column is nested or binary.
    """
    _check_kept(table.schema)
    nulls = options.null_values
    types = {name: infer_type(_array(table, name), nulls) for name in table.column_names}
    for name in set(options.key) & set(types) - {options.time}:
        types[name] = key_type(_array(table, name), types[name], nulls)
    return types


def types_of(schema: pa.Schema) -> dict[str, Type]:
    """Returns the type of each column of rows that are typed already; no row is looked at.

    Raises:
        InvalidInput: a column is nested or binary.
    """
    _check_kept(schema)
    return {column.name: type_of(column.type) for column in schema}


def _check_kept(schema: pa.Schema) -> None:
    for column in schema:
        if not supported(column.type):
            raise InvalidInput(
                f"column {column.name!r} is of type {column.type}, which can't be kept",
                remedy="Write it as numbers, booleans, timestamps or strings.",
            )


def validate(table: pa.Table, schema: Schema, options: DatasetOptions) -> Judgement:
    """Judges rows as they came from a file.

    Args:
        table: rows, text or typed, with the file's column names.
        schema: complete: every column has a type.
        options: which texts mean "no value", and which columns name a row.
    """
    docket = _Docket(broken=np.full(table.num_rows, -1, np.int64))
    _compare_columns(table, schema, docket)
    columns: dict[str, pa.Array] = {}
    for column in schema.columns:
        kind = column.type or "string"
        if column.name not in table.column_names:  # held above, unless it may be absent
            columns[column.name] = pa.nulls(table.num_rows, ARROW[kind])
            continue
        array = _array(table, column.name)
        found = cast(array, kind, options.null_values)
        _judge_column(column, found, docket)
        if column.name in options.key:
            _judge_digits(column, inexact(array, found), docket)
        columns[column.name] = found.values
    return Judgement(
        table=pa.table(columns),
        broken=docket.broken,
        rules=tuple(docket.rules),
        anomalies=tuple(docket.anomalies),
    )


def compare(schema: Schema, statistics: TableStatistics) -> list[Anomaly]:
    """Returns what is strange about accepted rows as a whole."""
    found = []
    for column in schema.columns:
        seen = statistics.column(column.name)
        most = column.max_missing_fraction
        if seen is None or most is None or seen.missing_fraction <= most:
            continue
        found.append(
            Anomaly(
                kind="FEATURE_TYPE_LOW_FRACTION_PRESENT",
                column=column.name,
                message=f"{seen.missing_fraction:.1%} of {column.name} is missing; "
                f"at most {most:.1%} was expected",
                rows=seen.missing,
            )
        )
    return found


def merge_anomalies(anomalies: Iterable[Anomaly]) -> list[Anomaly]:
    """Returns each anomaly once, with its rows added up; of many new values the first twenty."""
    merged: dict[tuple[str, str | None, str], Anomaly] = {}
    for one in anomalies:
        key = (one.kind, one.column, one.message)
        rows = one.rows + (merged[key].rows if key in merged else 0)
        merged[key] = msgspec.structs.replace(one, rows=rows)
    shown: list[Anomaly] = []
    rest: dict[str | None, list[Anomaly]] = {}
    for one in merged.values():
        peers = rest.setdefault(one.column, []) if one.kind == NEW_VALUE else []
        peers.append(one)
        if len(peers) <= NEW_VALUES_SHOWN:
            shown.append(one)
    for column, values in rest.items():
        if more := values[NEW_VALUES_SHOWN:]:
            message = f"{column} has {len(more)} more new values"
            rows = sum(one.rows for one in more)
            shown.append(Anomaly(kind=NEW_VALUE, column=column, message=message, rows=rows))
    return shown


@dataclass(slots=True)
class _Docket:
    broken: Ints
    rules: list[Rule] = field(default_factory=list)
    anomalies: list[Anomaly] = field(default_factory=list)

    def hold(self, rows: Mask, rule: Rule) -> None:
        rows = rows & (self.broken < 0)
        if rows.any():
            self.broken[rows] = len(self.rules)
            self.rules.append(rule)

    def note(self, kind: str, column: str, message: str, rows: int, *, error: bool = False) -> None:
        self.anomalies.append(
            Anomaly(
                kind=kind,
                column=column,
                message=message,
                rows=rows,
                severity="error" if error else "warning",
            )
        )


def _array(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def _compare_columns(table: pa.Table, schema: Schema, docket: _Docket) -> None:
    rows = table.num_rows
    for column in schema.columns:
        name = column.name
        if name not in table.column_names and not column.may_be_absent:
            text = f"column {name} is in the schema and not in the file"
            docket.note("SCHEMA_MISSING_COLUMN", name, text, rows, error=True)
            rule = Rule(reason="missing_column", text=text, column=name)
            docket.hold(np.ones(rows, np.bool_), rule)
    for name in table.column_names:
        if schema.column(name) is None:
            text = f"column {name} is not in the schema: its values are left out"
            docket.note("SCHEMA_NEW_COLUMN", name, text, rows)


def _judge_column(column: Column, found: Cast, docket: _Docket) -> None:
    name = column.name
    if column.holds_lists:
        raise InvalidInput(
            f"column {name!r} is to hold lists, which can't be kept",
            remedy="Leave min_values and max_values out; check() judges frames that have lists.",
        )
    wrong = Rule(reason="wrong_type", text=f"{name} is {column.type}", column=name)
    not_finite = Rule(reason="not_finite", text=f"{name} is a finite number", column=name)
    docket.hold(found.wrong, wrong)
    docket.hold(found.not_finite, not_finite)
    if rejected := int(found.wrong.sum() + found.not_finite.sum()):
        message = f"{name} has values that are not {column.type}"
        docket.note("UNEXPECTED_DATA_TYPE", name, message, rejected)
    if column.required:
        docket.hold(found.missing, Rule(reason="missing", text=f"{name} has a value", column=name))
    _judge_range(column, found.values, docket)
    _judge_pattern(column, found.values, docket)
    if column.values is not None:
        _judge_domain(column, found.values, column.values, docket)


def _judge_digits(column: Column, lost: Mask, docket: _Docket) -> None:
    """Holds rows whose keys others might have, once digits are gone."""
    name = column.name
    if lost.any():
        text = f"{name} is of the key and keeps all its digits as {column.type}"
        docket.hold(lost, Rule(reason="inexact", text=text, column=name))
        message = f"{name} has values with more digits than {column.type} keeps"
        docket.note("UNEXPECTED_DATA_TYPE", name, message, int(lost.sum()))


def _judge_range(column: Column, values: pa.Array, docket: _Docket) -> None:
    if column.type == "string" and column.domain is not None:
        values = cast(values, "int64" if column.domain == "int" else "float64", ()).values
    for bound, breaks, sign in ((column.min, pc.less, ">="), (column.max, pc.greater, "<=")):
        if bound is None:
            continue
        limit = pa.scalar(bound, values.type) if isinstance(bound, datetime) else pa.scalar(bound)
        outside = breaks(values, limit).fill_null(False).to_numpy(zero_copy_only=False)
        shown = bound.isoformat() if isinstance(bound, datetime) else bound
        text = f"{column.name} {sign} {shown}"
        docket.hold(outside, Rule(reason="out_of_range", text=text, column=column.name))


def _judge_pattern(column: Column, values: pa.Array, docket: _Docket) -> None:
    if column.pattern is None:
        return
    matches = pc.match_substring_regex(values, rf"\A(?:{column.pattern})\z").fill_null(True)
    text = f"{column.name} is of the pattern {column.pattern}"
    rule = Rule(reason="not_in_domain", text=text, column=column.name)
    docket.hold(~matches.to_numpy(zero_copy_only=False), rule)


def _judge_domain(
    column: Column, values: pa.Array, domain: Sequence[str | int], docket: _Docket
) -> None:
    known = pc.or_(pc.is_in(values, pa.array(domain, values.type)), values.is_null())
    strange = pc.invert(known).to_numpy(zero_copy_only=False)
    if not strange.any():
        return
    if column.domain_strict:
        text = f"{column.name} is one of its {len(domain)} declared values"
        docket.hold(strange, Rule(reason="not_in_domain", text=text, column=column.name))
        return
    for one in pc.value_counts(values.filter(pa.array(strange))).to_pylist():
        message = f"{column.name} has the new value {str(one['values'])[:80]!r}"
        docket.note(NEW_VALUE, column.name, message, one["counts"])
