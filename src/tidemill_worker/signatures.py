"""What a function says of itself: the columns that it takes and gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints, is_typeddict

import msgspec
import numpy as np

_SCALARS: dict[Any, str] = {bool: "bool", int: "int64", float: "float64", str: "string"}
_TYPES = frozenset(
    (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    )
)


class Column(msgspec.Struct, frozen=True):
    """One input or output; ``shape`` is that of one row."""

    name: str
    type: str
    shape: tuple[int, ...] = ()


class Signature(msgspec.Struct, frozen=True):
    """The columns that a model takes and gives, in order."""

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]


def describe_function(function: Callable[..., Any]) -> Signature | None:
    """Returns the columns of a function: its ``signature`` attribute, or its annotations.

    A parameter is a column. ``int``, ``float``, ``bool`` and ``str`` are single values,
    ``NDArray[np.float32]`` is a whole column, and ``Annotated[NDArray[np.float32], (3,)]`` one
    whose rows have a shape. What it returns is the output ``value``, or, as a ``TypedDict``, one
    output per key.

    Returns:
        The signature; None if the function does not say enough.

    Raises:
        ValueError: its ``signature`` attribute describes none.

    Example:
        >>> def fare(distance: float, night: bool) -> float: ...
        >>> [column.type for column in describe_function(fare).inputs]
        ['float64', 'bool']
    """
    told = getattr(function, "signature", None)
    if isinstance(told, Mapping):
        return msgspec.convert(told, Signature)
    try:
        hints = _hints(function)
        names = list(inspect.signature(function).parameters)
    except (NameError, TypeError, ValueError, AttributeError):
        return None
    inputs = [_column(name, hints.get(name)) for name in names]
    outputs = _outputs(hints.get("return"))
    known = [column for column in (*inputs, *outputs) if column is not None]
    if not inputs or not outputs or len(known) < len(inputs) + len(outputs):
        return None
    return Signature(tuple(known[: len(inputs)]), tuple(known[len(inputs) :]))


def takes_rows(function: Callable[..., Any]) -> tuple[bool, list[str]]:
    """Says whether a function takes single values, and the names of what it must be given."""
    parameters = {
        name: each
        for name, each in inspect.signature(function).parameters.items()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    }
    try:
        hints = _hints(function)
    except (NameError, TypeError, AttributeError):
        hints = {}
    names = list(parameters)
    return bool(names) and all(_scalar(hints.get(name)) for name in names), names


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    plain = inspect.isfunction(function) or inspect.ismethod(function)
    return get_type_hints(function if plain else type(function).__call__, include_extras=True)


def _outputs(kind: Any) -> list[Column | None]:
    if is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        return [_column(name, each) for name, each in hints.items()]
    return [_column("value", kind)]


def _column(name: str, kind: Any) -> Column | None:
    shape: tuple[int, ...] = ()
    if get_origin(kind) is Annotated:
        kind, size, *_ = get_args(kind)
        shape = size if isinstance(size, tuple) else (size,)
        if not all(isinstance(each, int) and each > 0 for each in shape):
            return None
    scalar = _scalar(kind)
    if scalar is not None:
        return Column(name, scalar) if shape == () else None
    if get_origin(kind) is not np.ndarray:
        return None
    (element,) = get_args(get_args(kind)[1]) or (None,)
    found = _element(element)
    return None if found is None else Column(name, found, shape)


def _scalar(kind: Any) -> str | None:
    if kind in _SCALARS:
        return _SCALARS[kind]
    return _element(kind) if isinstance(kind, type) and issubclass(kind, np.generic) else None


def _element(kind: Any) -> str | None:
    try:
        dtype = np.dtype(kind)
    except TypeError:
        return None
    if dtype.kind in "OU":
        return "string"
    return dtype.name if dtype.name in _TYPES else None
