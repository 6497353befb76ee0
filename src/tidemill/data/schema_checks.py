"""Which rules of a column can be meant: what fits neither its type nor another rule is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

MAX_PATTERN = 10_000


def check_names(what: str, names: Iterable[str]) -> None:
    """Checks that no name is there twice.

    Raises:
        ValueError: one is.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {name!r} is there twice")
        seen.add(name)


def check_column(column: Any) -> None:
    """Checks that the rules of a ``Column`` can be met; without a type, those that need none.

    Raises:
        ValueError: they can't.
    """
    name = column.name
    most = column.max_missing_fraction
    if most is not None and math.isnan(most):
        raise ValueError(f"max_missing_fraction of column {name!r} must be a number")
    for less, more in (("min_values", "max_values"), ("min_unique", "max_unique")):
        low, high = getattr(column, less), getattr(column, more)
        if low is not None and high is not None and low > high:
            raise ValueError(f"column {name!r} has {less} {low} over {more} {high}")
    both = set(column.in_environment) & set(column.not_in_environment)
    if both:
        raise ValueError(f"column {name!r} is in and not in environment {min(both)!r}")
    if column.pattern is not None:
        _check_pattern(name, column.pattern)
    if column.type is not None:
        _check_range(column)
        _check_domain(column)
        _check_rest(column)


def _check_range(column: Any) -> None:
    bounds = [bound for bound in (column.min, column.max) if bound is not None]
    kind: Any = datetime if column.type == "timestamp" else (int, float)
    numbers = column.type == "string" and column.domain in ("int", "float")
    if bounds and column.type not in ("int64", "float64", "timestamp") and not numbers:
        raise ValueError(f"column {column.name!r} is {column.type}: it has no min or max")
    if any(not isinstance(bound, kind) or isinstance(bound, bool) for bound in bounds):
        raise ValueError(f"min and max of column {column.name!r} must be of type {column.type}")
    if any(isinstance(bound, float) and not math.isfinite(bound) for bound in bounds):
        raise ValueError(f"min and max of column {column.name!r} must be finite")
    if any(isinstance(bound, datetime) and bound.tzinfo is None for bound in bounds):
        raise ValueError(f"min and max of column {column.name!r} need a time zone, such as Z")
    if len(bounds) == 2 and bounds[0] > bounds[1]:
        raise ValueError(f"column {column.name!r} has min {bounds[0]} over max {bounds[1]}")


def _check_domain(column: Any) -> None:
    name, values = column.name, column.values
    if values is not None and column.type not in ("string", "int64"):
        raise ValueError(f"column {name!r} is {column.type}: only strings and int64 have values")
    kind = int if column.type == "int64" else str
    if any(not isinstance(value, kind) for value in values or ()):
        raise ValueError(f"values of column {name!r} must be of type {column.type}")
    if column.domain_strict and values is None:
        raise ValueError(f"column {name!r} is domain_strict and has no values")
    if column.min_domain_mass is not None and values is None:
        raise ValueError(f"column {name!r} has min_domain_mass and no values")
    if column.pattern is not None and column.type != "string":
        raise ValueError(f"column {name!r} is {column.type}: only strings have a pattern")
    if column.domain is not None and column.type in ("bool", "timestamp"):
        raise ValueError(f"column {name!r} is {column.type}: it has no other domain")
    if column.domain in ("int", "float") and column.type != "string":
        raise ValueError(f"column {name!r} is {column.type}: only strings can be numbers besides")


def _check_rest(column: Any) -> None:
    name = column.name
    if (column.allow_nan or column.allow_inf) and column.type != "float64":
        raise ValueError(f"column {name!r} is {column.type}: it has neither NaN nor infinity")
    for what in ("drift", "skew"):
        limits = getattr(column, what)
        if limits is None or column.type in ("int64", "float64", "timestamp"):
            continue
        if limits.ks is not None or limits.wasserstein is not None:
            raise ValueError(
                f"{what} of column {name!r}: ks and wasserstein need an order, and "
                f"{column.type} has none"
            )


def _check_pattern(name: str, pattern: str) -> None:
    import pyarrow as pa  # noqa: PLC0415 - rarely needed, and slow to import
    import pyarrow.compute as pc  # noqa: PLC0415

    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"pattern of column {name!r} is longer than {MAX_PATTERN} characters")
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except (pa.ArrowInvalid, UnicodeEncodeError) as error:
        raise ValueError(f"pattern of column {name!r} is no regular expression: {error}") from None
