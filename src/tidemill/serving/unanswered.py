"""Says why a query is not answered in time, to whoever asked it."""

from __future__ import annotations

from tidemill.foundation.errors import DeadlineExceeded, Overloaded

_TIMERS_S = 0.001
"""Whoever has waited for all the time that was allowed was ended by a timer, about then."""


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
    """Returns the error of a query that has waited in vain: to the end, or until that was sure.

    Example:
        >>> too_late(0.02, 0.02).what
        'no answer within 20.0 ms'
        >>> too_late(0.02, 0.011).what
        'too late for an answer within 20.0 ms: given up after 11.0 ms'
    """
    what = f"no answer within {ms(allowed_s)} ms"
    if allowed_s - waited_s > _TIMERS_S:
        what = f"too late for an answer within {ms(allowed_s)} ms: given up after {ms(waited_s)} ms"
    return DeadlineExceeded(
        what,
        remedy="Allow more time, send less, or add replicas.",
    )


def ms(seconds: float) -> str:
    """Returns a time in milliseconds, as people read it."""
    return f"{max(0.0, seconds) * 1000:.1f}"
