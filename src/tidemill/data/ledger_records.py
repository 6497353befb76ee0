"""What the ledger keeps: predictions as they were answered, and the labels that came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from numpy.typing import NDArray

from tidemill.foundation.errors import Corrupted


class PredictionRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One answered query: what was asked, what was answered, by whom and when.

    Args:
        request_id: the 16 bytes of an id, or their 32 hexadecimal digits.
        time: when it was answered, seconds since the epoch.
        application: what the client queried.
        version: the model version whose answer it is; 0 for a default.
        source: where the answer came from, for all rows or for each row.
        n: the number of rows.
        inputs: one array per input column, (n, …).
        outputs: one array per output column, (n, …).
        event_time: the moment that the query is about, if not ``time``.

    The arrays are encoded when the record is appended, so they may be reused after that.
    """

    request_id: bytes | str
    time: float
    application: str
    version: int
    source: str | Sequence[str]
    n: int
    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]
    event_time: float | None = None


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
