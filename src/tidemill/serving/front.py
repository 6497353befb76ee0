"""What speaks with the clients of a gateway, whatever the protocol, and what stands behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tidemill.foundation.clock import Clock
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.settings import ServeSettings
from tidemill.serving.dataplane import DataPlane
from tidemill.serving.extensions import Extensions
from tidemill.serving.guard import Guard
from tidemill.serving.pace import Pace
from tidemill.serving.processor import Processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What a front hands requests to: the same for every protocol."""

    processor: Processor
    plane: DataPlane
    extensions: Extensions
    instruments: Instruments
    guard: Guard
    pace: Pace
    clock: Clock
    serve: ServeSettings


class Front(Protocol):
    """Speaks with clients on one socket, from ``open`` until ``drain`` has returned."""

    def start(self) -> None:
        """Begins to watch the time; nobody is let in yet."""

    async def open(self) -> None:
        """Lets clients in."""

    async def drain(self, timeout_s: float) -> None:
        """Lets nobody else in, and requests in flight end, for at most so long."""
