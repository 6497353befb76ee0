"""What clients of an edge may do."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may send, and how long it may take."""

    max_header_bytes: int = 32 << 10
    max_body_bytes: int = 8 << 20
    max_connections: int = 10_000
    idle_timeout_s: float = 75.0
    read_timeout_s: float = 15.0
    max_held_bytes: int = 256 << 20
