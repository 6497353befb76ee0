"""Edits of a schema: what would make an anomaly none, and how two schemas differ."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from tidemill.data.schema import Column, DatasetRules, Schema
from tidemill.foundation.errors import InvalidInput


class SchemaEdit(msgspec.Struct, frozen=True, kw_only=True):
    r"""A change of one column's rules, or of those for the number of rows.

    Attributes:
        column: the column; None for the rules in ``[dataset]``.
        set: rules with their new values; None takes a rule away.
        add: a column that the schema gets.

    Example:
        >>> schema = Schema.from_toml('[columns.age]\ntype = "int64"\nmax = 99\n')
        >>> apply_edits(schema, [SchemaEdit(column="age", set={"max": 104})]).columns[0].max
        104
    """

    column: str | None = None
    set: dict[str, Any] = {}
    add: Column | None = None

    def __str__(self) -> str:
        """Says it in words."""
        if self.add is not None:
            return f"add column {self.add.name} ({self.add.type})"
        rules = ", ".join(
            f"{key} = {_shown(value)}" if value is not None else f"no {key}"
            for key, value in self.set.items()
        )
        return f"{self.column or 'dataset'}: {rules}"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One rule that two schemas have differently.

    Attributes:
        column: the column; None for what holds for rows as a whole.
        rule: its name; ``column`` if one schema lacks the column.
        before: its value in the first; None if it says nothing.
        after: its value in the second.
    """

    column: str | None
    rule: str
    before: Any
    after: Any


def apply_edits(schema: Schema, edits: Iterable[SchemaEdit]) -> Schema:
    """Returns the schema after some edits, in their order.

    Raises:
        InvalidInput: an edit names a column that isn't there, or a rule that can't be meant.
    """
    for edit in edits:
        schema = _applied(schema, edit)
    return schema


def _applied(schema: Schema, edit: SchemaEdit) -> Schema:
    columns = list(schema.columns)
    try:
        if edit.add is not None:
            return msgspec.structs.replace(schema, columns=(*columns, edit.add))
        if edit.column is None:
            rules = {**msgspec.to_builtins(schema.dataset or DatasetRules()), **edit.set}
            return msgspec.structs.replace(schema, dataset=msgspec.convert(rules, DatasetRules))
        place = schema.names.index(edit.column)
        changed = {**msgspec.structs.asdict(columns[place]), **edit.set}
        plain = msgspec.to_builtins(changed, builtin_types=(datetime,))
        columns[place] = msgspec.convert(plain, Column)
        return msgspec.structs.replace(schema, columns=tuple(columns))
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            f"the edit {edit} does not fit the schema: {error}", remedy="Look at the schema."
        ) from error


def differences(before: Schema, after: Schema) -> list[Difference]:
    """Returns each rule that two schemas have differently; columns in the order of the first."""
    found = []
    for key in ("default_environment", "dataset", "expectations", "severities"):
        old, new = getattr(before, key), getattr(after, key)
        if old != new:
            found.append(Difference(column=None, rule=key, before=_plain(old), after=_plain(new)))
    names = [*before.names, *(name for name in after.names if before.column(name) is None)]
    for name in names:
        found += _column_differences(name, before.column(name), after.column(name))
    return found


def _column_differences(name: str, old: Column | None, new: Column | None) -> list[Difference]:
    if old is None or new is None:
        kinds = [one.type if one else None for one in (old, new)]
        return [Difference(column=name, rule="column", before=kinds[0], after=kinds[1])]
    return [
        Difference(column=name, rule=key, before=_plain(before), after=_plain(after))
        for key in Column.__struct_fields__
        if (before := getattr(old, key)) != (after := getattr(new, key))
    ]


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value) if value not in ((), {}) else None


def _shown(value: Any) -> str:
    if isinstance(value, msgspec.Struct):
        value = {key: one for key, one in msgspec.to_builtins(value).items() if one is not None}
    text = str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 200 else text[:200] + "…"
