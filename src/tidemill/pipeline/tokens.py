"""Plain values as tokens: nested lists that print the same in every process.

Data (numbers, text, containers, paths, enums, dataclasses, Structs) is taken by value; functions,
classes and modules inside it are named, and told to the caller, who follows them.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import hashlib
import pathlib
import pickle
import re
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from typing import Any

_MAX_DEPTH = 20
_PRINTED = (
    int,
    float,
    complex,
    str,
    range,
    slice,
    type(...),
    type(None),
    dt.date,
    dt.time,
    dt.timedelta,
    dt.timezone,
    decimal.Decimal,
    fractions.Fraction,
    uuid.UUID,
    pathlib.PurePath,
    typing.TypeVar,
    types.GenericAlias,
    types.UnionType,
)


class OpaqueError(Exception):
    """The value is not plain data."""


def token(value: object, reach: Callable[[object], None], depth: int = 0) -> Any:
    """Returns the value as a token.

    Args:
        value: any object.
        reach: is told every function, class and module found in it.
        depth: how deep the value lies; containers within themselves are refused by it.

    Raises:
        OpaqueError: something in it is not plain data, or it contains itself.
    """
    if depth > _MAX_DEPTH:
        raise OpaqueError
    if isinstance(value, _NAMED):
        reach(value)
        return [type(value).__name__, name_of(value)]
    if isinstance(value, enum.Enum):
        reach(type(value))
        return ["enum", name_of(type(value)), value.name, token(value.value, reach, depth + 1)]
    if isinstance(value, bytes | bytearray):
        return ["bytes", hashlib.sha256(value).hexdigest()]
    if isinstance(value, re.Pattern):
        return ["pattern", repr(value.pattern), value.flags]
    if type(value) in _PRINTED or isinstance(value, pathlib.PurePath):
        return [type(value).__name__, repr(value)]
    return _container(value, reach, depth + 1)


def _container(value: object, reach: Callable[[object], None], depth: int) -> Any:
    kind = type(value)
    if kind in {tuple, list}:
        return [kind.__name__, *(token(one, reach, depth) for one in value)]  # type: ignore[attr-defined]
    if kind in {set, frozenset}:
        ordered = sorted((token(one, reach, depth) for one in value), key=repr)  # type: ignore[attr-defined]
        return [kind.__name__, *ordered]
    if isinstance(value, Mapping) and kind.__module__ in {"builtins", "collections"}:
        pairs = [[token(k, reach, depth), token(v, reach, depth)] for k, v in value.items()]
        return [kind.__name__, *pairs]
    fields = _fields(value)
    if fields is None:
        raise OpaqueError
    reach(kind)
    pairs = [[name, token(getattr(value, name, None), reach, depth)] for name in fields]
    return ["record", name_of(kind), *pairs]


def _fields(value: object) -> tuple[str, ...] | None:
    if dataclasses.is_dataclass(value):
        return tuple(one.name for one in dataclasses.fields(value))
    kind = type(value)
    for listed in ("__struct_fields__", "_fields"):  # msgspec.Struct, typing.NamedTuple
        names = getattr(kind, listed, None)
        if isinstance(names, tuple):
            return names
    return None


def pickled(value: object) -> Any:
    """Returns a token of what is not plain data: of its pickle, else of its type alone.

    The type alone stands for live things (locks, loggers, connections), which hold no code.
    """
    kind = name_of(type(value))
    try:
        return ["pickle", kind, hashlib.sha256(pickle.dumps(value, protocol=5)).hexdigest()]
    except Exception:  # noqa: BLE001 - anything can happen inside a foreign __reduce__
        return ["opaque", kind]


def name_of(value: object) -> str:
    """Returns the qualified name of a function, class or module."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    return f"{getattr(value, '__module__', None) or 'builtins'}.{name}"


_NAMED = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
)


def digest(content: Any, digits: int) -> str:
    """Returns the first hexadecimal digits of the sha256 over a token."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:digits]
