"""Does a set of rows conform to a schema: every anomaly, by TFX's name, with its rows and its mend.

Validation is a schema update that isn't carried out: each check asks for the smallest edit that
would make the rows legal, and the anomaly tells it. A check that could not run is an anomaly of
its own, and an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from tidemill.data.anomaly_kinds import usual_severity
from tidemill.data.casting import supported, type_of
from tidemill.data.column_checks import (
    NO_RULES,
    Check,
    Measured,
    Sql,
    any_value,
    as_edit,
    checks_of,
)
from tidemill.data.comparators import Against, Measurement, compare_rows
from tidemill.data.evidence import Evidence, of_rows, of_statistics
from tidemill.data.queries import Queries, is_select, literal, quoted
from tidemill.data.records import Anomaly, Severity
from tidemill.data.schema import Column, DatasetRules, Expectation, Schema
from tidemill.data.schema_edits import SchemaEdit
from tidemill.data.summaries import TableStatistics
from tidemill.foundation.errors import InvalidInput

MOST_VALUES = 1_000
"""A domain with more values than this is none: the mend is to take it away."""

SHOWN = 5
OF_TYPE = ("UNEXPECTED_DATA_TYPE", "ENUM_TYPE_INVALID_UTF8")


class ValidationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a validation.

    Attributes:
        rows: how many there were.
        environment: the one they were judged for; None for every rule.
        anomalies: those of rows as a whole first, then by the schema's columns.
        measurements: every distance to other rows that the schema limits.
    """

    rows: int
    environment: str | None
    anomalies: tuple[Anomaly, ...]
    measurements: tuple[Measurement, ...] = ()

    @property
    def ok(self) -> bool:
        """Says that nothing is an error."""
        return all(one.severity != "error" for one in self.anomalies)

    def kinds(self) -> list[tuple[str | None, str]]:
        """Returns column and kind of each anomaly."""
        return [(one.column, one.kind) for one in self.anomalies]


def check(
    data: Any,
    schema: Schema,
    *,
    environment: str | None = None,
    statistics: TableStatistics | None = None,
    previous: Any = None,
    serving: Any = None,
) -> ValidationReport:
    r"""Returns every anomaly of rows under a schema.

    Rules that statistics, or else the extremes of columns, show to be kept are not asked of the
    rows one by one; the report is the same.

    Args:
        data: an Arrow table, a Polars or pandas frame, or paths of Parquet files.
        schema: complete: every column has a type.
        environment: where the rows are from, such as ``serving``; None for every rule.
        statistics: of these very rows, as ``describe`` gives them, if they are known already.
        previous: the rows before these, for the limits in ``drift`` and to the number of rows;
            None: they are not checked.
        serving: the rows that were served, for the limits in ``skew``; likewise.

    Raises:
        InvalidInput: the data can't be read, a column has no type, the schema names no such
            environment, or the statistics are of other rows.

    Example:
        >>> schema = Schema.from_toml('[columns.age]\ntype = "int64"\nmax = 99\n')
        >>> report = check(pa.table({"age": [4, 140]}), schema)
        >>> [(one.kind, one.rows, str(one.fix)) for one in report.anomalies]
        [('INT_TYPE_BIG_INT', 1, 'age: max = 140')]
    """
    for column in schema.columns:
        if column.type is None:
            raise InvalidInput(
                f"column {column.name!r} has no type", remedy="Give it one, or infer the schema."
            )
        schema.in_force(column, environment)
    with Queries(data) as queries:
        rows = int(queries.select("SELECT count(*) AS n FROM rows")["n"][0].as_py())
        if statistics is not None and statistics.rows != rows:
            raise InvalidInput(
                f"the statistics are of {statistics.rows} rows, and there are {rows}",
                remedy="Give those of the very rows, or none.",
            )
        judge = _Judge(queries, schema, environment, rows, statistics)
        found: list[Anomaly | Measurement] = list(judge.anomalies())
        if previous is not None:
            found += judge.compared(previous, "previous")
        if serving is not None:
            found += judge.compared(serving, "serving")
    anomalies = [one for one in found if isinstance(one, Anomaly)]
    return ValidationReport(
        rows=rows,
        environment=environment,
        anomalies=tuple(_numbered(schema, anomalies)),
        measurements=tuple(one for one in found if isinstance(one, Measurement)),
    )


def _numbered(schema: Schema, found: Iterable[Anomaly]) -> Iterator[Anomaly]:
    """Gives each anomaly its id, and the severity that the schema wants."""
    for one in found:
        named = f"{one.column}\0{one.kind}\0{one.message if one.fix is None else one.fix}"
        yield msgspec.structs.replace(
            one,
            id=hashlib.sha256(named.encode("utf-8", "replace")).hexdigest()[:8],
            severity=schema.severities.get(one.kind, one.severity),
        )


