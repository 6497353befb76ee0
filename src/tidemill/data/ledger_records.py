"""What the ledger keeps: predictions as they were answered, and the labels that came back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from tidemill.data.ledger_floats import Columns, FloatRows
from tidemill.foundation.errors import Corrupted

StoredRows = Sequence[Sequence[Any]] | FloatRows
"""What is stored of each row of a batch, as ``PlainRow.stored`` has it."""


class Shared(Protocol):
    """A batch that several predictions were part of: one array per column, (rows, …)."""

    @property
    def inputs(self) -> Columns:
        """What was asked."""

    @property
    def outputs(self) -> Columns:
        """What was answered."""


class PlainRow(Protocol):
    """One row of plain values, as the ledger keeps it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in order."""

    @property
    def stored(self) -> Sequence[Any]:
        """A value for each column; where one of them is an array, a list of one row for each."""


class Prediction(Protocol):
    """One answered query: what was asked, what was answered, by whom and when.

    It is encoded when it is appended, so that all of it may be reused after that.
    """

    @property
    def request_id(self) -> bytes | str:
        """The 16 bytes of an id, or their 32 hexadecimal digits."""

    @property
    def time(self) -> float:
        """When it was answered, seconds since the epoch."""

    @property
    def event_time(self) -> float | None:
        """The moment that the query is about, if not ``time``."""

    @property
    def application(self) -> str:
        """What the client queried."""

    @property
    def version(self) -> int:
        """The model version whose answer it is; 0 for a default."""

    @property
    def source(self) -> str:
        """Where the answer came from."""

    @property
    def row_sources(self) -> Sequence[str] | None:
        """Where each row came from, if not all from one source."""

    @property
    def n(self) -> int:
        """The number of rows."""

    @property
    def answers(self) -> Shared | None:
        """The batch that it was part of, with its n rows from ``start`` on, if it is known."""

    @property
    def start(self) -> int:
        """Where its rows begin in ``answers``."""

    @property
    def plain(self) -> tuple[PlainRow, PlainRow] | None:
        """What was asked and answered, if it is one row and known without arrays."""

    @property
    def inputs(self) -> Columns:
        """One array per input column, (n, …)."""

    @property
    def outputs(self) -> Columns:
        """One array per output column, (n, …)."""


class PredictionRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A ``Prediction`` as a plain record."""

    request_id: bytes | str
    time: float
    application: str
    version: int
    source: str
    n: int
    inputs: Columns
    outputs: Columns
    event_time: float | None = None
    row_sources: Sequence[str] | None = None
    answers: Shared | None = None
    start: int = 0
    plain: tuple[PlainRow, PlainRow] | None = None


class PlainRows(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Answered queries of one row of plain values each, which share all but that and their ids.

    Args:
        application: what the clients queried.
        version: the model version whose answers they are.
        source: where the answers came from.
        time: when they were answered, seconds since the epoch.
        ids: of each, 32 hexadecimal digits.
        columns: the names of what was asked, and of what was answered.
        asked: of each query, as ``PlainRow.stored`` has it.
        said: likewise.
    """

    application: str
    version: int
    source: str
    time: float
    ids: Sequence[str]
    columns: tuple[tuple[str, ...], tuple[str, ...]]
    asked: StoredRows
    said: StoredRows


class LabelRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """What one prediction turned out to be.

    Args:
        prediction_id: ``hex32``, or ``hex32-ROW`` for one row of a batch.
        application: the application that the label was sent to.
        label: the truth.
        observed_at: when the truth was known, seconds since the epoch.
        received_at: when it was received here.
        key: the name of the API key that brought it, where keys are needed.

    Example:
        >>> record = LabelRecord(
        ...     prediction_id="0" * 32, application="flights", label=True,
        ...     observed_at=1.0, received_at=2.0)
        >>> record.label
        True
    """

    prediction_id: str
    application: str
    label: bool | int | float | str
    observed_at: float
    received_at: float
    key: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the ledger whose bytes are not what was written.

    Everything outside ``offset`` … ``offset + size_bytes`` of that file was read.
    """

    segment: str
    offset: int
    size_bytes: int
    what: str

    def error(self) -> Corrupted:
        """Returns the problem as an error, for a caller who cannot go on without those bytes."""
        return Corrupted(
            f"ledger segment {self.segment} is damaged at offset {self.offset} "
            f"({self.size_bytes} bytes): {self.what}",
            remedy="Restore the segment from a backup; the rest of the ledger can be read.",
        )


def prediction_ids(request_id: bytes | str, n: int) -> list[str]:
    """Returns the ids of a request's predictions: its own, with the row's number in a batch.

    Example:
        >>> prediction_ids(bytes(16), 1) == ["0" * 32]
        True
        >>> prediction_ids("ab", 2)
        ['ab-0', 'ab-1']
    """
    text = request_id if isinstance(request_id, str) else request_id.hex()
    return [text] if n == 1 else [f"{text}-{row}" for row in range(n)]
