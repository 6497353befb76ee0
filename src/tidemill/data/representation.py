"""Representations: declared functions from an input to what stands for it in a key.

Inputs with one representation share a key, and so one answer in a table or a cache. A function is
declared by a text, as ``step(0.5)`` or ``ngrams(5, 2)``, and is one of a few that are known:

    round(digits)         a number rounded to so many decimals; fewer than 0 for tens, hundreds, …
    step(size)            a number rounded to the nearest multiple of the size
    bucket(edge, …)       how many of the edges a number has reached; a missing one is apart
    text(fold, …)         a text's normal form; folds are ``digits`` and ``punctuation``
    fingerprint(fold, …)  the words of the normal form, each once, in order; fold is ``digits``
    ngrams(n, hashes)     a hash that texts share the likelier, the more runs of n they do

Each is pure: it gives the same in every process and on every machine, for one value and for many.
Texts depend on the Unicode tables of the Python release, for characters that these do not know yet.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from tidemill.data.mixing import mix
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.names import nearest

Array: TypeAlias = npt.NDArray[Any]

MAX_TEXT = 1 << 16
"""A text of more characters is its own normal form; ``ngrams`` looks at so many of them."""

_FORM = re.compile(r"\s*([a-z]+)\s*(?:\((.*)\))?\s*", re.DOTALL)
_EXACT = 2.0**51
"""From so many steps on a number is taken as it is: doubles are hardly finer."""
_SAFE = 1 << 62
"""From there on a whole number is taken as it is: its multiple might not fit its type."""
_MAX_EDGES = 1000
_MAX_HASHES = 16
_MAX_RUN = 64
_NUMBERS, _TEXTS = "numbers", "text"
_DIGITS = re.compile(r"\d+(?:[.,]\d+)*")
_EMPTY = 0x656D707479
_ROUNDS = 8


class Representation(Protocol):
    """A function from a column's values to what stands for them."""

    @property
    def declared(self) -> str:
        """The text that declares it, always written alike."""

    @property
    def takes(self) -> str:
        """Of what it is a function: ``numbers`` or ``text``."""

    def type_of(self, kind: str) -> str:
        """Returns the type of what it gives for a column of some type."""

    def one(self, value: Any) -> Any:
        """Returns what stands for one value; a number that is missing is None or NaN."""

    def many(self, values: Array) -> Array:
        """Returns what stands for each value.  # (n,) to (n,)"""


@dataclass(frozen=True, slots=True)
class Step:
    """Numbers rounded to the nearest multiple of a size; halfway to the even one.

    Whole numbers stay whole; halfway they go up.

    Args:
        size: above 0; a whole number for columns of whole numbers.
        digits: the decimals, where they were declared instead of the size.

    Example:
        >>> step = parse_representation("step(0.5)")
        >>> step.one(3.3), step.many(np.array([3.3, 3.8])).tolist()
        (3.5, [3.5, 4.0])
    """

    size: float
    digits: int | None = None

    @property
    def declared(self) -> str:
        """The text that declares it."""
        return f"step({_number(self.size)})" if self.digits is None else f"round({self.digits})"

    @property
    def takes(self) -> str:
        """Numbers."""
        return _NUMBERS

    def type_of(self, kind: str) -> str:
        """A whole number's multiples are whole, others' have 64 bits."""
        if kind.startswith("float"):
            return "float64"
        if self.size < 1 or self.size != int(self.size):
            raise InvalidInput(
                f"{self.declared} would leave whole numbers as they are, or break them",
                remedy="Give a step that is a whole number, or round to -1 digits or fewer.",
            )
        return "uint64" if kind.startswith("uint") else "int64"

    def one(self, value: Any) -> Any:
        """Returns the nearest multiple."""
        if value is None:
            return None
        if isinstance(value, int):
            size = int(self.size)
            whole, rest = divmod(value, size)
            return (whole + (2 * rest >= size)) * size if -_SAFE < value < _SAFE else value
        if not math.isfinite(value) or abs(steps := self._steps(value)) >= _EXACT:
            return value
        return self._back(float(round(steps))) + 0.0  # -0.0 is 0.0

    def many(self, values: Array) -> Array:
        """Returns the nearest multiples."""
        if values.dtype.kind != "f":
            size = np.array(int(self.size), np.uint64 if values.dtype.kind == "u" else np.int64)
            whole, rest = np.divmod(values.astype(size.dtype), size)
            near = (values < _SAFE) & (values > -_SAFE)
            return np.where(near, (whole + (rest >= size - rest)) * size, values)
        wide = values.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            steps = self._steps(wide)
            rounded = self._back(np.rint(steps)) + 0.0
            return np.where(np.abs(steps) < _EXACT, rounded, wide)

    def _steps(self, value: Any) -> Any:
        digits = self.digits
        return value * 10.0**digits if digits is not None and digits > 0 else value / self.size

    def _back(self, steps: Any) -> Any:
        digits = self.digits
        return steps / 10.0**digits if digits is not None and digits > 0 else steps * self.size


