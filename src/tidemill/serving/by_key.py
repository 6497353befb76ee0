"""Questions by key: the columns that determine an answer, without the model's other inputs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
import numpy as np

from tidemill.foundation.errors import InvalidInput, TooLarge
from tidemill.models.signature import Batch, Column, Signature
from tidemill.serving import wire
from tidemill.serving.inputs import refuse_names
from tidemill.serving.plan import Deployment
from tidemill.serving.row import Row, RowForm
from tidemill.serving.tensors import from_rows, show

MAX_QUERY_BYTES = 8192
"""How long a query string may be: several of the longest keys that a table takes as they are."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_REAL = re.compile(r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,5})?")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_PLAIN_TEXT = re.compile(rb"[0-9A-Za-z._~=-]+")
_TRUTH = {"true": True, "false": False}


class KeyReader:
    """Reads requests that hold an application's key columns and nothing else.

    Args:
        signature: what the application takes and gives.
        key: the names of its key columns, inputs of the signature, one value each.

    Example:
        >>> columns = (Column("carrier", "string"), Column("hour", "int64"), Column("x", "float32"))
        >>> reader = KeyReader(Signature(columns, (Column("y", "float32"),)), ("carrier", "hour"))
        >>> reader.read_query(b"hour=5&carrier=UA")
        ['UA', 5]
    """

    def __init__(self, signature: Signature, key: tuple[str, ...]) -> None:
        known = {column.name: column for column in signature.inputs}
        self.signature = Signature(tuple(known[name] for name in key), signature.outputs)
        self._of = {column.name: _parser(column) for column in self.signature.inputs}
        self._whole = self._of.keys() == known.keys()
        self._form = RowForm(self.signature.inputs)
        self._shaped = next((each for each in self.signature.inputs if each.shape), None)
        plain = all(map(_NAME.fullmatch, key)) and self._shaped is None
        self._plain = [
            (f"{column.name}=".encode(), len(column.name) + 1, _plain_parser(column))
            for column in self.signature.inputs
            if plain
        ]
        self._only = self._plain[0] if len(self._plain) == 1 else None
        self._types = [_row_type(column) for column in self.signature.inputs]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the key, in order."""
        return self._form.names

    def row(self, values: Sequence[Any]) -> Row:
        """Returns a key that was read as a row."""
        return Row(self._form, values)

    def read_query(self, text: bytes) -> list[Any]:
        """Returns the key in the query string of a URL: a value for each column, in their order.

        A value is text as it is, ``true`` or ``false``, or a number in decimal notation; blanks may
        be ``+`` or ``%20``.

        Raises:
            InvalidInput: a column is missing, unknown or given twice, or a value is not of its
                type; the column and the value are named.
            TooLarge: it is longer than any key.
        """
        if self._only is not None:
            said, size, parse = self._only
            value = parse(text[size:]) if text.startswith(said) else None
            if value is not None:
                return [value]
            return self._read_closely(text)
        values = self._read_plainly(text)
        return self._read_closely(text) if values is None else values

    def _read_plainly(self, text: bytes) -> list[Any] | None:
        """Returns the values of columns in their order, each of which is plainly one; else None."""
        parts = text.split(b"&") if len(text) <= MAX_QUERY_BYTES else []
        if not parts or len(parts) != len(self._plain):
            return None
        values: list[Any] = []
        for said, size, parse in self._plain:
            part = parts[len(values)]
            value = parse(part[size:]) if part.startswith(said) else None
            if value is None:
                return None
            values.append(value)
        return values

    def known(self, before: bytes, after: bytes, most: int) -> Callable[[bytes], list[Any] | None]:
        """Returns what reads keys from bytes that are these, with a query in between.

        It takes what ``read_query`` does, where that is plainly a key: of letters, digits and
        marks that no parser reads otherwise. It returns None for all else.

        Args:
            before: what comes before the query.
            after: what follows it.
            most: so many bytes in all, no more.
        """
        start, stop = len(before), -len(after)

        def several(data: bytes) -> list[Any] | None:
            if data[:start] != before or data[stop:] != after or len(data) > most:
                return None
            return self._read_plainly(data[start:stop])

        if self._only is None:
            return several
        said, size, parse = self._only
        before, start = before + said, start + size

        def one(data: bytes) -> list[Any] | None:
            if not data.startswith(before) or not data.endswith(after) or len(data) > most:
                return None
            value = parse(data[start:stop])
            return None if value is None else [value]

        return one

    def _read_closely(self, text: bytes) -> list[Any]:
        """Reads what may be escaped, in another order, or no key at all."""
        if len(text) > MAX_QUERY_BYTES:
            raise TooLarge(
                f"the query string has {len(text)} bytes", remedy=f"At most {MAX_QUERY_BYTES}."
            )
        given: dict[str, str] = {}
        for part in text.split(b"&"):
            if not part:
                continue
            name, _, value = part.partition(b"=")
            column = _decoded(name)
            if column in given:
                raise InvalidInput(f"column {show(column)} is given twice", remedy="Give it once.")
            given[column] = _decoded(value)
        if given.keys() != self._of.keys():
            refuse_names("column", set(given), set(self._of))
        if self._shaped is not None:
            from_rows([given[self._shaped.name]], self._shaped)  # which refuses what is no list
        return [parse(given[name]) for name, parse in self._of.items()]

    def read_row(self, instance: Any) -> list[Any] | None:
        """Returns the key in a v1 row of plain values; None for what needs a closer look."""
        if type(instance) is not dict or len(instance) != len(self._types) or self._shaped:
            return None
        values: list[Any] = []
        for name, kind in zip(self._form.names, self._types, strict=True):
            value = instance.get(name)
            if kind is None or type(value) is not kind[0]:
                return None
            if type(value) is int and not kind[1] <= value <= kind[2]:
                return None
            values.append(value)
        return values

    def holds(self, instances: list[Any]) -> bool:
        """Says whether the first row of a v1 request is an object of the key's columns alone."""
        first = instances[0] if instances else None
        return isinstance(first, dict) and first.keys() == self._of.keys() and not self._whole

    def read_infer(
        self, body: bytes, header_length: int | None, refusal: InvalidInput
    ) -> tuple[wire.Asked, Batch, int]:
        """Reads a v2 request whose tensors are the key's columns.

        Args:
            body: the request's.
            header_length: the bytes of JSON, if binary tensors follow.
            refusal: why it is no request with all inputs.

        Raises:
            InvalidInput: it is none; the ``refusal``, where it has other tensors.
        """
        try:
            names = _tensor_names(msgspec.json.decode(body[:header_length]))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise refusal from None
        narrow = self.narrow(names, refusal)
        request, inputs, n = wire.read_infer(body, header_length, narrow)
        asked = wire.Asked(request, narrow.outputs, n)
        request.inputs = []  # a query that waits holds its arrays, no more
        return asked, inputs, n

    def narrow(self, names: set[str] | None, refusal: InvalidInput) -> Signature:
        """Returns the key's signature, if these are the names of its columns.

        Args:
            names: what a request has, whatever its protocol; None if it cannot be told.
            refusal: why it is no request with all inputs.

        Raises:
            InvalidInput: the ``refusal``, where they are others.
        """
        if names != self._of.keys():
            raise refusal
        return self.signature


