"""Step values as bytes: MessagePack, so that NaN, bytes and whole numbers as keys survive."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect as shapes

from tidemill.foundation.errors import InvalidInput

_FILES_REMEDY = (
    "Return numbers, text, lists, dicts or msgspec Structs; write what is larger into a folder "
    "parameter `out: Path`."
)


def encode_value(value: object, kind: Any, subject: str) -> bytes:
    """Returns the value as bytes; equal values give equal bytes (but dicts
    with keys other than text only if filled in the same order).

    Args:
        value: what a step returned or was given.
        kind: the annotation that it must match.
        subject: what it is, for errors: ``"what step 'load' returned"``.

    Raises:
        InvalidInput: it cannot be stored, or does not match the annotation.
    """
    try:
        data = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidInput(
            f"{subject} cannot be stored: {type(value).__name__}: {error}", remedy=_FILES_REMEDY
        ) from error
    decode_value(data, kind, subject)
    return data


def _encode(value: object) -> bytes:
    try:
        return msgspec.msgpack.encode(value, enc_hook=_scalar, order="sorted")
    except TypeError:
        # It may only be that keys other than text are not sorted: they keep their order then.
        return msgspec.msgpack.encode(value, enc_hook=_scalar)


def decode_value(data: bytes, kind: Any, subject: str) -> Any:
    """Returns the value that the bytes stand for, as the annotation wants it.

    Raises:
        InvalidInput: it does not match the annotation.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise InvalidInput(
            f"{subject} does not match its annotation {describe(kind)}: {error}",
            remedy="Correct the annotation or the value.",
        ) from error


def check_storable(kind: Any, subject: str) -> None:
    """Checks that values of the annotated type can be stored.

    Raises:
        InvalidInput: a class in it has no stored form.
    """
    try:
        found = next(_foreign(shapes.type_info(kind), set()), None)
    except (TypeError, NameError) as error:
        raise InvalidInput(f"{subject}: {error}", remedy=_FILES_REMEDY) from error
    if found is not None:
        raise InvalidInput(
            f"{subject} is annotated {describe(kind)}, but {describe(found)} has no stored form",
            remedy=_FILES_REMEDY,
        )


def describe(kind: Any) -> str:
    """Returns an annotation as people write it.

    Example:
        >>> describe(dict[str, int]), describe(type(None)), describe(int | None)
        ('dict[str, int]', 'None', 'int | None')
    """
    if kind is types.NoneType:
        return "None"
    return kind.__name__ if type(kind) is type else str(kind).replace("typing.", "")


def preview(data: bytes) -> str:
    """Returns what the bytes stand for as a short line of text.

    Example:
        >>> preview(encode_value({"depth": 3}, Any, "it"))
        '{"depth":3}'
    """
    try:
        text = msgspec.json.encode(msgspec.msgpack.decode(data)).decode()
    except (TypeError, msgspec.MsgspecError):  # JSON has no such keys
        text = repr(msgspec.msgpack.decode(data))
    return text if len(text) <= 120 else f"{text[:117]}..."


def _scalar(value: Any) -> Any:
    """Gives the plain number inside an array library's scalar."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"objects of type {type(value).__name__} have no stored form")


def _foreign(info: object, seen: set[int]) -> Iterator[Any]:
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, shapes.CustomType) and info.cls is not object:
        yield info.cls
    for name in getattr(type(info), "__struct_fields__", ()):
        value = getattr(info, name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, shapes.Type | shapes.Field):
                yield from _foreign(part, seen)
