"""Values as TOML: what the standard library reads back as an equal value."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_key(name: str) -> str:
    """Returns a key, quoted if it has to be.

    Example:
        >>> toml_key("slo_ms"), toml_key("a b")
        ('slo_ms', '"a b"')
    """
    return name if _BARE.fullmatch(name) else toml_value(name)


def toml_value(value: object) -> str:
    """Returns a value as it stands after ``key =``; None has no place in TOML.

    Example:
        >>> toml_value({"kind": "weighted", "shares": (0.5, 1), "on": True})
        '{ kind = "weighted", shares = [0.5, 1], on = true }'
    """
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{toml_key(str(k))} = {toml_value(v)}" for k, v in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, bool | int | str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    raise TypeError(f"{type(value).__name__} has no place in TOML")
