"""What the rows of a dataset look like: inferred once, frozen, edited by people as TOML.

What was inferred warns; what a person declared holds rows:

    type                   always holds: a value that is not of its column's type is quarantined
    required, min, max,    never inferred (except required for key and time): they hold rows
      pattern
    values                 inferred for strings with few distinct values: a new value warns;
                           with ``domain_strict = true`` (never inferred) it holds the row
    max_missing_fraction   inferred with room to breathe: more missing values warn

The rest (environments, comparators, uniqueness, expectations, the number of rows) is judged for
rows as a whole, by ``tidemill validate``.

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
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec

from tidemill.data.anomaly_kinds import check_kinds
from tidemill.data.schema_checks import check_column, check_names
from tidemill.data.summaries import ColumnStatistics, TableStatistics
from tidemill.foundation.errors import Conflict, InvalidInput
from tidemill.foundation.toml import toml_key, toml_value

Type = Literal["int64", "float64", "bool", "timestamp", "string"]
Domain = Literal["bool", "int", "float"]
Bound = int | float | datetime
SchemaSeverity = Literal["info", "warning", "error"]

Count = Annotated[int, msgspec.Meta(ge=0)]
Part = Annotated[float, msgspec.Meta(ge=0, le=1)]
Limit = Annotated[float, msgspec.Meta(ge=0)]

DOMAIN_SIZE = 100
DOMAIN_SHARE = 0.05


class Comparator(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a column's values may be from those of other rows; a limit left out isn't checked.

    Attributes:
        l_infinity: the largest difference of two shares.
        total_variation: the part of the rows that would have to move.
        jensen_shannon: the divergence, to base 2.
        psi: population stability index.
        ks: Kolmogorov and Smirnov; of numbers and times.
        wasserstein: in the unit of the values (seconds for times); of numbers and times.
    """

    l_infinity: Part | None = None
    total_variation: Part | None = None
    jensen_shannon: Part | None = None
    psi: Limit | None = None
    ks: Part | None = None
    wasserstein: Limit | None = None


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One column's rules.

    Attributes:
        name: as in the file's header.
        type: of its values; timestamps are UTC with microseconds. None: to be inferred.
        required: a row without a value is quarantined.
        min: smallest value allowed (numbers and timestamps, and strings that are numbers).
        max: largest value allowed.
        values: the values seen or allowed (strings and int64).
        domain_strict: a value outside ``values`` is quarantined rather than told.
        max_missing_fraction: a batch with a larger part missing is told.
        domain: what the values mean, whatever their type is: ``bool`` (0 and 1, or the two
            strings in ``values``), ``int`` or ``float`` (strings that are numbers).
        pattern: a regular expression (RE2) that a whole string matches.
        min_domain_mass: the part of the values that must be among ``values``.
        min_count: rows with a value that there must be; 0: the column may be absent.
        min_values: fewest values in a row's list; a column with this or the next holds lists.
        max_values: most values in a row's list.
        unique: no value stands in two rows.
        min_unique: fewest distinct values.
        max_unique: most distinct values.
        allow_nan: NaN is no anomaly for ``validate``; the gate always holds it.
        allow_inf: likewise for the infinities.
        in_environment: environments that have it beside the default ones.
        not_in_environment: environments that don't.
        deprecated: it may be absent, and is not validated.
        drift: limits to what the previous snapshot held.
        skew: limits to what was served.
    """

    name: str
    type: Type | None = None
    required: bool = False
    min: Bound | None = None
    max: Bound | None = None
    values: tuple[str | int, ...] | None = None
    domain_strict: bool = False
    max_missing_fraction: float | None = None
    domain: Domain | None = None
    pattern: str | None = None
    min_domain_mass: Part | None = None
    min_count: Count | None = None
    min_values: Count | None = None
    max_values: Count | None = None
    unique: bool = False
    min_unique: Count | None = None
    max_unique: Count | None = None
    allow_nan: bool = False
    allow_inf: bool = False
    in_environment: tuple[str, ...] = ()
    not_in_environment: tuple[str, ...] = ()
    deprecated: bool = False
    drift: Comparator | None = None
    skew: Comparator | None = None

    def __post_init__(self) -> None:
        check_column(self)

    @property
    def may_be_absent(self) -> bool:
        """Tells whether rows without the column are whole."""
        optional = self.max_missing_fraction in (None, 1.0) and not self.required
        return self.deprecated or (self.min_count == 0 and optional)

    @property
    def holds_lists(self) -> bool:
        """Tells whether each row has a list of values."""
        return self.min_values is not None or self.max_values is not None


class DatasetRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many rows there may be.

    Attributes:
        min_rows: fewest rows.
        max_rows: most rows.
        min_fraction_of_previous: fewest rows, as a part of the previous snapshot's.
        max_fraction_of_previous: most rows, likewise; may be over 1.
        batch_min_ratio: fewest rows of an ingest, as a part of the median of the ones before; the
            gate holds a smaller batch whole.
        batch_max_ratio: most rows, likewise; over 1.
        batch_window: how many ingests before it the median is of; 10 where nothing is said.
    """

    min_rows: Count | None = None
    max_rows: Count | None = None
    min_fraction_of_previous: Limit | None = None
    max_fraction_of_previous: Limit | None = None
    batch_min_ratio: Part | None = None
    batch_max_ratio: Annotated[float, msgspec.Meta(ge=1)] | None = None
    batch_window: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Expectation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person expects of rows, in SQL.

    Attributes:
        name: names it in anomalies.
        sql: a condition that each row meets (one that is NULL is met), or a ``SELECT`` over the
            table ``rows`` that finds no row if all is well.
        severity: of the anomaly if it isn't met.
        in_environment: only in these environments, if there are any.
        not_in_environment: not in these.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    sql: Annotated[str, msgspec.Meta(min_length=1, max_length=20_000)]
    severity: SchemaSeverity = "error"
    in_environment: tuple[str, ...] = ()
    not_in_environment: tuple[str, ...] = ()


