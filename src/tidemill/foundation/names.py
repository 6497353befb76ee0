"""Names and identifiers: one pattern for everything that may touch a path, a URL or a metric."""

from __future__ import annotations

import difflib
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from tidemill.foundation.errors import InvalidInput

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")


def check_name(kind: str, value: str) -> str:
    """Returns the name if it may be used as one, else says what a name looks like.

    Args:
        kind: what is named ("model", "dataset"), for the error.
        value: the name.

    Raises:
        InvalidInput: the name does not match ``[A-Za-z0-9][A-Za-z0-9_.-]{0,99}``.

    Example:
        >>> check_name("model", "flights")
        'flights'
    """
    if not NAME.match(value) or ".." in value:
        raise InvalidInput(
            f"{kind} name {value[:120]!r} is not allowed",
            remedy="Use letters, digits, '_', '-' and '.', at most 100, starting with a letter "
            "or a digit, without '..'.",
        )
    return value


def storable(value: Path | str) -> str:
    r"""Returns a path or text as every store and JSON can hold it: the rest is spelled out.

    Example:
        >>> storable(Path("caf\udce9.csv"))
        'caf\\udce9.csv'
    """
    return str(value).encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns a remedy for an unknown word: the known one that it resembles, else all of them.

    Example:
        >>> nearest("slo_sm", ["slo_ms", "key"])
        'Did you mean slo_ms?'
    """
    words = list(known)
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"Did you mean {found[0]}?" if found else f"Known: {', '.join(words) or 'none'}."


def new_id() -> str:
    """Returns a random identifier of 128 bits as 32 hexadecimal digits."""
    return secrets.token_hex(16)
