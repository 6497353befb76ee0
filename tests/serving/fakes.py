"""What stands for a client's connection, and for a model, where a gateway is tested in-process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tidemill.models.signature import Batch
from tidemill.serving.replicas.replica import Done


class Transport(asyncio.Transport):
    """Keeps what is written; it takes all of it at once."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Replica:
    """Answers at once with what a function makes of a batch: the outputs, or the error."""

    capacity = 1
    on_loop = False
    in_flight = 0
    alive = True
    name = "fake"

    def __init__(self, predict: Callable[[Batch], Any]) -> None:
        self._predict = predict

    async def start(self) -> None:
        """Nothing to load."""

    def submit(self, batch: Batch, done: Done) -> None:
        done(self._predict(batch))

    def collect(self) -> None:
        """Has nothing out."""

    async def aclose(self) -> None:
        """Nothing to give back."""
