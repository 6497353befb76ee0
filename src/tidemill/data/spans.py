"""Patterns of paths that name spans of data and their versions, as TFX's ExampleGen has them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from tidemill.data.records import Anomaly
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.names import storable

_SPEC = re.compile(r"\{(SPAN|VERSION)(?::([1-9]\d?))?\}|\{(YYYY|MM|DD)\}|(\*\*?|\?)")
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A pattern of paths.

    Attributes:
        text: as it was given.
        glob: finds every path that may match, and others.
        regex: matches the whole of a path; its groups name span and version.
    """

    text: str
    glob: str
    regex: re.Pattern[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The paths of the newest span's newest version.

    Attributes:
        span: its number; of a date, the days since 1970-01-01.
        version: its number; None where the pattern names none.
        paths: sorted.
    """

    span: int
    version: int | None
    paths: tuple[str, ...]


def is_pattern(text: str) -> bool:
    """Tells whether a path names a span.

    Example:
        >>> is_pattern("data/span-{SPAN}/*.csv"), is_pattern("data/{x}.csv")
        (True, False)
    """
    return re.search(r"\{(SPAN|VERSION|YYYY|MM|DD)(:[^}]*)?\}", text) is not None


def read_pattern(text: str) -> Pattern:
    """Returns a pattern: ``{SPAN}`` or ``{YYYY}``, ``{MM}`` and ``{DD}``, perhaps ``{VERSION}``.

    ``{SPAN:4}`` is a number of four digits, padded with zeros. ``*`` and ``?`` stand for a part of
    a name, never for a separator.

    Raises:
        InvalidInput: it names neither span nor date, both, one of them twice, or a version alone.

    Example:
        >>> read_pattern("in/{YYYY}-{MM}-{DD}/v{VERSION}.csv").glob
        'in/*-*-*/v*.csv'
    """
    names, glob, regex = _translated(text)
    rest = is_pattern(_SPEC.sub("", text))
    if rest or sorted(set(names) - {"VERSION"}) not in (["SPAN"], ["DD", "MM", "YYYY"]):
        wrong = True
    else:
        wrong = len(names) != len(set(names))
    if wrong:
        raise InvalidInput(
            f"pattern {text[:200]!r} does not name a span once",
            remedy="Use {SPAN}, or {YYYY}, {MM} and {DD}, each once, and at most one {VERSION}.",
        )
    return Pattern(text=text, glob=glob, regex=re.compile(regex))


def resolve(pattern: Pattern, paths: Iterable[str]) -> Resolved:
    """Returns those of the paths that are of the largest span, and in it of the largest version.

    Raises:
        NotFound: none matches.
        InvalidInput: one names a day that is in no calendar.
    """
    found: dict[tuple[int, int], list[str]] = {}
    versioned = "VERSION" in pattern.regex.groupindex
    for path in paths:
        match = pattern.regex.fullmatch(path)
        if match is not None:
            version = int(match["VERSION"]) if versioned else 0
            found.setdefault((_span(match, path), version), []).append(path)
    if not found:
        raise NotFound(f"nothing matches {pattern.text!r}", remedy="Check the pattern.")
    span, version = max(found)
    return Resolved(
        span=span, version=version if versioned else None, paths=tuple(sorted(found[span, version]))
    )


def read_glob(text: str) -> tuple[str, re.Pattern[str]]:
    """Returns a glob and what matches whole what it means: ``*`` and ``?`` stay within a name.

    Example:
        >>> read_glob("in/*.csv")[1].fullmatch("in/more/a.csv") is None
        True
    """
    _, glob, regex = _translated(text)
    return glob, re.compile(regex)


def span_note(text: str, found: Resolved) -> Anomaly:
    """Returns what a reader should know of the span that was chosen."""
    what = f"span {found.span}" + ("" if found.version is None else f", version {found.version}")
    return Anomaly(
        kind="newest_span",
        severity="info",
        message=storable(f"{text} is {what}: {len(found.paths)} paths"),
    )


def _translated(text: str) -> tuple[list[str], str, str]:
    """Returns the names in a pattern, a glob and a regular expression."""
    names: list[str] = []
    glob, regex, at = "", "", 0
    for found in _SPEC.finditer(text):
        plain = text[at : found.start()]
        at = found.end()
        number, width, part, wild = found.groups()
        glob += _escaped(plain) + ("*" if wild != "?" else "?")
        regex += re.escape(plain)
        if wild:
            regex += "[^/]" if wild == "?" else "[^/]*"
            continue
        name = number or part
        names.append(name)
        digits = "{4}" if part == "YYYY" else "{2}" if part else f"{{{width}}}" if width else "+"
        if names.count(name) == 1:
            regex += rf"(?P<{name}>[0-9]{digits})"
    glob += _escaped(text[at:])
    regex += re.escape(text[at:])
    return names, glob, regex


def _span(match: re.Match[str], path: str) -> int:
    if "SPAN" in match.re.groupindex:
        return int(match["SPAN"])
    try:
        day = date(int(match["YYYY"]), int(match["MM"]), int(match["DD"]))
    except ValueError as error:
        raise InvalidInput(f"{path} names no day: {error}", remedy="Rename it.") from error
    return (day - _EPOCH).days


def _escaped(text: str) -> str:
    return re.sub(r"([\[\]])", r"[\1]", text)
