"""Bytes and money: a table's size is that of a real one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.planning.costs import Costs, table_bytes
from tidemill.planning.latency import LatencyLaw
from tidemill.planning.prices import GB, MONTH_S, Prices, per_million
from tidemill.tables.build import TableBuilder
from tidemill.tables.table import TableInfo


@pytest.mark.parametrize("keys", [1, 300, 5_000, 60_000])
@pytest.mark.parametrize(("key", "value"), [(8, 12), (21, 75), (9, 400)])
def test_a_table_is_as_large_as_a_real_one(tmp_path: Path, keys: int, key: int, value: int) -> None:
    """Within 5%, and two pages, of the file that is built."""
    with TableBuilder(tmp_path / "table") as builder:
        builder.put(
            [number.to_bytes(8, "big") + b"k" * (key - 8) for number in range(keys)],
            [b"v" * value] * keys,
        )
        info = builder.commit(
            TableInfo(application="a", model="a", version=1, key=(("k", "int64"),))
        )
    assert table_bytes(keys, key, value) == pytest.approx(info.bytes, rel=0.05, abs=8192)


@given(st.integers(0, 10**8), st.integers(0, 10**8), st.floats(1, 500), st.floats(0, 2000))
def test_more_keys_are_never_fewer_bytes(one: int, other: int, key: float, value: float) -> None:
    """The size rises with the keys; no keys are no bytes."""
    small, large = sorted((one, other))
    assert table_bytes(small, key, value) <= table_bytes(large, key, value)
    assert table_bytes(0, key, value) == 0


def test_scoring_again_costs_batches_and_rows() -> None:
    """Full batches, each key once, and writing it."""
    costs = Costs(law=LatencyLaw(a_s=1.0, b_s=0.001), build_key_s=0.002)
    assert costs.rescored_s(8192) == pytest.approx(1.0 + 8192 * 0.003)
    assert costs.rescored_s(8193) == pytest.approx(2.0 + 8193 * 0.003)


def test_a_month_of_one_core_and_one_gigabyte() -> None:
    """Prices are by the hour and by the month."""
    prices = Prices(cpu_hour=0.1, memory_gb_month=3.0, disk_gb_month=0.5, used=1.0)
    assert prices.cpu(1.0) == pytest.approx(73.0)
    assert prices.storage(GB, 2 * GB) == pytest.approx(4.0)
    assert per_million(73.0, 1e6 / MONTH_S) == pytest.approx(73.0)
