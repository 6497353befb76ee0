"""A query on its way through the processor: one light record, filled in as it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from tidemill.foundation.errors import TidemillError
from tidemill.models.signature import Batch

Source = Literal["table", "cache", "model", "default"]


class Query:
    """What a client asked of an application, and, once ``done`` is called, how it ended.

    It ends exactly once: with ``outputs`` and a ``source``, or with an ``error``.

    Args:
        inputs: checked arrays, (n, …) each, one per input of the signature.
        n: the number of rows.
        arrived: when it arrived, in seconds on the monotonic clock.
        deadline: when an answer is worth nothing any more, on the same clock.
        done: called once, on the event loop's thread, when it has ended.
        context: whatever ``done`` needs to answer the client.
        event_time: the moment that the query is about (seconds since the epoch), if not now.
    """

    __slots__ = (
        "arrived",
        "attempts",
        "cache_key",
        "context",
        "deadline",
        "done",
        "ended",
        "error",
        "event_time",
        "inputs",
        "n",
        "nbytes",
        "outputs",
        "refused",
        "request_id",
        "row_sources",
        "source",
        "state",
        "table_rows",
        "version",
    )

    def __init__(
        self,
        *,
        inputs: Batch,
        n: int,
        arrived: float,
        deadline: float,
        done: Callable[[Query], None],
        context: Any = None,
        event_time: float | None = None,
    ) -> None:
        self.inputs = inputs
        self.n = n
        self.arrived = arrived
        self.deadline = deadline
        self.done = done
        self.context = context
        self.event_time = event_time
        self.request_id = ""
        self.version = 0
        self.source: Source = "model"
        self.row_sources: list[Source] | None = None
        self.outputs: Batch = {}
        self.error: TidemillError | None = None
        self.ended = False
        self.refused = False
        self.attempts = 0
        self.nbytes = 0
        self.cache_key: bytes | None = None
        self.table_rows: list[Batch | None] | None = None
        self.state: Any = None