class Schema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    r"""The columns of a dataset, in order, and what holds for its rows as a whole.

    Attributes:
        columns: in the order of the file.
        default_environment: environments that have every column that says nothing else.
        dataset: how many rows there may be.
        expectations: what a person expects, in SQL.
        severities: by anomaly kind, where it is not the usual one.

    Example:
        >>> schema = Schema.from_toml('[columns.age]\ntype = "int64"\nmin = 0\n')
        >>> schema.column("age").min
        0
        >>> Schema.from_toml(schema.to_toml()) == schema
        True
    """

    columns: tuple[Column, ...]
    default_environment: tuple[str, ...] = ()
    dataset: DatasetRules | None = None
    expectations: tuple[Expectation, ...] = ()
    severities: dict[str, SchemaSeverity] = {}

    def __post_init__(self) -> None:
        check_names("column", (column.name for column in self.columns))
        check_names("expectation", (one.name for one in self.expectations))
        check_kinds(self.severities)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.columns)

    @property
    def environments(self) -> tuple[str, ...]:
        """Every environment that it names, in order."""
        rules: tuple[Column | Expectation, ...] = (*self.columns, *self.expectations)
        named = [name for one in rules for name in (*one.in_environment, *one.not_in_environment)]
        return tuple(sorted({*self.default_environment, *named}))

    @property
    def sha256(self) -> str:
        """The hash of what it says, as 64 hexadecimal digits."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    def column(self, name: str) -> Column | None:
        """Returns a column, or None."""
        return next((column for column in self.columns if column.name == name), None)

    def within(self, environment: str | None) -> Schema:
        """Returns the schema for an environment: columns that it does not have may be absent.

        Raises:
            InvalidInput: the schema names no such environment.
        """
        free = {"required": False, "max_missing_fraction": None, "min_count": 0}
        columns = tuple(
            one if self.in_force(one, environment) else msgspec.structs.replace(one, **free)
            for one in self.columns
        )
        return msgspec.structs.replace(self, columns=columns)

    def in_force(self, rule: Column | Expectation, environment: str | None) -> bool:
        """Tells whether a column or an expectation belongs to an environment, as TFX does.

        Without an environment everything does. Else what names it is in, what excludes it is out,
        and the rest is in if it is a default environment; an expectation that names none is in
        everywhere.

        Raises:
            InvalidInput: the schema names no such environment.
        """
        if environment is None:
            return True
        if environment not in self.environments:
            known = ", ".join(self.environments) or "none"
            raise InvalidInput(
                f"the schema has no environment {environment!r}",
                remedy=f"Environments: {known}; name it in default_environment.",
            )
        if environment in rule.in_environment:
            return True
        if environment in rule.not_in_environment:
            return False
        if isinstance(rule, Expectation):
            return not rule.in_environment
        return environment in self.default_environment

    def to_toml(self) -> str:
        """Returns what ``from_toml`` reads."""
        top = []
        if self.default_environment:
            top.append(f"default_environment = {toml_value(self.default_environment)}\n")
        for key, value in (("dataset", self.dataset), ("severities", self.severities)):
            if value:
                top.append(_table_toml(f"[{key}]", msgspec.to_builtins(value)))
        tables = [_table_toml("[[expectations]]", _told(one)) for one in self.expectations]
        return "\n".join([*top, *(_column_toml(column) for column in self.columns), *tables])

    @staticmethod
    def from_toml(text: str, *, origin: str = "the schema") -> Schema:
        """Returns the schema that a person wrote.

        Raises:
            InvalidInput: it isn't TOML, or a key or a value is unknown; named with its path.
        """
        try:
            raw: dict[str, Any] = tomllib.loads(text)
            unknown = sorted(set(raw) - set(Schema.__struct_fields__))
            if unknown or not isinstance(raw.get("columns"), dict):
                raise InvalidInput(
                    f"{origin} has {', '.join(unknown) or 'no columns'}",
                    remedy="It consists of tables [columns.NAME], and of "
                    "default_environment, [dataset], [severities] and [[expectations]].",
                )
            columns = [{"name": name, **rules} for name, rules in raw["columns"].items()]
            return msgspec.convert({**raw, "columns": columns}, Schema)
        except (ValueError, TypeError, RecursionError) as error:  # msgspec's and TOML's are too
            raise InvalidInput(
                f"{origin} cannot be read: {error}", remedy="Correct it and try again."
            ) from error


def amend(
    frozen: Schema, edited: Schema, *, always: Iterable[str] = (), whole: bool = False
) -> Schema:
    """Returns the edited rules over a frozen schema.

    Columns that the edit leaves out keep their rules; those it names take the edit's. Those in
    ``always`` stay required.

    Args:
        frozen: the schema in force.
        edited: some of its columns, and what holds for rows as a whole.
        always: names of columns that are required in any case.
        whole: what the edit doesn't say about rows as a whole is no longer said.

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
        edited if whole else _said(frozen, edited),
        ((edits.get(old.name, old), old.type, old.name in always) for old in frozen.columns),
    )


