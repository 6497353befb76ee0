"""How old a table is, and when it is too old to answer: purely, of the times that are given."""

from __future__ import annotations

from tidemill.tables.table import TableInfo


def born_at(info: TableInfo) -> float:
    """Returns when a table's rows were read; where that was not kept, when the table was whole."""
    return info.built_at if info.as_of is None else info.as_of


def age_s(info: TableInfo, now: float) -> float:
    """Returns how many seconds ago a table's rows were read; never less than none.

    Example:
        >>> info = TableInfo(application="a", model="m", version=1, key=(), built_at=100.0)
        >>> age_s(info, now=160.0), age_s(info, now=40.0)
        (60.0, 0.0)
    """
    return max(0.0, now - born_at(info))


def stale_from(info: TableInfo, max_age_s: float | None) -> float | None:
    """Returns the moment from which on a table answers nothing; None for never.

    Args:
        info: of the table.
        max_age_s: how old its answers may be; None for any age.

    Returns:
        Seconds since the epoch.

    Example:
        >>> info = TableInfo(application="a", model="m", version=1, key=(), built_at=100.0)
        >>> stale_from(info, 60.0), stale_from(info, None)
        (160.0, None)
    """
    return None if max_age_s is None else born_at(info) + max_age_s
