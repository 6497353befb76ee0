"""The rows that statistics are measured on: twenty mixed columns of Parquet, from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

PIECE = 1 << 18
"""Rows in a row group; each is drawn from a seed of its own."""

_WORDS = np.array(
    [f"{a}{b}" for a in ("north", "south", "east", "west") for b in range(25)], np.str_
)


def write_rows(path: Path, rows: int, *, seed: int = 0) -> None:
    """Writes so many rows, a row group at a time; the same seed gives the same rows."""
    with pq.ParquetWriter(path, _piece(0, 1, seed).schema, compression="snappy") as writer:
        for start in range(0, rows, PIECE):
            writer.write_table(_piece(start, min(PIECE, rows - start), seed))


def _piece(start: int, rows: int, seed: int) -> pa.Table:
    """Returns rows from ``start`` on: 6 floats, 6 integers, 5 texts, 2 booleans, 1 timestamp."""
    draw = np.random.default_rng([seed, start])
    uneven = draw.zipf(1.3, rows).clip(max=50_000)
    columns: dict[str, pa.Array] = {
        "normal": pa.array(draw.normal(size=rows)),
        "skewed": _holed(draw, draw.lognormal(3, 1.5, rows), 0.05),
        "uniform": pa.array(draw.random(rows)),
        "rounded": pa.array(np.round(draw.exponential(50, rows), 2)),
        "mostly_zero": pa.array(draw.random(rows) * (draw.random(rows) < 0.2)),
        "rare": _holed(draw, draw.normal(100, 15, rows), 0.9),
        "id": pa.array(np.arange(start, start + rows)),
        "hour": pa.array(draw.integers(0, 24, rows)),
        "zipf": pa.array(uneven),
        "cents": _holed(draw, draw.integers(0, 1_000_000, rows), 0.01),
        "signed": pa.array(draw.integers(-1000, 1000, rows).astype(np.int32)),
        "wide": pa.array(draw.integers(-(2**62), 2**62, rows)),
        "flag": pa.array(draw.random(rows) < 0.3),
        "maybe": _holed(draw, draw.random(rows) < 0.5, 0.3),
        "region": pa.array(_WORDS[draw.integers(0, len(_WORDS), rows)]),
        "status": _holed(draw, np.array(["new", "paid", "sent"])[draw.integers(0, 3, rows)], 0.02),
        "product": pa.array(np.char.add("product-", (uneven % 5_000).astype(np.str_))),
        "customer": pa.array(np.char.add("c", draw.integers(0, 1_000_000, rows).astype(np.str_))),
        "reference": pa.array(np.char.add("r-", np.arange(start, start + rows).astype(np.str_))),
        "at": pa.array(
            1_700_000_000_000_000 + draw.integers(0, 10**14, rows), pa.timestamp("us", "UTC")
        ),
    }
    return pa.table(columns)


def _holed(draw: np.random.Generator, values: npt.NDArray[np.generic], part: float) -> pa.Array:
    """Returns the values, with so large a part of them missing."""
    return pa.array(values, mask=draw.random(len(values)) < part)
