"""Protocol buffers in their text format, as far as TFX's schemas use it; strict and bounded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from tidemill.foundation.errors import InvalidInput, TooLarge

MOST_BYTES = 16 << 20
MOST_NESTED = 32

_TOKEN = re.compile(
    r"""[ \t\r\n\f\v]+|\#[^\n]*
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>-?(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?))
    |(?P<word>-?[A-Za-z_][A-Za-z0-9_.]*)
    |(?P<sign>[{}<>:;,\[\]])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_LETTERS = {
    b"n": b"\n",
    b"t": b"\t",
    b"r": b"\r",
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"v": b"\v",
}
_CLOSES = {"{": "}", "<": ">"}


class Word(str):
    """A name that stands where a value does: an enum's, ``true``, ``inf``."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Message:
    """A message's fields, in order; a field that repeats is there more than once."""

    fields: tuple[tuple[str, Message | bytes | Word | int | float], ...]


def parse_text(text: str, *, origin: str) -> Message:
    """Returns the message that a text holds.

    Raises:
        TooLarge: it is over 16 MiB.
        InvalidInput: it is no text format, or nested deeper than 32 messages; with the line.
    """
    if len(text) > MOST_BYTES:
        raise TooLarge(f"{origin} is over {MOST_BYTES} characters", remedy="Is it a schema?")
    return _Parser(text, origin).message(None, 0)


class _Parser:
    def __init__(self, text: str, origin: str) -> None:
        self._text = text
        self._origin = origin
        self._tokens = self._split()
        self._place = 0

    def _split(self) -> list[tuple[str, str, int]]:
        tokens, at = [], 0
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None:
                self._fail(at, f"unexpected {self._text[at]!r}")
            if found.lastgroup is not None:
                tokens.append((found.lastgroup, found[0], at))
            at = found.end()
        return [*tokens, ("end", "", at)]

    def message(self, closes: str | None, depth: int) -> Message:
        if depth > MOST_NESTED:
            self._fail(self._next()[2], f"nested deeper than {MOST_NESTED}")
        fields: list[tuple[str, Message | bytes | Word | int | float]] = []
        while True:
            kind, word, at = self._take()
            if (kind, word) == ("sign", closes) or (kind == "end" and closes is None):
                return Message(tuple(fields))
            if kind != "word" or word.startswith("-"):
                self._fail(at, f"a field's name is expected, not {word[:40]!r}")
            colon = self._skip(":")
            if self._skip("["):
                fields += ((word, each) for each in self._listed(depth))
            else:
                fields.append((word, self._value(depth, colon=colon)))
            _ = self._skip(",") or self._skip(";")

    def _listed(self, depth: int) -> list[Message | bytes | Word | int | float]:
        found: list[Message | bytes | Word | int | float] = []
        if self._skip("]"):
            return found
        while True:
            found.append(self._value(depth, colon=True))
            if self._skip("]"):
                return found
            if not self._skip(","):
                self._fail(self._next()[2], "a list goes on with ',' or ends with ']'")

    def _value(self, depth: int, *, colon: bool) -> Message | bytes | Word | int | float:
        kind, word, at = self._take()
        if word in _CLOSES and kind == "sign":
            return self.message(_CLOSES[word], depth + 1)
        if not colon or kind not in ("string", "number", "word"):
            self._fail(at, f"a value is expected, not {word[:40]!r}")
        if kind == "word":
            return Word(word)
        if kind == "number":
            return _number(word)
        parts = [_unescaped(word)]
        while self._next()[0] == "string":
            parts.append(_unescaped(self._take()[1]))
        return b"".join(parts)

    def _next(self) -> tuple[str, str, int]:
        return self._tokens[self._place]

    def _take(self) -> tuple[str, str, int]:
        token = self._tokens[self._place]
        self._place = min(self._place + 1, len(self._tokens) - 1)
        return token

    def _skip(self, sign: str) -> bool:
        here = self._next()[:2] == ("sign", sign)
        self._place += here
        return here

    def _fail(self, at: int, what: str) -> NoReturn:
        line = self._text.count("\n", 0, at) + 1
        raise InvalidInput(f"{self._origin}, line {line}: {what}", remedy="Correct it.")


def _number(word: str) -> int | float:
    if word.lstrip("-")[:2] in ("0x", "0X"):
        return int(word, 16)
    if word.lstrip("-").isdigit() and len(word) < 400:
        digits = word.lstrip("-")
        octal = len(digits) > 1 and digits[0] == "0" and set(digits) <= set("01234567")
        return int(word, 8) if octal else int(word)
    return float(word.rstrip("fF"))


def _unescaped(word: str) -> bytes:
    def letter(found: re.Match[bytes]) -> bytes:
        code = found[1]
        if code[:1] == b"x" and len(code) > 1:
            return bytes([int(code[1:], 16)])
        if code[:1] in b"01234567":
            return bytes([int(code, 8) & 255])
        return _LETTERS.get(code, code)

    return _ESCAPE.sub(letter, word[1:-1].encode("utf-8", "surrogateescape"))
