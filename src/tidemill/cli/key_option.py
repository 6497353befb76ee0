"""The flag ``--key``: the columns of a key, with commas."""

from __future__ import annotations

from tidemill.foundation.errors import InvalidInput


def key_columns(text: str | None) -> tuple[str, ...] | None:
    """Returns the columns that are named, in their order; None if none is.

    Raises:
        InvalidInput: a name is empty, or is there twice.

    Example:
        >>> key_columns("city, hour")
        ('city', 'hour')
    """
    if not text:
        return None
    names = tuple(part.strip() for part in text.split(","))
    if "" in names:
        raise InvalidInput(f"--key {text!r} names a column without a name", remedy="Name each.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"key column {twice!r} is named twice", remedy="Name it once.")
    return names