class _Judge:
    """Judges the rows of one open table."""

    def __init__(
        self,
        queries: Queries,
        schema: Schema,
        environment: str | None,
        rows: int,
        statistics: TableStatistics | None,
    ) -> None:
        self._queries = queries
        self._statistics = statistics
        self._schema = schema
        self._environment = environment
        self._rows = rows

    def anomalies(self) -> Iterator[Anomaly]:
        """Yields every anomaly."""
        yield from _row_count(self._schema.dataset or DatasetRules(), self._rows)
        if not self._rows:
            yield _anomaly("NO_DATA_IN_SPAN", None, "there are no rows")
            return
        known = set(self._schema.names)
        here = []
        for column in self._in_force():
            problem = self._absent_or_nested(column)
            if problem is None:
                here.append(column)
            else:
                yield problem
        yield from self._judged([column for column in here if column.name in self._names])
        for name in self._names:
            if name not in known:
                yield self._new_column(name)
        for expectation in self._schema.expectations:
            if self._schema.in_force(expectation, self._environment):
                yield from self._expected(expectation)

    def compared(self, other: Any, against: Against) -> list[Anomaly | Measurement]:
        """Returns what the comparators of the schema say of the rows and others."""
        with Queries(other) as queries:
            found: list[Anomaly | Measurement] = []
            rules = self._schema.dataset or DatasetRules()
            if against == "previous":
                before = queries.select("SELECT count(*) AS n FROM rows")["n"][0].as_py()
                found += _row_count_to(rules, self._rows, int(before))
            columns = [column for column in self._in_force() if self._rows]
            return [*found, *compare_rows(self._queries, queries, columns, against)]

    def _in_force(self) -> list[Column]:
        return [
            column
            for column in self._schema.columns
            if not column.deprecated and self._schema.in_force(column, self._environment)
        ]

    @property
    def _names(self) -> list[str]:
        return list(self._queries.schema.names)

    def _absent_or_nested(self, column: Column) -> Anomaly | None:
        name = column.name
        if name not in self._names:
            if column.may_be_absent:
                return None
            text = f"column {name} is in the schema and not in the rows"
            return _anomaly(
                "SCHEMA_MISSING_COLUMN",
                name,
                text,
                rows=self._rows,
                fix=as_edit(column, {"deprecated": True}),
            )
        depth, _ = _nested(self._queries.schema.field(name).type)
        wanted = int(column.holds_lists)
        if depth == wanted or pa.types.is_null(self._queries.schema.field(name).type):
            return None
        text = f"{name} is nested {depth} deep; the schema has {wanted}"
        fix = None if depth > 1 else as_edit(column, self._valency(column, depth))
        return _anomaly("VALUE_NESTEDNESS_MISMATCH", name, text, rows=self._rows, fix=fix)

    def _valency(self, column: Column, depth: int) -> dict[str, Any]:
        """Returns the rules of a column of that shape: what else was said is no longer so."""
        rules: dict[str, Any] = {**NO_RULES, "unique": False, "min_unique": None}
        rules |= {"max_unique": None, "min_values": None, "max_values": None}
        rules |= {"required": False, "max_missing_fraction": None, "min_count": 0}
        _, inner = _nested(self._queries.schema.field(column.name).type)
        rules["type"] = type_of(inner) if supported(inner) else column.type
        if rules["type"] == "float64":
            rules |= {"allow_nan": True, "allow_inf": True}
        if depth:
            length = f"len({quoted(column.name)})"
            seen = self._measure({"low": f"min({length})", "high": f"max({length})"})
            rules |= {"min_values": seen["low"] or 0, "max_values": seen["high"] or 0}
        return rules

    def _new_column(self, name: str) -> Anomaly:
        kind = self._queries.schema.field(name).type
        fix = None
        depth, inner = _nested(kind)
        if supported(inner) and depth <= 1:
            add = Column(name=name, type=type_of(inner), min_count=0)
            rules = self._valency(add, depth)
            fix = SchemaEdit(column=name, add=msgspec.structs.replace(add, **rules))
        text = f"column {name} is in the rows and not in the schema"
        return _anomaly("SCHEMA_NEW_COLUMN", name, text, rows=self._rows, fix=fix)

    # --- columns that are there --------------------------------------------------------------

    def _judged(self, columns: Sequence[Column]) -> Iterator[Anomaly]:
        """Yields the anomalies of columns: one pass counts what may break each of their rules."""
        kinds = [_nested(self._queries.schema.field(column.name).type)[1] for column in columns]
        checks = [list(checks_of(*one)) for one in zip(columns, kinds, strict=True)]
        shown = self._shown(columns, kinds, checks)
        known: dict[str, Any] = {}
        wanted: dict[str, str] = {}
        for place, column in enumerate(columns):
            evidence = shown[place]
            known[f"{place}.present"] = evidence.present
            for one in checks[place]:
                counts = evidence.counts(column, one)
                if counts is None:
                    wanted |= {f"{place}.{key}": sql for key, sql in one.measures.items()}
                    if one.breaks is not None:
                        wanted[f"{place}.{one.kind}"] = _count_where(one.breaks)
                else:
                    known |= {f"{place}.{key}": value for key, value in counts.items()}
            if _has_domain(column, kinds[place], checks[place]) and not evidence.within(
                column.values or ()
            ):
                wanted[f"{place}.unknown"] = _count_where(any_value(column, _outside(column)))
        seen = known | self._measure(wanted)
        for place, column in enumerate(columns):
            measured = _of(place, seen, self._rows)
            for one in checks[place]:
                yield from self._told(column, one, measured)
            if measured.get("unknown") and not any(measured.get(kind) for kind in OF_TYPE):
                yield from self._unknown_values(column, measured["unknown"])

    def _shown(
        self,
        columns: Sequence[Column],
        kinds: Sequence[pa.DataType],
        checks: Sequence[Sequence[Check]],
    ) -> list[Evidence]:
        """Returns what is known of each column without asking every rule of every row."""
        seen = [
            self._statistics.column(column.name) if self._statistics is not None else None
            for column in columns
        ]
        asked = [
            one
            for one, known in zip(zip(columns, kinds, checks, strict=True), seen, strict=True)
            if known is None
        ]
        cheap = iter(of_rows(self._queries, asked))
        return [
            next(cheap) if known is None else of_statistics(column, known)
            for column, known in zip(columns, seen, strict=True)
        ]

    def _told(self, column: Column, one: Check, measured: Measured) -> Iterator[Anomaly]:
        rows = measured.get(one.kind, 0)
        broken = one.fails(measured) if one.fails is not None else rows > 0
        if not broken:
            return
        fix = as_edit(column, one.mends(measured)) if one.mends is not None else None
        found = _anomaly(
            one.kind,
            column.name,
            one.says(measured),
            rows=rows if one.breaks is not None else self._rows,
            query=f"SELECT * FROM rows WHERE {one.breaks}" if one.breaks is not None else None,
            fix=fix,
        )
        yield msgspec.structs.replace(found, severity="error") if one.error else found

    def _unknown_values(self, column: Column, rows: int) -> Iterator[Anomaly]:
        """Yields the anomaly of values that aren't in a column's domain."""
        name, outside = quoted(column.name), _outside(column)
        inner = f"unnest({name})" if column.holds_lists else name
        source = f"SELECT {inner} AS x FROM rows"
        total = self._queries.select(
            f"SELECT count(x) AS n, {_count_where(outside('x'))} AS off FROM ({source})"
        ).to_pylist()[0]
        mass = 1.0 if column.min_domain_mass is None else column.min_domain_mass
        if mass < 1 and total["off"] / total["n"] <= 1 - mass:
            return
        counted = self._queries.select(
            f"SELECT x, count(*) AS n FROM ({source}) WHERE {outside('x')} "
            f"GROUP BY x ORDER BY n DESC, x LIMIT {MOST_VALUES + 1}"
        ).to_pylist()
        yield self._off_domain(column, counted, rows, total, any_value(column, outside))

    def _off_domain(
        self,
        column: Column,
        counted: list[dict[str, Any]],
        rows: int,
        total: dict[str, int],
        breaks: str,
    ) -> Anomaly:
        known = column.values or ()
        new = tuple(one["x"] for one in counted)
        truth = column.domain == "bool"
        rules: dict[str, Any] = {"values": (*known, *new)}
        if truth or len(known) + len(new) > MOST_VALUES:
            rules = {"values": None, "domain_strict": False, "min_domain_mass": None}
            rules |= {"domain": None} if truth else {}
        shown = ", ".join(
            f"{str(one['x'])[:40]!r} ({one['n'] / total['n']:.1%})" for one in counted[:SHOWN]
        )
        more = f" and {len(counted) - SHOWN} more" if len(counted) > SHOWN else ""
        found = _anomaly(
            "BOOL_TYPE_UNEXPECTED_STRING" if truth else "ENUM_TYPE_UNEXPECTED_STRING_VALUES",
            column.name,
            f"{column.name} has values that the schema lacks: {shown}{more}",
            rows=rows,
            query=f"SELECT * FROM rows WHERE {breaks}",
            fix=as_edit(column, rules),
        )
        strict = column.domain_strict
        return msgspec.structs.replace(found, severity="error") if strict else found

    # --- expectations ------------------------------------------------------------------------

    def _expected(self, expectation: Expectation) -> Iterator[Anomaly]:
        sql = expectation.sql.strip().rstrip(";")
        query = sql if is_select(sql) else f"SELECT * FROM rows WHERE NOT (\n{sql}\n)"
        try:
            rows = self._queries.select(f"SELECT count(*) AS n FROM (\n{query}\n)")["n"][0].as_py()
        except InvalidInput as error:
            text = f"expectation {expectation.name!r} could not be checked: {error.what}"
            yield _anomaly("STATS_NOT_AVAILABLE", None, text, query=query)
            return
        if rows:
            found = _anomaly(
                "CUSTOM_VALIDATION",
                None,
                f"expectation {expectation.name!r} is not met: {rows} rows",
                rows=rows,
                query=query,
            )
            yield msgspec.structs.replace(found, severity=expectation.severity)

    def _measure(self, wanted: dict[str, str]) -> dict[str, Any]:
        """Returns aggregates of the rows, by name."""
        found: dict[str, Any] = {}
        names = list(wanted)
        for begin in range(0, len(names), 500):
            part = names[begin : begin + 500]
            listed = ", ".join(f"{wanted[name]} AS a{place}" for place, name in enumerate(part))
            row = self._queries.select(f"SELECT {listed} FROM rows").to_pylist()[0]
            found |= {name: row[f"a{place}"] for place, name in enumerate(part)}
        return found


