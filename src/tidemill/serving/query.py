"""A query on its way through the processor: one light record, filled in as it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from tidemill.foundation.errors import TidemillError
from tidemill.models.signature import Batch

Source = Literal["table", "cache", "model", "default"]

FIRST_PRIORITY, DEFAULT_PRIORITY, LAST_PRIORITY = 1, 5, 9
"""Levels of priority: who is served first, who says nothing, who can wait."""


class Notes:
    """When a query's batch went out and came back, how large it was, and where it went."""

    __slots__ = ("batch", "replica", "returned", "rows", "sent")

    def __init__(self, *, batch: int, rows: int, replica: str, sent: float) -> None:
        self.batch = batch
        self.rows = rows
        self.replica = replica
        self.sent = sent
        self.returned: float | None = None


class Answers:
    """The outputs of a whole batch, shared by the queries that were in it.

    ``texts`` holds each output's rows as whoever writes answers wants them, made once for all.
    """

    __slots__ = ("arrays", "texts")

    def __init__(self, arrays: Batch) -> None:
        self.arrays = arrays
        self.texts: dict[str, list[bytes]] = {}


class Query:
    """What a client asked of an application, and, once ``done`` is called, how it ended.

    It ends exactly once: with ``outputs`` and a ``source``, or with an ``error``. ``priority`` is
    the level that the client asked for.

    Args:
        inputs: checked arrays, (n, …) each, one per input of the signature.
        n: the number of rows.
        arrived: when it arrived, in seconds on the monotonic clock.
        deadline: when an answer is worth nothing any more, on the same clock.
        done: called once, on the event loop's thread, when it has ended.
        context: whom to answer.
        request: what ``done`` needs to know of the request; it may be shared.
        event_time: the moment that the query is about (seconds since the epoch), if not now.
    """

    __slots__ = (
        "_outputs",
        "answers",
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
        "notes",
        "priority",
        "refused",
        "request",
        "request_id",
        "row_sources",
        "source",
        "start",
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
        request: Any = None,
        event_time: float | None = None,
    ) -> None:
        self.inputs = inputs
        self.n = n
        self.arrived = arrived
        self.deadline = deadline
        self.done = done
        self.context = context
        self.request = request
        self.event_time = event_time
        self.priority = DEFAULT_PRIORITY
        self.request_id = ""
        self.version = 0
        self.source: Source = "model"
        self.row_sources: list[Source] | None = None
        self.answers: Answers | None = None
        self.start = 0
        self._outputs: Batch | None = None
        self.error: TidemillError | None = None
        self.ended = False
        self.refused = False
        self.attempts = 0
        self.nbytes = 0
        self.notes: Notes | None = None
        self.cache_key: bytes | None = None
        self.table_rows: list[Batch | None] | None = None
        self.state: Any = None

    @property
    def outputs(self) -> Batch:
        """The answer: arrays (n, …), one per output; empty while there is none."""
        if self._outputs is None:
            if self.answers is None:
                return {}
            start, stop = self.start, self.start + self.n
            arrays = self.answers.arrays
            self._outputs = {name: array[start:stop] for name, array in arrays.items()}
        return self._outputs

    @outputs.setter
    def outputs(self, outputs: Batch) -> None:
        self._outputs, self.answers = outputs, None

    def answer_as(self, other: Query) -> None:
        """Makes the answer to an equal query its own."""
        self.answers, self.start, self._outputs = other.answers, other.start, other._outputs

    def answer_from(self, answers: Answers, start: int) -> None:
        """Makes the rows from ``start`` on of a batch's outputs its own."""
        self.answers, self.start, self._outputs = answers, start, None
