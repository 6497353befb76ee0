"""What clients of an edge may do, and what its connections have in common."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Protocol

import msgspec

from tidemill.foundation.clock import Clock
from tidemill.foundation.instruments import Counter, Family
from tidemill.serving.cors import Cors
from tidemill.serving.exchange import Head, Load, Routes
from tidemill.serving.guard import Guard
from tidemill.serving.hosts import Hosts
from tidemill.serving.pace import Pace


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may send, and how long it may take."""

    max_header_bytes: int = 32 << 10
    max_body_bytes: int = 8 << 20
    max_connections: int = 10_000
    idle_timeout_s: float = 75.0
    read_timeout_s: float = 15.0
    max_held_bytes: int = 256 << 20


class Shared(Protocol):
    """What the connections of one edge have in common; see ``Edge``."""

    routes: Routes
    limits: Limits
    clock: Clock
    guard: Guard | None
    cors: Cors | None
    hosts: Hosts | None
    pace: Pace | None
    load: Load
    refused: Family[Counter]
    heads: dict[bytes, tuple[Head, int]]
    connections: OrderedDict[Any, None]
    coders: Executor
    draining: bool
    log: Any

    @property
    def arrival(self) -> Callable[[], float]:
        """Tells when what is read now arrived."""

    def remember(self, head_bytes: bytes, head: Head, body_bytes: int) -> None:
        """Keeps what the parser made of a whole head whose body is framed by its length."""
