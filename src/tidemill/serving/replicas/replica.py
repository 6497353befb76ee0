"""What a replica promises to the batcher."""

from __future__ import annotations

from typing import Protocol

from tidemill.foundation.errors import TidemillError
from tidemill.models.signature import Batch


class Done(Protocol):
    """Called exactly once per batch, on the event loop's thread."""

    def __call__(self, result: Batch | TidemillError, took_s: float = 0.0, /) -> None:
        """Takes the answers, or what went wrong.

        Args:
            result: the one or the other.
            took_s: how long the model alone took, where the replica knows; else 0.
        """


class Replica(Protocol):
    """One loaded copy of a model version. All methods are called on the event loop's thread."""

    @property
    def name(self) -> str:
        """Says where it is, for traces and logs."""

    @property
    def alive(self) -> bool:
        """Says whether it can take a batch; a dead one comes back only where it says so itself."""

    @property
    def on_loop(self) -> bool:
        """Says whether it computes on the event loop, and nothing else runs meanwhile."""

    @property
    def capacity(self) -> int:
        """How many batches may be out at once."""

    @property
    def in_flight(self) -> int:
        """How many batches are out now."""

    async def start(self) -> None:
        """Loads or connects; ready for batches on return.

        Raises:
            TidemillError: it could not be loaded or reached.
        """

    def submit(self, batch: Batch, done: Done) -> None:
        """Takes a batch of arrays (n, …); ``done`` may be called before this returns.

        A replica that dies calls every outstanding ``done`` with ``WorkerLost``, at once.
        """

    def collect(self) -> None:
        """Calls ``done`` at once for what has come back, where that need not be waited for."""

    async def aclose(self) -> None:
        """Lets what is in flight finish, then gives everything back."""