def _said(frozen: Schema, edited: Schema) -> Schema:
    """Returns what the edit says about rows as a whole, and else what was said before."""
    return msgspec.structs.replace(
        frozen,
        default_environment=edited.default_environment or frozen.default_environment,
        dataset=edited.dataset or frozen.dataset,
        expectations=edited.expectations or frozen.expectations,
        severities=edited.severities or frozen.severities,
    )


def _built(schema: Schema, rules: Iterable[tuple[Column, Type | None, bool]]) -> Schema:
    try:
        return msgspec.structs.replace(
            schema,
            columns=tuple(
                msgspec.structs.replace(column, type=kind, required=column.required or required)
                for column, kind, required in rules
            ),
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
        declared or Schema(columns=()),
        ((column, column.type or types.get(column.name, "string"), False) for column in columns),
    )


def infer(schema: Schema, statistics: TableStatistics, *, ranges: bool = False) -> Schema:
    """Returns the schema with what a first snapshot teaches about it; what is declared stays.

    In TFX's order: presence, then the first domain that fits: 0 and 1, or two words for them, are
    ``bool``; strings that are all integers are ``int``; else strings with at most 100 distinct
    values, fewer than one in 20 rows, get these as their domain. Every optional column gets twice
    its missing fraction, and 5 % more, as the most to expect. A column that had a value must have
    one again.

    Args:
        schema: complete.
        statistics: of the snapshot's rows.
        ranges: numbers and timestamps get the range that they were in.
    """
    columns = []
    for column in schema.columns:
        seen = statistics.column(column.name)
        columns.append(_learned(column, seen, ranges=ranges) if seen else column)
    return msgspec.structs.replace(schema, columns=tuple(columns))


