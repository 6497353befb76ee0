"""Splits: rows into named parts, disjoint and complete, the same on every machine.

``fractions`` maps each part's name to its share, in order; the shares add up to 1. Rows keep their
order inside a part. With hashes a part's size is its share on average, and a row stays in its part
whatever other rows come or go; with time the parts are cut as near the shares as whole instants
allow, earliest first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tidemill.data.frames import as_table
from tidemill.data.keys import hash_rows
from tidemill.data.mixing import mix
from tidemill.foundation.errors import InvalidInput

Fractions = Mapping[str, float]


def split_by_hash(
    data: Any, columns: Sequence[str], fractions: Fractions, *, seed: int = 0
) -> dict[str, pa.Table]:
    """Splits by the hash of some columns: rows equal in them are in the same part.

    Args:
        data: an Arrow table, or a Polars or pandas frame; parts are Arrow tables.
        columns: what is hashed, in this order.
        fractions: the share of each part.
        seed: another one gives other parts.

    Raises:
        InvalidInput: a column isn't there, or the fractions don't add up to 1.

    Example:
        >>> rows = pa.table({"id": list(range(1000))})
        >>> parts = split_by_hash(rows, ["id"], {"train": 0.8, "eval": 0.2})
        >>> parts["train"].num_rows + parts["eval"].num_rows
        1000
    """
    table = _taken(as_table(data))
    if not columns:
        raise InvalidInput("no column to split by", remedy="Name at least one.")
    _check_columns(table, columns)
    hashes = hash_rows(table, columns)[:, 0]
    salt = mix(np.asarray([seed], np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    places = (mix(hashes ^ salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53  # in [0, 1)
    return _cut(table, places, fractions)


def split_by_group(
    data: Any, column: str, fractions: Fractions, *, seed: int = 0
) -> dict[str, pa.Table]:
    """Splits whole groups: all rows with one value of the column are in the same part.

    Raises:
        InvalidInput: the column isn't there, or the fractions don't add up to 1.
    """
    return split_by_hash(data, [column], fractions, seed=seed)


def split_by_time(data: Any, column: str, fractions: Fractions) -> dict[str, pa.Table]:
    """Splits by time, earliest part first: no part has a row as early as the part before it.

    Raises:
        InvalidInput: the column isn't there, isn't a number or a time, or has a row without
            value; or the fractions don't add up to 1.
    """
    table = _taken(as_table(data))
    _check_columns(table, [column])
    values = table.column(column)
    if not (pa.types.is_temporal(values.type) or pa.types.is_primitive(values.type)):
        raise InvalidInput(
            f"column {column!r} is {values.type}, not a time", remedy="Name a timestamp or number."
        )
    if values.null_count:
        raise InvalidInput(
            f"{values.null_count} rows have no {column}", remedy="Take them out before splitting."
        )
    moments, inverse = np.unique(values.to_numpy(), return_inverse=True)
    before = np.cumsum(np.bincount(inverse, minlength=len(moments))) - np.bincount(
        inverse, minlength=len(moments)
    )
    middle = before + 0.5 * np.bincount(inverse, minlength=len(moments))
    return _cut(table, (middle / max(table.num_rows, 1))[inverse], fractions)


def _taken(table: pa.Table) -> pa.Table:
    """Returns a table of which rows can be taken; of Polars' views of text Arrow takes none."""
    for place, column in enumerate(table.schema):
        if pa.types.is_string_view(column.type):
            texts = table.column(place).cast(pa.large_string())
            table = table.set_column(place, column.name, texts)
    return table


def _cut(
    table: pa.Table, places: npt.NDArray[np.float64], fractions: Fractions
) -> dict[str, pa.Table]:
    names = _check_fractions(fractions)
    edges = np.cumsum([fractions[name] for name in names])[:-1]
    parts = np.searchsorted(edges, places, side="right")
    return {name: table.take(np.flatnonzero(parts == i)) for i, name in enumerate(names)}


def _check_fractions(fractions: Fractions) -> list[str]:
    shares = list(fractions.values())
    if not shares or min(shares) < 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-9):
        raise InvalidInput(
            f"fractions {dict(fractions)} do not add up to 1", remedy="Use shares such as 0.8, 0.2."
        )
    return list(fractions)


def _check_columns(table: pa.Table, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in table.column_names:
            raise InvalidInput(
                f"there is no column {column!r}",
                remedy=f"Columns: {', '.join(table.column_names[:30])}.",
            )