def _has_domain(column: Column, kind: pa.DataType, checks: Sequence[Check]) -> bool:
    """Tells whether values that are not in a column's domain can be told."""
    other_type = any(one.kind in OF_TYPE and one.breaks is None for one in checks)
    return column.values is not None and not other_type and not pa.types.is_null(kind)


def _outside(column: Column) -> Sql:
    """Returns what tells a value that isn't in a column's domain."""
    listed = ", ".join(literal(value) for value in column.values or ())
    return lambda x: f"{x} IS NOT NULL" + (f" AND {x} NOT IN ({listed})" if listed else "")


def _count_where(condition: str) -> str:
    return f"count(*) FILTER (WHERE {condition})"


def _row_count(rules: DatasetRules, rows: int) -> Iterator[Anomaly]:
    if rules.min_rows is not None and rows < rules.min_rows:
        text = f"there are {rows} rows; at least {rules.min_rows} are asked for"
        fix = SchemaEdit(set={"min_rows": rows})
        yield _anomaly("DATASET_LOW_NUM_EXAMPLES", None, text, rows=rows, fix=fix)
    if rules.max_rows is not None and rows > rules.max_rows:
        text = f"there are {rows} rows; at most {rules.max_rows} may be"
        fix = SchemaEdit(set={"max_rows": rows})
        yield _anomaly("DATASET_HIGH_NUM_EXAMPLES", None, text, rows=rows, fix=fix)