BOOL_WORDS = (
    {"true", "false"},
    {"yes", "no"},
    {"t", "f"},
    {"y", "n"},
    {"set", "clear"},
    {"1", "0"},
)
"""Two strings that are these words, in any case, are truth values."""


def _learned(column: Column, seen: ColumnStatistics, *, ranges: bool) -> Column:
    present = seen.count - seen.missing
    most = column.max_missing_fraction
    if most is None and not column.required and seen.count:
        most = round(min(1.0, 2 * seen.missing_fraction + 0.05), 4)
    count = column.min_count if column.min_count is not None else min(present, 1)
    learned = msgspec.structs.replace(column, max_missing_fraction=most, min_count=count)
    if present and column.domain is None and column.values is None and column.pattern is None:
        learned = msgspec.structs.replace(learned, **_domain(column, seen))
    if ranges and present and learned.domain is None:
        learned = msgspec.structs.replace(learned, **_range(column, seen))
    return learned


def _domain(column: Column, seen: ColumnStatistics) -> dict[str, Any]:
    if column.type == "int64" and column.min is None and column.max is None:
        zero_or_one = seen.max == 1 and seen.min is not None and seen.min >= 0
        return {"domain": "bool"} if zero_or_one else {}
    if column.type != "string" or not seen.domain:
        return {}
    words = {word.lower() for word in seen.domain}
    if len(seen.domain) == 2 and words in BOOL_WORDS:
        return {"domain": "bool", "values": tuple(sorted(seen.domain))}
    if all(_is_int(word) for word in seen.domain):
        return {"domain": "int"}
    present = seen.count - seen.missing
    few = len(seen.domain) <= DOMAIN_SIZE and len(seen.domain) < DOMAIN_SHARE * present
    return {"values": tuple(sorted(seen.domain))} if few else {}


def _is_int(word: str) -> bool:
    digits = word[1:] if word[:1] in ("+", "-") else word
    return digits.isascii() and digits.isdigit() and len(digits) <= 18


def _range(column: Column, seen: ColumnStatistics) -> dict[str, Any]:
    if column.type not in ("int64", "float64", "timestamp") or seen.min is None:
        return {}
    low, high = seen.min, seen.max
    if column.type == "timestamp":
        low, high = _time(low, -1), _time(high, 1)
    return {
        "min": low if column.min is None else column.min,
        "max": high if column.max is None else column.max,
    }


def _time(seconds: float, outward: int) -> datetime | None:
    """Returns a time that was counted in seconds; far from now, floats lose the microseconds."""
    if abs(seconds) > 1 << 32:
        seconds = math.floor(seconds) + 2 * outward
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except OverflowError:
        return None


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
    return _built(
        schema, ((column, column.type, column.name in wanted) for column in schema.columns)
    )


def _told(rule: msgspec.Struct) -> dict[str, Any]:
    """Returns what a rule says that isn't its default."""
    said = {}
    for field in msgspec.structs.fields(rule):
        value = getattr(rule, field.name)
        if value is not None and (field.required or value != field.default):
            said[field.name] = value
    return said


def _column_toml(column: Column) -> str:
    said = _told(column)
    del said["name"]
    return _table_toml(f"[columns.{toml_key(column.name)}]", said)


def _table_toml(head: str, values: dict[str, Any]) -> str:
    lines = [head]
    for key, value in values.items():
        plain = _told(value) if isinstance(value, msgspec.Struct) else value
        if plain is not None:
            lines.append(f"{toml_key(key)} = {toml_value(plain)}")
    return "\n".join(lines) + "\n"
