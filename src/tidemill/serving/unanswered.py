"""Says why a query is not answered in time, to whoever asked it."""

from __future__ import annotations

from tidemill.foundation.errors import DeadlineExceeded, Overloaded


def full_queue(what: str, waiting: int, most: int, *, smaller: str = "") -> Overloaded:
    """Returns the error of a query that the queue has no room for, by rows or by bytes."""
    return Overloaded(
        f"the queue is full: {waiting} {what} wait, {most} may",
        remedy=f"Send fewer {smaller}queries, or add replicas.",
    )


def impossible(allowed_s: float, rows: int, *, most: int, batch_s: float) -> DeadlineExceeded:
    """Returns the error of a query that so many rows are ahead of, in batches of ``most``."""
    return DeadlineExceeded(
        f"an answer is not possible within {ms(allowed_s)} ms: {rows} rows wait and a batch of "
        f"{most} takes {ms(batch_s)} ms",
        remedy="Allow more time, send less, or add replicas.",
    )


def too_late(allowed_s: float, waited_s: float) -> DeadlineExceeded:
    """Returns the error of a query that has waited in vain."""
    return DeadlineExceeded(
        f"no answer within {ms(allowed_s)} ms (waited {ms(waited_s)} ms)",
        remedy="Allow more time, send less, or add replicas.",
    )


def ms(seconds: float) -> str:
    """Returns a time in milliseconds, as people read it."""
    return f"{max(0.0, seconds) * 1000:.1f}"
