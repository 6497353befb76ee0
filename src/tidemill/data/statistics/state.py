"""Statistics on disk: MessagePack in zstd; the same statistics give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa

from tidemill.data.statistics.column import ColumnState, Weighted
from tidemill.data.statistics.sketches import Distinct, Frequent, Moments, Quantiles
from tidemill.foundation.errors import Corrupted

LEVEL = 3
LARGEST_BYTES = 1 << 31


class _Quantiles(msgspec.Struct, array_like=True):
    points: bytes
    weights: bytes
    lost: float


class _Frequent(msgspec.Struct, array_like=True):
    values: list[Any]
    counts: list[Any]
    exact: bool
    error: float


class _Moments(msgspec.Struct, array_like=True):
    count: float
    zeros: float
    mean: float
    squares: float
    smallest: float
    largest: float


class _Weighted(msgspec.Struct, array_like=True):
    weight: float
    missing: float
    moments: _Moments
    quantiles: _Quantiles
    frequent: _Frequent


class _Column(msgspec.Struct, array_like=True):
    name: str
    type: str
    counts: tuple[int, int, int, int]
    extremes: tuple[Any, Any]
    distinct: bytes
    frequent: _Frequent
    moments: _Moments
    quantiles: _Quantiles
    lists: _Moments | None
    list_sizes: _Quantiles
    weighted: _Weighted | None


class _Table(msgspec.Struct, array_like=True):
    version: Literal[1]
    rows: int
    weight: str | None
    columns: list[_Column]


def pack(rows: int, weight: str | None, columns: Mapping[str, ColumnState]) -> bytes:
    """Returns the state of a table's statistics as bytes."""
    table = _Table(1, rows, weight, [_column(name, each) for name, each in columns.items()])
    plain = msgspec.msgpack.encode(table)
    size = len(plain).to_bytes(8, "little")
    return size + pa.Codec("zstd", compression_level=LEVEL).compress(plain, asbytes=True)  # type: ignore[no-any-return]


def unpack(data: bytes) -> tuple[int, str | None, dict[str, ColumnState]]:
    """Returns the state that was packed.

    Raises:
        Corrupted: it is something else, or of a later version.
    """
    try:
        size = min(int.from_bytes(data[:8], "little"), LARGEST_BYTES)
        plain = pa.Codec("zstd").decompress(data[8:], decompressed_size=size, asbytes=True)
        table = msgspec.msgpack.decode(plain, type=_Table)
        columns = {each.name: _state(each) for each in table.columns}
    except (ValueError, OSError, msgspec.MsgspecError) as error:  # pyarrow's are ValueErrors, too
        raise Corrupted(
            f"these are no statistics that can be merged: {error}",
            remedy="Restore the file from a backup, or use the version of Tidemill that wrote it.",
        ) from error
    return table.rows, table.weight, columns


def _column(name: str, state: ColumnState) -> _Column:
    return _Column(
        name=name,
        type=state.type,
        counts=(state.count, state.missing, state.nan, state.infinite),
        extremes=(state.smallest, state.largest),
        distinct=state.distinct.hashes.astype("<u8").tobytes(),
        frequent=_frequent(state.frequent),
        moments=_moments(state.moments),
        quantiles=_quantiles(state.quantiles),
        lists=None if state.lists is None else _moments(state.lists),
        list_sizes=_quantiles(state.list_sizes),
        weighted=None if state.weighted is None else _weighted(state.weighted),
    )


def _weighted(state: Weighted) -> _Weighted:
    return _Weighted(
        weight=state.weight,
        missing=state.missing,
        moments=_moments(state.moments),
        quantiles=_quantiles(state.quantiles),
        frequent=_frequent(state.frequent),
    )


def _frequent(sketch: Frequent) -> _Frequent:
    ordered = sketch.ordered()
    return _Frequent(
        values=[value for value, _ in ordered],
        counts=[count for _, count in ordered],
        exact=sketch.exact,
        error=float(sketch.error),
    )


def _moments(state: Moments) -> _Moments:
    return _Moments(
        state.count, state.zeros, state.mean, state.squares, state.smallest, state.largest
    )


def _quantiles(sketch: Quantiles) -> _Quantiles:
    points, weights, lost = sketch.packed()
    return _Quantiles(points.astype("<f8").tobytes(), weights.astype("<f8").tobytes(), lost)


def _state(saved: _Column) -> ColumnState:
    count, missing, nan, infinite = saved.counts
    return ColumnState(
        type=saved.type,
        count=count,
        missing=missing,
        nan=nan,
        infinite=infinite,
        smallest=saved.extremes[0],
        largest=saved.extremes[1],
        distinct=Distinct(np.frombuffer(saved.distinct, "<u8").astype(np.uint64)),
        frequent=_frequent_state(saved.frequent),
        moments=_moments_state(saved.moments),
        quantiles=_quantiles_state(saved.quantiles),
        lists=None if saved.lists is None else _moments_state(saved.lists),
        list_sizes=_quantiles_state(saved.list_sizes),
        weighted=None if saved.weighted is None else _weighted_state(saved.weighted),
    )


def _weighted_state(saved: _Weighted) -> Weighted:
    return Weighted(
        weight=saved.weight,
        missing=saved.missing,
        moments=_moments_state(saved.moments),
        quantiles=_quantiles_state(saved.quantiles),
        frequent=_frequent_state(saved.frequent),
    )


def _frequent_state(saved: _Frequent) -> Frequent:
    counts = dict(zip(saved.values, saved.counts, strict=True))
    return Frequent(counts=counts, exact=saved.exact, error=saved.error)


def _moments_state(saved: _Moments) -> Moments:
    return Moments(
        count=saved.count,
        zeros=saved.zeros,
        mean=saved.mean,
        squares=saved.squares,
        smallest=saved.smallest,
        largest=saved.largest,
    )


def _quantiles_state(saved: _Quantiles) -> Quantiles:
    points, weights = (np.frombuffer(part, "<f8") for part in (saved.points, saved.weights))
    return Quantiles.unpacked(points, weights, saved.lost)