@dataclass(frozen=True, slots=True)
class Buckets:
    """How many of some edges a number has reached: 0 below the first one.

    A number that is missing has a bucket of its own, after the last.

    Example:
        >>> ages = parse_representation("bucket(18, 30, 65)")
        >>> ages.one(17.0), ages.one(18.0), ages.one(None), ages.many(np.array([70, 5])).tolist()
        (0, 1, 4, [3, 0])
    """

    edges: tuple[float, ...]

    @property
    def declared(self) -> str:
        """The text that declares it."""
        return f"bucket({', '.join(map(_number, self.edges))})"

    @property
    def takes(self) -> str:
        """Numbers."""
        return _NUMBERS

    def type_of(self, kind: str) -> str:  # noqa: ARG002 - of all numbers the same
        """A whole number."""
        return "int64"

    def one(self, value: Any) -> int:
        """Returns the bucket."""
        if value is None or value != value:  # noqa: PLR0124 - NaN
            return len(self.edges) + 1
        return bisect_right(self.edges, value)

    def many(self, values: Array) -> Array:
        """Returns the buckets."""
        if values.dtype.kind != "f":  # compared exactly, as one by one
            return np.array([self.one(value) for value in values.tolist()], np.int64)
        found = np.searchsorted(np.array(self.edges), values.astype(np.float64), side="right")
        return np.where(np.isnan(values), len(self.edges) + 1, found).astype(np.int64)