def _row_count_to(rules: DatasetRules, rows: int, before: int) -> Iterator[Anomaly]:
    least, most = rules.min_fraction_of_previous, rules.max_fraction_of_previous
    if least is None and most is None:
        return
    if not before:
        text = "the previous rows are none: their number can't be compared"
        yield _anomaly("COMPARATOR_CONTROL_DATA_MISSING", None, text)
        return
    part = rows / before
    if least is not None and part < least:
        text = f"there are {rows} rows, {part:.3g} of the {before} before; at least {least:g}"
        fix = SchemaEdit(set={"min_fraction_of_previous": part})
        yield _anomaly("COMPARATOR_LOW_NUM_EXAMPLES", None, text, rows=rows, fix=fix)
    if most is not None and part > most:
        text = f"there are {rows} rows, {part:.3g} of the {before} before; at most {most:g}"
        fix = SchemaEdit(set={"max_fraction_of_previous": part})
        yield _anomaly("COMPARATOR_HIGH_NUM_EXAMPLES", None, text, rows=rows, fix=fix)


def _anomaly(
    kind: str,
    column: str | None,
    message: str,
    *,
    rows: int = 0,
    query: str | None = None,
    fix: SchemaEdit | None = None,
) -> Anomaly:
    severity: Severity = usual_severity(kind)
    return Anomaly(
        kind=kind,
        column=column,
        severity=severity,
        message=message,
        rows=rows,
        query=query,
        fix=fix,
    )


def _of(place: int, seen: Measured, rows: int) -> dict[str, Any]:
    prefix = f"{place}."
    mine = {key[len(prefix) :]: value for key, value in seen.items() if key.startswith(prefix)}
    return {**mine, "rows": rows}


def _nested(kind: pa.DataType) -> tuple[int, pa.DataType]:
    """Returns how deep lists are nested, and what is in them."""
    depth = 0
    while (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        depth, kind = depth + 1, kind.value_type
    return depth, kind
