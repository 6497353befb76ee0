"""What a step function's annotations promise: its parameters, its value, its files."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tidemill.foundation.errors import InvalidInput
from tidemill.pipeline.values import check_storable

OUT = "out"
"""The parameter that, annotated ``Path``, gets a fresh folder for a step's files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A step function's types.

    Args:
        parameters: each parameter's annotation, without ``out``.
        required: the parameters without a default.
        returns: the annotation of the value; ``NoneType`` where there is none.
        writes_files: it takes ``out: Path``.
    """

    parameters: Mapping[str, Any]
    required: frozenset[str]
    returns: Any
    writes_files: bool


def read_contract(function: Callable[..., Any], subject: str) -> Contract:
    """Returns the function's types.

    Args:
        function: a plain function.
        subject: what it is, for errors: ``"step 'load'"``.

    Raises:
        InvalidInput: it is not a plain typed function, or its value has no stored form.
    """
    _check_plain(function, subject)
    hints = hints_of(function, subject)
    parameters = inspect.signature(function).parameters
    for name, one in parameters.items():
        if one.kind in {one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY}:
            raise InvalidInput(
                f"{subject}: parameter '{one}' has no name of its own",
                remedy="Name each parameter of a step function.",
            )
        if name not in hints:
            raise InvalidInput(
                f"{subject}: parameter {name!r} has no annotation", remedy="Annotate its type."
            )
    if "return" not in hints:
        raise InvalidInput(
            f"{subject}: the return value has no annotation",
            remedy="Annotate what the function returns, or '-> None'.",
        )
    writes_files = OUT in parameters and hints[OUT] is Path
    check_storable(hints["return"], f"the return value of {subject}")
    taken = {name: hints[name] for name in parameters if not (writes_files and name == OUT)}
    empty = inspect.Parameter.empty
    return Contract(
        parameters=taken,
        required=frozenset(name for name in taken if parameters[name].default is empty),
        returns=hints["return"],
        writes_files=writes_files,
    )


def hints_of(function: Callable[..., Any], subject: str) -> dict[str, Any]:
    """Returns the function's annotations, looked up.

    Raises:
        InvalidInput: a name in them is not known when the function runs.
    """
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"{subject}: its annotations cannot be looked up: {error}",
            remedy="Import the types outside of `if TYPE_CHECKING:`.",
        ) from error


def _check_plain(function: Callable[..., Any], subject: str) -> None:
    if not isinstance(function, types.FunctionType | types.BuiltinFunctionType) and not hasattr(
        function, "__wrapped__"
    ):
        raise InvalidInput(
            f"{subject} is a {type(function).__name__}, not a plain function",
            remedy="Write a function with typed parameters that does the call.",
        )
    inner = inspect.unwrap(function)
    if inspect.iscoroutinefunction(inner) or inspect.isgeneratorfunction(inner):
        raise InvalidInput(
            f"{subject} is asynchronous or a generator", remedy="Return the value from a function."
        )


def wants_path(kind: Any) -> bool:
    """Tells whether the annotation is ``Path``, or ``Path | None``."""
    return kind is Path or (_is_union(kind) and Path in typing.get_args(kind))


def element(kind: Any) -> Any:
    """Returns the annotation of a list's elements; None where it is not a list."""
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is tuple:
        return arguments[0] if len(arguments) == 2 and arguments[1] is Ellipsis else None
    if isinstance(origin, type) and origin not in (str, bytes) and issubclass(origin, Iterable):
        return None if issubclass(origin, Mapping) else (arguments or (Any,))[0]
    return None


def fits(produced: Any, wanted: Any) -> bool:
    """Tells whether a value of the one annotation may go where the other is; in doubt, yes.

    Example:
        >>> fits(int, float), fits(str, int), fits(dict[str, int], dict[str, float])
        (True, False, True)
        >>> fits(int, int | None), fits(int | None, int)
        (True, False)
    """
    produced, wanted = _plain(produced), _plain(wanted)
    if Any in (produced, wanted) or produced == wanted:
        return True
    if _is_union(produced):
        return all(fits(one, wanted) for one in typing.get_args(produced))
    if _is_union(wanted):
        return any(fits(produced, one) for one in typing.get_args(wanted))
    if typing.get_origin(wanted) is Literal or isinstance(wanted, typing.TypeVar):
        return True
    if typing.get_origin(produced) is Literal:
        return all(fits(type(one), wanted) for one in typing.get_args(produced))
    return _classes_fit(produced, wanted)


def _classes_fit(produced: Any, wanted: Any) -> bool:
    have, want = (_kind(typing.get_origin(one) or one) for one in (produced, wanted))
    if have is int and want is float:
        return True
    if isinstance(have, type) and isinstance(want, type) and not issubclass(have, want):
        return False
    pairs = (typing.get_args(produced), typing.get_args(wanted))
    if not all(pairs) or len(pairs[0]) != len(pairs[1]):
        return True
    return all(fits(a, b) for a, b in zip(*pairs, strict=True))


def _kind(origin: Any) -> Any:
    """Takes dicts and mappings for one kind, and lists, tuples and sequences for another."""
    if isinstance(origin, type) and origin not in (str, bytes):
        if issubclass(origin, Mapping):
            return dict
        if issubclass(origin, Sequence):
            return list
    return origin


def _plain(kind: Any) -> Any:
    return types.NoneType if kind is None else kind


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in {typing.Union, types.UnionType}