def key_reader(deployment: Deployment, signature: Signature) -> KeyReader:
    """Returns what reads an application's keys.

    Raises:
        InvalidInput: it has no key.
    """
    if not deployment.key:
        raise InvalidInput(
            f"application {deployment.application!r} has no key to ask by",
            remedy="Send all inputs, or build a table with a key: tidemill table build.",
        )
    return KeyReader(signature, deployment.key)


def _tensor_names(request: Any) -> set[str] | None:
    tensors = request.get("inputs") if isinstance(request, dict) else None
    if not isinstance(tensors, list):
        return None
    return {str(each.get("name")) for each in tensors if isinstance(each, dict)}


def _decoded(text: bytes) -> str:
    if b"%" in text or b"+" in text:
        text = unquote_to_bytes(text.replace(b"+", b" "))
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{text[:100]!r} in the query string is not UTF-8", remedy="Encode it as UTF-8."
        ) from error


def _parser(column: Column) -> Callable[[str], Any]:
    """Returns what makes a column's value from text: what its array would hold."""
    kind, dtype = column.dtype.kind, column.dtype
    low, high = _bounds(dtype)

    def wrong(text: str) -> InvalidInput:
        wanted = {"b": "true or false", "i": "a whole number", "u": "a whole number"}
        return InvalidInput(
            f"column {column.name!r} is {show(text)}",
            remedy=f"Give {wanted.get(kind, 'a finite number')}.",
        )

    def truth(text: str) -> Any:
        if text not in _TRUTH:
            raise wrong(text)
        return _TRUTH[text]

    def whole(text: str) -> Any:
        if not _WHOLE.fullmatch(text):
            raise wrong(text)
        number = int(text)
        return number if low <= number <= high else from_rows([number], column).item(0)

    def real(text: str) -> Any:
        if not _REAL.fullmatch(text) or not math.isfinite(number := float(text)):
            raise wrong(text)
        array = np.array([number], dtype) if low <= number <= high else from_rows([number], column)
        return array.item(0)

    parsers: dict[str, Callable[[str], Any]] = {"O": str, "b": truth, "i": whole, "u": whole}
    return parsers.get(kind, real)


def _plain_parser(column: Column) -> Callable[[bytes], Any]:
    """Returns what makes a column's value from bytes that are plainly one; None for others."""
    kind, (_, high) = column.dtype.kind, _bounds(column.dtype)
    digits = len(str(high)) - 1
    most = MAX_QUERY_BYTES - len(f"{column.name}=")

    def whole(said: bytes) -> Any:
        return int(said) if len(said) <= digits and said.isdigit() else None

    def text(said: bytes) -> Any:
        if len(said) > most or not _PLAIN_TEXT.fullmatch(said):
            return None
        return said.decode()

    parsers: dict[str, Callable[[bytes], Any]] = {"O": text, "i": whole, "u": whole}
    return parsers.get(kind, lambda _: None)


def _row_type(column: Column) -> tuple[type, Any, Any] | None:
    """Returns the one type that a column's JSON values have, and their bounds; else None."""
    found = {"O": str, "b": bool, "i": int, "u": int}.get(column.dtype.kind)
    return None if found is None else (found, *_bounds(column.dtype))


def _bounds(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Returns the least and the greatest number of a type; of what is none, nothing of use.

    Not as ``float``, which compiled code would make of whole numbers, too.
    """
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    return (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) if dtype.kind in "iu" else (0, 0)
