"""A query on its way through the processor: one light record, filled in as it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np

from tidemill.foundation.errors import TidemillError
from tidemill.models.signature import Batch, Column
from tidemill.serving.row import Row

Source = Literal["table", "cache", "model", "default"]

FIRST_PRIORITY: Final = 1
DEFAULT_PRIORITY: Final = 5
LAST_PRIORITY: Final = 9
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


class Packed:
    """The rows of a query's one input as bytes, an array only for whoever needs one.

    Args:
        column: the input.
        data: its elements, of the column's own type, row by row.
        n: the number of rows.
    """

    __slots__ = ("column", "data", "n")

    def __init__(self, column: Column, data: bytes, n: int) -> None:
        self.column = column
        self.data = data
        self.n = n

    def arrays(self) -> Batch:
        """Returns the input as an array (n, …)."""
        column = self.column
        array = np.frombuffer(self.data, column.dtype)
        return {column.name: array.reshape((self.n, *column.shape))}


class Answers:
    """A whole batch, asked and answered, shared by the queries that were in it.

    ``texts`` holds each output's rows as whoever writes answers wants them, and ``written`` what
    each of these has made of them: once for all.
    """

    __slots__ = ("_blobs", "inputs", "outputs", "texts", "written")

    def __init__(self, inputs: Batch, outputs: Batch) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.texts: dict[str, list[bytes]] = {}
        self.written: dict[Any, Any] = {}
        self._blobs: dict[str, bytes] = {}

    def rows(self, column: Column, start: int, stop: int) -> bytes:
        """Returns some rows of an output that holds no text: its elements, as the column has them.

        They are little-endian, as is every machine that this runs on.
        """
        size = column.row_bytes
        return self._blob(column)[start * size : stop * size]

    def each_row(self, column: Column) -> list[bytes]:
        """Returns ``rows`` of each row alone."""
        blob, size = self._blob(column), column.row_bytes
        return [blob[at : at + size] for at in range(0, len(blob), size)]

    def _blob(self, column: Column) -> bytes:
        blob = self._blobs.get(column.name)
        if blob is None:
            array = self.outputs[column.name].astype(column.dtype, copy=False)
            blob = self._blobs[column.name] = array.tobytes()
        return blob


class Query:
    """What a client asked of an application, and, once ``done`` is called, how it ended.

    It ends exactly once: with ``outputs`` and a ``source``, or with an ``error``. It is what the
    ledger keeps of itself: a ``Prediction``. ``unseen_s`` is how long it had waited when it was
    read. ``plain`` is what was asked and answered, if both are one row of plain values.

    Args:
        inputs: checked arrays, (n, …) each, one per input of the signature; or one input, packed;
            or a row of plain values.
        n: the number of rows.
        arrived: when it arrived, in seconds on the monotonic clock.
        deadline: when an answer is worth nothing any more, on the same clock.
        done: called once, on the event loop's thread, when it has ended.
        context: whom to answer.
        request: what ``done`` needs to know of the request; it may be shared.
        event_time: the moment that the query is about (seconds since the epoch), if not now.
    """

    # What every query begins with stands here, not in each: a query is made for every request,
    # and most of it never changes. Hence no slots. What is read several times of each is quicker
    # to find in the query itself.
    request_id = ""
    application = ""
    version = 0
    time = 0.0
    source: Source = "model"
    answers: Answers | None = None
    start = 0
    refused = False
    hedged = False
    attempts = 0
    nbytes = 0
    notes: Notes | None = None
    cache_key: bytes | None = None
    table_rows: list[Batch | None] | None = None
    state: Any = None
    _outputs: Batch | None = None

    def __init__(  # noqa: PLR0917 - one is made for every request, and names take time
        self,
        inputs: Batch | Packed | Row,
        n: int,
        arrived: float,
        deadline: float,
        done: Callable[[Query], None],
        context: Any = None,
        request: Any = None,
        event_time: float | None = None,
    ) -> None:
        self.asked: Batch | Packed | Row = inputs
        self.n = n
        self.arrived = arrived
        self.deadline = deadline
        self.done = done
        self.context = context
        self.request = request
        self.event_time = event_time
        self.priority = DEFAULT_PRIORITY
        self.unseen_s = 0.0
        self.error: TidemillError | None = None
        self.ended = False
        self.row_sources: list[Source] | None = None
        self.plain: tuple[Row, Row] | None = None

    @property
    def inputs(self) -> Batch:
        """What was asked: arrays (n, …), one per input."""
        asked = self.asked
        if isinstance(asked, Packed | Row):
            asked = self.asked = asked.arrays()
        return asked

    @property
    def outputs(self) -> Batch:
        """The answer: arrays (n, …), one per output; empty while there is none."""
        if self._outputs is None:
            if self.answers is None:
                if self.plain is None:
                    return {}
                self._outputs = self.plain[1].arrays()
                return self._outputs
            start, stop = self.start, self.start + self.n
            arrays = self.answers.outputs
            self._outputs = {name: array[start:stop] for name, array in arrays.items()}
        return self._outputs

    @outputs.setter
    def outputs(self, outputs: Batch) -> None:
        self._outputs, self.answers, self.plain = outputs, None, None

    def with_outputs(self, outputs: Batch) -> Query:
        """Returns the same query with another answer; this one stays as it is."""
        other = Query(
            self.asked,
            self.n,
            self.arrived,
            self.deadline,
            self.done,
            self.context,
            self.request,
            self.event_time,
        )
        other.request_id = self.request_id
        other.application = self.application
        other.version = self.version
        other.time = self.time
        other.source = self.source
        other.refused = self.refused
        other.hedged = self.hedged
        other.attempts = self.attempts
        other.nbytes = self.nbytes
        other.notes = self.notes
        other.cache_key = self.cache_key
        other.table_rows = self.table_rows
        other.state = self.state
        other.priority = self.priority
        other.unseen_s = self.unseen_s
        other.error = self.error
        other.ended = self.ended
        other.row_sources = self.row_sources
        other.outputs = outputs
        return other

    def answer_plainly(self, said: Row) -> None:
        """Answers one row of plain values with another."""
        assert isinstance(self.asked, Row)
        self.plain = self.asked, said

    def answer_as(self, other: Query) -> None:
        """Makes the answer to an equal query its own."""
        self.answers, self.start, self._outputs = other.answers, other.start, other._outputs