@dataclass(frozen=True, slots=True)
class NormalForm:
    """The normal form of a text: what differs only in writing is one text.

    A text over ``MAX_TEXT`` characters is taken as it is. Of others,
    compatible characters are one (NFKC), case is folded, characters that are not seen (Unicode's
    format characters) are left out, blanks are single and none stand at the ends. With ``digits``
    each number is 0, with ``punctuation`` each mark and symbol is a blank.

    Example:
        >>> parse_representation("text(digits, punctuation)").one(" Win  $1,000,000 NOW!! ")
        'win 0 now'
    """

    digits: bool = False
    punctuation: bool = False

    @property
    def declared(self) -> str:
        """The text that declares it."""
        folds = [name for name in ("digits", "punctuation") if getattr(self, name)]
        return f"text({', '.join(folds)})" if folds else "text"

    @property
    def takes(self) -> str:
        """Text."""
        return _TEXTS

    def type_of(self, kind: str) -> str:
        """Text."""
        return kind

    def one(self, value: str) -> str:
        """Returns the normal form; that of a normal form is itself."""
        for _ in range(_ROUNDS):  # the second one almost always changes nothing
            if len(value) > MAX_TEXT or (folded := self._once(value)) == value:
                break
            value = folded
        return value

    def many(self, values: Array) -> Array:
        """Returns the normal forms."""
        return _each(self.one, values)

    def _once(self, text: str) -> str:
        if not text.isascii():
            text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
            if not text.isascii():
                text = "".join([c for c in text if unicodedata.category(c) != "Cf"])
        else:
            text = text.lower()
        if self.digits:
            text = _DIGITS.sub("0", text)
        if self.punctuation:
            text = "".join([" " if unicodedata.category(c)[0] in "PS" else c for c in text])
        return " ".join(text.split())


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The words of a text, without marks and case, each once, sorted: their order is no matter.

    Example:
        >>> words = parse_representation("fingerprint")
        >>> words.one("New York, NY") == words.one("ny york NEW new")
        True
    """

    digits: bool = False

    @property
    def declared(self) -> str:
        """The text that declares it."""
        return "fingerprint(digits)" if self.digits else "fingerprint"

    @property
    def takes(self) -> str:
        """Text."""
        return _TEXTS

    def type_of(self, kind: str) -> str:
        """Text."""
        return kind

    def one(self, value: str) -> str:
        """Returns the fingerprint; that of a fingerprint is itself."""
        form = NormalForm(digits=self.digits, punctuation=True)
        return " ".join(sorted(set(form.one(value).split())))

    def many(self, values: Array) -> Array:
        """Returns the fingerprints."""
        return _each(self.one, values)


@dataclass(frozen=True, slots=True)
class NGrams:
    """A hash that texts share the likelier, the more runs of n characters they have in common.

    It is taken from some min-hashes of the runs in the text's normal form without marks, where all
    numbers are one: two texts share it with the probability J^hashes, where J is the part of the
    runs of either that both have (Broder 1997, "On the resemblance and containment of documents").
    What is generated with small changes folds together. Of a text over ``MAX_TEXT`` characters,
    these count.

    Args:
        n: characters in a run.
        hashes: more of them fold less, and less that differs.
    """

    n: int = 5
    hashes: int = 2

    @property
    def declared(self) -> str:
        """The text that declares it."""
        return f"ngrams({self.n}, {self.hashes})"

    @property
    def takes(self) -> str:
        """Text."""
        return _TEXTS

    def type_of(self, kind: str) -> str:  # noqa: ARG002 - texts alone are taken
        """A hash."""
        return "uint64"

    def one(self, value: str) -> int:
        """Returns the hash, from 0 to 2^64 - 1."""
        text = NormalForm(digits=True, punctuation=True).one(value[:MAX_TEXT])
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
        runs = max(len(points) - self.n + 1, min(len(points), 1))
        hashed = np.full(runs or 1, _EMPTY, np.uint64)
        for at in range(min(self.n, len(points))):
            hashed = mix(hashed * np.uint64(0x100000001B3) + points[at : at + runs])
        found = np.zeros(1, np.uint64)
        for lane in range(self.hashes):
            seed = np.uint64(0x9E3779B97F4A7C15) * np.array([lane + 1], np.uint64)
            found = mix(found * np.uint64(0x100000001B3) + mix(hashed ^ seed).min())
        return int(found[0])

    def many(self, values: Array) -> Array:
        """Returns the hashes."""
        return np.array([self.one(value) for value in values.tolist()], np.uint64)


def parse_representation(text: str) -> Representation:
    """Reads a declaration.

    Raises:
        InvalidInput: the function is not known, or does not take these arguments.

    Example:
        >>> parse_representation(" round( 2 ) ").declared
        'round(2)'
    """
    found = _FORM.fullmatch(text[:20_000])
    name = found[1] if found else ""
    if found is None or name not in _KNOWN:
        raise InvalidInput(
            f"{text[:100]!r} is no representation",
            remedy=nearest(name, _KNOWN) if name else f"Known: {', '.join(_KNOWN)}.",
        )
    inner = (found[2] or "").strip()
    given = [each.strip() for each in inner.split(",")] if inner else []
    return _KNOWN[name](text, given)


def check_representation(column: str, kind: str, declared: str) -> Representation:
    """Reads the declaration for a column, and checks that it is a function of such values.

    Args:
        column: the column's name.
        kind: its type, as of a model's signature: ``string``, ``bool``, ``int64``, ``float32``, …
        declared: the declaration.

    Raises:
        InvalidInput: it is no representation, or none of that type.
    """
    try:
        found = parse_representation(declared)
        if (found.takes == _TEXTS) == (kind == "string") and kind != "bool":
            found.type_of(kind)
            return found
    except InvalidInput as error:
        raise InvalidInput(f"column {column!r}: {error.what}", remedy=error.remedy) from error
    raise InvalidInput(
        f"column {column!r} has the type {kind}, and {found.declared} represents {found.takes}",
        remedy="Represent numbers by round, step or bucket, texts by text, fingerprint or ngrams.",
    )


def declarations(texts: list[str]) -> dict[str, str]:
    """Reads ``COLUMN=REPRESENTATION``, as given on a command line; ``none`` alone declares none.

    Raises:
        InvalidInput: one is written otherwise, or a column comes twice.

    Example:
        >>> declarations(["city=text", "amount=step(10)"]), declarations(["none"])
        ({'city': 'text', 'amount': 'step(10)'}, {})
    """
    if texts == ["none"]:
        return {}
    found: dict[str, str] = {}
    for each in texts:
        column, equals, declared = each.partition("=")
        column = column.strip()
        if not equals or not column or column in found:
            raise InvalidInput(
                f"{column[:100]!r} is represented twice"
                if column in found
                else f"{each[:100]!r} is no COLUMN=REPRESENTATION",
                remedy="Write city=text or amount=step(10), once for each column.",
            )
        found[column] = parse_representation(declared).declared
    return found


def show_declarations(represent: Mapping[str, str]) -> str:
    """Returns representations as one line for people.

    Example:
        >>> show_declarations({"city": "text", "amount": "step(10)"})
        'city=text, amount=step(10)'
    """
    return ", ".join(f"{column}={declared}" for column, declared in represent.items())


def _rounding(text: str, given: list[str]) -> Representation:
    (digits,) = _numbers(text, given, 1, 1)
    if digits != int(digits) or not -15 <= digits <= 15:
        raise _wrong(text, "round(DIGITS), from -15 to 15")
    return Step(10.0 ** -int(digits), int(digits))


def _step(text: str, given: list[str]) -> Representation:
    (size,) = _numbers(text, given, 1, 1)
    if not 1e-300 <= size <= 1e15:
        raise _wrong(text, "step(SIZE), above 0 and at most 1e15")
    return Step(size)


def _bucket(text: str, given: list[str]) -> Representation:
    edges = _numbers(text, given, 1, _MAX_EDGES)
    if any(low >= high for low, high in itertools.pairwise(edges)):
        raise _wrong(text, "bucket(EDGE, …), each edge above the one before")
    return Buckets(tuple(edges))


def _text(text: str, given: list[str]) -> Representation:
    if not set(given) <= {"digits", "punctuation"} or len(set(given)) < len(given):
        raise _wrong(text, "text, text(digits), text(punctuation) or text(digits, punctuation)")
    return NormalForm(digits="digits" in given, punctuation="punctuation" in given)


def _fingerprint(text: str, given: list[str]) -> Representation:
    if given not in ([], ["digits"]):
        raise _wrong(text, "fingerprint or fingerprint(digits)")
    return Fingerprint(digits=bool(given))


def _ngrams(text: str, given: list[str]) -> Representation:
    n, hashes = [*_numbers(text, given, 0, 2), *(5.0, 2.0)[len(given) :]]
    if n != int(n) or hashes != int(hashes) or not (1 <= n <= _MAX_RUN):
        raise _wrong(text, f"ngrams(N, HASHES), N from 1 to {_MAX_RUN}")
    if not 1 <= hashes <= _MAX_HASHES:
        raise _wrong(text, f"ngrams(N, HASHES), HASHES from 1 to {_MAX_HASHES}")
    return NGrams(int(n), int(hashes))


_KNOWN: dict[str, Callable[[str, list[str]], Representation]] = {
    "round": _rounding,
    "step": _step,
    "bucket": _bucket,
    "text": _text,
    "fingerprint": _fingerprint,
    "ngrams": _ngrams,
}


def _numbers(text: str, given: list[str], least: int, most: int) -> list[float]:
    try:
        found = [float(each) for each in given]
    except ValueError:
        raise _wrong(text, "numbers") from None
    if not least <= len(found) <= most or not all(map(math.isfinite, found)):
        raise _wrong(text, f"{least} to {most} numbers" if least < most else f"{least} number")
    return found


def _wrong(text: str, wanted: str) -> InvalidInput:
    return InvalidInput(f"{text[:100]!r} is no representation", remedy=f"Write {wanted}.")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e16 else repr(value)


def _each(one: Callable[[str], str], values: Array) -> Array:
    found = np.empty(len(values), object)
    known: dict[str, str] = {}
    for at, value in enumerate(values.tolist()):
        folded = known.get(value)
        if folded is None:
            folded = known[value] = one(value)
        found[at] = folded
    return found
