"""Rows of numbers made from a seed, and models of them: ads, customers, divisions of a company."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.models.signature import Array
from tidemill.recipes.demo.cases.case import Rng
from tidemill.recipes.demo.cases.words import popular

CAMPAIGNS, PLACEMENTS, DIVISIONS, QUARTERS = 40, 10, 40, 4


def placed_ads(rng: Rng, count: int) -> pa.Table:
    """Returns an ad's campaign and place, some more frequent than others."""
    ranks = popular(rng, count, CAMPAIGNS * PLACEMENTS, 0.6)
    return pa.table({"campaign": ranks // PLACEMENTS, "placement": ranks % PLACEMENTS})


def ad_examples(rng: Rng) -> tuple[pa.Table, Array]:
    """Returns shown ads, and how many in a thousand led to a purchase."""
    rows = placed_ads(rng, 5000)
    campaign, placement = (rows[name].to_numpy() for name in rows.column_names)
    rate = 2.0 + 3.0 * np.sin(campaign) ** 2 + placement / 4.0 + rng.normal(0.0, 0.3, len(rows))
    return rows, rate


def customers(rng: Rng, count: int) -> pa.Table:
    """Returns customers as they are when they are asked about; hardly two are alike."""
    return pa.table(
        {
            "recency_days": np.round(rng.exponential(60.0, count), 1),
            "orders": rng.poisson(6.0, count),
            "spent": np.round(rng.lognormal(5.0, 1.0, count), 2),
            "tenure_days": np.round(rng.uniform(1.0, 3000.0, count), 1),
        }
    )


def customer_examples(rng: Rng) -> tuple[pa.Table, Array]:
    """Returns customers, and what each will spend yet."""
    rows = customers(rng, 4000)
    spent, orders, recency = (rows[n].to_numpy() for n in ("spent", "orders", "recency_days"))
    return rows, spent * (1.0 + 0.2 * orders) * np.exp(-recency / 200.0)


def divisions(rng: Rng, count: int) -> pa.Table:
    """Returns a division of a company and a quarter: there are few of them."""
    return pa.table(
        {
            "division": rng.integers(0, DIVISIONS, count),
            "quarter": rng.integers(0, QUARTERS, count),
        }
    )


def division_examples(rng: Rng) -> tuple[pa.Table, Array]:
    """Returns divisions and quarters, and the sales of each."""
    rows = divisions(rng, 3000)
    division, quarter = (rows[name].to_numpy() for name in rows.column_names)
    return rows, 100.0 + 7.0 * division + 20.0 * np.cos(quarter) + rng.normal(0.0, 2.0, len(rows))


def forest() -> Any:
    """Returns a regressor of a hundred trees; it compiles, and computes in the gateway."""
    from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415 - an extra

    return RandomForestRegressor(100, max_depth=10, random_state=0, n_jobs=1)
