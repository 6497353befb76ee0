"""Prints one JSON object for programs: loads nothing for people's terminals."""

from __future__ import annotations

import sys
from json import dumps
from typing import Any

import msgspec


def print_json(record: Any) -> None:
    """Prints one JSON object and nothing else."""
    try:
        line = msgspec.json.encode(record)
    except UnicodeEncodeError:  # half a character, as in a path that is no UTF-8
        line = dumps(msgspec.to_builtins(record)).encode()
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()
