"""Reads TFX's schemas (``schema.pbtxt``): what has a counterpart here; the rest is refused by name.

Where TFX says nothing, what it means by that is said: a feature without presence may be absent,
and a number without ``disallow_nan`` may be NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec

from tidemill.data.schema import Column, Comparator, DatasetRules, Schema
from tidemill.data.text_proto import Message, Word, parse_text
from tidemill.foundation.errors import InvalidInput

TYPES = {"INT": "int64", "FLOAT": "float64", "BYTES": "string"}
NOT_VALIDATED = {"PLANNED", "ALPHA", "DEBUG_ONLY", "DISABLED", "DEPRECATED"}
STAGES = {*NOT_VALIDATED, "UNKNOWN_STAGE", "BETA", "PRODUCTION"}

NO_RULES = {
    "annotation",
    "represent_variable_length_as_ragged",
    "tensor_representation_group",
    "sequence_metadata",
    "url_domain",
    "mid_domain",
    "time_domain",
    "time_of_day_domain",
    "audio_domain",
    "video_domain",
    "content_chunk_domain",
}
"""Fields that say nothing about whether rows are good: they are left out."""

DOMAINS = {"string_domain", "int_domain", "float_domain"}


def schema_from_pbtxt(text: str, *, origin: str = "the schema") -> Schema:
    """Returns what a TFX schema says.

    Args:
        text: a ``tensorflow.metadata.v0.Schema`` in protobuf's text format.
        origin: what errors call it.

    Raises:
        TooLarge: it is over 16 MiB.
        InvalidInput: it is no such text, contradicts itself, or has a rule that has no counterpart.

    Example:
        >>> schema = schema_from_pbtxt('feature { name: "age" type: INT int_domain { max: 99 } }')
        >>> schema.columns[0].type, schema.columns[0].max
        ('int64', 99)
    """
    top = _Fields(parse_text(text, origin=origin), origin)
    domains = {
        _Fields(each, f"{origin}: {kind}").text("name", ""): (kind, each)
        for kind in sorted(DOMAINS)
        for each in top.messages(kind)
    }
    constraints = top.message("dataset_constraints")
    try:
        schema = Schema(
            columns=tuple(_column(each, domains, origin) for each in top.messages("feature")),
            default_environment=top.texts("default_environment"),
            dataset=None if constraints is None else _dataset(constraints),
        )
        top.done()
        return msgspec.convert(msgspec.to_builtins(schema), Schema)
    except ValueError as error:
        raise InvalidInput(f"{origin} cannot be read: {error}", remedy="Correct it.") from error


def _column(feature: Message, domains: dict[str, tuple[str, Message]], origin: str) -> Column:
    name = _Fields(feature, f"{origin}: a feature").text("name", "")
    fields = _Fields(feature, f"{origin}: feature {name!r}")
    if not name:
        fields.fail("it has no name")
    fields.take("name")
    kind = fields.word("type", {*TYPES, "STRUCT", "TYPE_UNKNOWN"}, "TYPE_UNKNOWN")
    if kind == "STRUCT":
        fields.fail("STRUCT has no counterpart: a column holds values or lists of them")
    stage = fields.word("lifecycle_stage", STAGES, "UNKNOWN_STAGE")
    rules: dict[str, Any] = {
        "name": name,
        "type": TYPES.get(kind),
        "deprecated": fields.flag("deprecated") or stage in NOT_VALIDATED,
        **_presence(fields.message("presence")),
        **_shape(fields),
        **_domain(fields, kind, domains),
        "in_environment": fields.texts("in_environment"),
        "not_in_environment": fields.texts("not_in_environment"),
        "skew": _comparator(fields.message("skew_comparator")),
        "drift": _comparator(fields.message("drift_comparator")),
    }
    constraints = fields.message("distribution_constraints")
    if constraints is not None:
        mass = constraints.number("min_domain_mass")
        rules["min_domain_mass"] = None if rules.get("values") is None else mass
        constraints.done()
    unique = fields.message("unique_constraints")
    if unique is not None:
        rules |= {"min_unique": unique.whole("min"), "max_unique": unique.whole("max")}
        unique.done()
    fields.done()
    return Column(**rules)


def _presence(fields: _Fields | None) -> dict[str, Any]:
    if fields is None:
        return {"min_count": 0}
    fraction = fields.number("min_fraction")
    if fraction is not None and not 0 <= fraction <= 1:
        fields.fail("min_fraction is no part of 1")
    missing = None if fraction is None else round(1 - fraction, 12)
    rules = {"min_count": fields.whole("min_count") or 0, "max_missing_fraction": missing}
    fields.done()
    return rules


def _shape(fields: _Fields) -> dict[str, Any]:
    shape = fields.message("shape")
    if shape is not None:
        sizes = []
        for dim in shape.messages("dim"):
            inner = _Fields(dim, f"{shape.origin}: dim")
            sizes.append(inner.whole("size"))
            inner.take("name")
            inner.done()
        shape.done()
        if len(sizes) > 1:
            shape.fail("more than one dimension has no counterpart")
        return _valency(sizes[0], sizes[0]) if sizes else {}
    counts = fields.message("value_counts")
    if counts is not None:
        listed = counts.messages("value_count")
        counts.done()
        if len(listed) > 1:
            counts.fail("lists in lists have no counterpart")
        count = _Fields(listed[0], counts.origin) if listed else None
    else:
        count = fields.message("value_count")
    if count is None:
        return {}
    rules = _valency(count.whole("min"), count.whole("max"))
    count.done()
    return rules


def _valency(least: int | None, most: int | None) -> dict[str, Any]:
    """Returns the rules for lists; one value in each row is no list here."""
    return {} if (least, most) == (1, 1) else {"min_values": least, "max_values": most}


def _domain(fields: _Fields, kind: str, domains: dict[str, tuple[str, Message]]) -> dict[str, Any]:
    named = fields.text("domain", "")
    if named:
        if named not in domains:
            fields.fail(f"domain {named!r} is nowhere")
        what, message = domains[named]
        domain: _Fields | None = _Fields(message, f"{fields.origin}: {what}")
    else:
        what, domain = next(
            (
                (each, inner)
                for each in (*sorted(DOMAINS), "bool_domain")
                if (inner := fields.message(each)) is not None
            ),
            ("", None),
        )
    anything = {"allow_nan": True, "allow_inf": True} if kind == "FLOAT" else {}
    if domain is None:
        return anything
    domain.take("name")
    rules = {**anything, **_READERS[what](domain, kind)}
    domain.done()
    return rules


def _strings(fields: _Fields, kind: str) -> dict[str, Any]:
    del kind
    fields.take("is_categorical")
    return {"values": fields.texts("value")}


def _ints(fields: _Fields, kind: str) -> dict[str, Any]:
    fields.take("is_categorical")
    rules: dict[str, Any] = {"min": fields.whole("min"), "max": fields.whole("max")}
    return rules | ({"domain": "int"} if kind == "BYTES" else {})


def _floats(fields: _Fields, kind: str) -> dict[str, Any]:
    for word in ("is_categorical", "is_embedding", "embedding_dim", "embedding_type"):
        fields.take(word)
    rules: dict[str, Any] = {rule: _bound(fields, rule) for rule in ("min", "max")}
    nan, inf = fields.flag("disallow_nan"), fields.flag("disallow_inf")
    if kind == "FLOAT":
        rules |= {"allow_nan": not nan, "allow_inf": not inf}
    return rules | ({"domain": "float"} if kind == "BYTES" else {})


def _bound(fields: _Fields, rule: str) -> float | None:
    bound = fields.number(rule)
    if bound is None or bound == (-math.inf if rule == "min" else math.inf):
        return None
    return bound


def _bools(fields: _Fields, kind: str) -> dict[str, Any]:
    values = tuple(value for rule in ("true_value", "false_value") for value in fields.texts(rule))
    if (kind == "BYTES") != bool(values):
        fields.fail("true_value and false_value are for BYTES, and BYTES need them")
    return {"domain": "bool", "values": values or None}


_READERS = {
    "string_domain": _strings,
    "int_domain": _ints,
    "float_domain": _floats,
    "bool_domain": _bools,
}


def _comparator(fields: _Fields | None) -> Comparator | None:
    if fields is None:
        return None
    limits = {}
    for theirs, ours in (
        ("infinity_norm", "l_infinity"),
        ("jensen_shannon_divergence", "jensen_shannon"),
    ):
        inner = fields.message(theirs)
        if inner is not None:
            limits[ours] = inner.number("threshold")
            inner.take("source")
            inner.done()
    fields.done()
    return msgspec.convert(limits, Comparator)


def _dataset(fields: _Fields) -> DatasetRules:
    rules: dict[str, Any] = {
        "min_rows": fields.whole("min_examples_count"),
        "max_rows": fields.whole("max_examples_count"),
    }
    drift = fields.message("num_examples_drift_comparator")
    if drift is not None:
        rules["min_fraction_of_previous"] = drift.number("min_fraction_threshold")
        rules["max_fraction_of_previous"] = drift.number("max_fraction_threshold")
        drift.done()
    fields.done()
    return msgspec.convert(rules, DatasetRules)


class _Fields:
    """The fields of a message that were not read yet."""

    def __init__(self, message: Message, origin: str) -> None:
        self.origin = origin
        self._fields = list(message.fields)

    def take(self, name: str) -> list[Message | bytes | Word | int | float]:
        """Returns every value of a field; they are read then."""
        found = [value for key, value in self._fields if key == name]
        self._fields = [(key, value) for key, value in self._fields if key != name]
        return found

    def _one(self, name: str, kinds: type | tuple[type, ...]) -> Any:
        found = self.take(name)
        if len(found) > 1:
            self.fail(f"{name} is there twice")
        if found and not isinstance(found[0], kinds):
            self.fail(f"{name} has a value of another kind")
        return found[0] if found else None

    def messages(self, name: str) -> list[Message]:
        found = self.take(name)
        if not all(isinstance(each, Message) for each in found):
            self.fail(f"{name} is to be a message")
        return [each for each in found if isinstance(each, Message)]

    def message(self, name: str) -> _Fields | None:
        found = self._one(name, Message)
        return None if found is None else _Fields(found, f"{self.origin}: {name}")

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(self._decoded(name, each) for each in self.take(name))

    def text(self, name: str, default: str) -> str:
        found = self._one(name, bytes)
        return default if found is None else self._decoded(name, found)

    def _decoded(self, name: str, value: object) -> str:
        if not isinstance(value, bytes):
            self.fail(f"{name} is to be a text")
        try:
            return value.decode()
        except UnicodeDecodeError:
            self.fail(f"{name} is no UTF-8")

    def word(self, name: str, known: Iterable[str], default: str) -> str:
        found = self._one(name, Word)
        if found is not None and found not in known:
            self.fail(f"{name} {str(found)[:40]!r} has no counterpart")
        return default if found is None else str(found)

    def flag(self, name: str) -> bool:
        found = self._one(name, (Word, int))
        if found not in (None, "true", "false", "True", "False", "t", "f", 0, 1):
            self.fail(f"{name} is neither true nor false")
        return found in ("true", "True", "t", 1)

    def whole(self, name: str) -> int | None:
        found = self._one(name, int)
        if found is not None and not -(1 << 63) <= found < 1 << 63:
            self.fail(f"{name} has more than 64 bits")
        return None if found is None else int(found)

    def number(self, name: str) -> float | None:
        found = self._one(name, (int, float, Word))
        if found is None:
            return None
        if isinstance(found, Word) and found.lower() not in (
            "inf",
            "-inf",
            "infinity",
            "-infinity",
        ):
            self.fail(f"{name} is no number")
        try:
            return float(found)
        except OverflowError:
            self.fail(f"{name} is too large")

    def done(self) -> None:
        """Checks that everything was read that is a rule.

        Raises:
            InvalidInput: something wasn't.
        """
        left = next((key for key, _ in self._fields if key not in NO_RULES), None)
        if left is not None:
            self.fail(f"{left[:60]} has no counterpart")

    def fail(self, what: str) -> NoReturn:
        """Raises an error that says where."""
        raise InvalidInput(
            f"{self.origin}: {what}", remedy="Leave it out, and say it in the schema's TOML."
        )
