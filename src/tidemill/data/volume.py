"""Whether a batch is of the size that batches of its dataset have."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tidemill.data.schema import DatasetRules

WINDOW = 10
"""How many earlier ingests are looked at, where a schema doesn't say."""


def off_volume(rules: DatasetRules | None, rows: int, earlier: Sequence[int]) -> str | None:
    """Returns why a batch is held for its size, and what to do; None if it isn't.

    Args:
        rules: what the schema says about rows as a whole.
        rows: how many the batch has.
        earlier: how many earlier batches had, the oldest first; without any, no batch is held.

    Example:
        >>> off_volume(DatasetRules(batch_min_ratio=0.5), 60, [100, 100, 4000]) is None
        True
        >>> off_volume(DatasetRules(batch_min_ratio=0.5), 40, [100, 100, 4000])[:47]
        '40 rows are 0.4 of the median of 3 ingests, 100'
    """
    if rules is None or not earlier:
        return None
    last = earlier[-(rules.batch_window or WINDOW) :]
    usual = median(last)
    ratio = rows / usual
    least, most = rules.batch_min_ratio, rules.batch_max_ratio
    if least is not None and ratio < least:
        bound, key = f"at least {least:g} of it is asked for", "batch_min_ratio"
    elif most is not None and ratio > most:
        bound, key = f"at most {most:g} of it is allowed", "batch_max_ratio"
    else:
        return None
    return (
        f"{rows} rows are {ratio:.3g} of the median of {len(last)} ingests, {usual:g}; {bound}. "
        f"Release them, or change {key} in the schema and ingest them again."
    )
