"""``tidemill workload`` from a terminal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def test_the_verb_prints_shows_and_draws(cli: Any) -> None:
    """One JSON object with every figure, a table for people, a page without a script."""
    random = np.random.default_rng(0)
    times, keys = np.cumsum(random.exponential(0.01, 2000)), random.zipf(1.5, 2000)
    pq.write_table(pa.table({"time": times, "<k>": keys}), cli.folder / "t.parquet")
    trace, page = ("--trace", str(cli.folder / "t.parquet")), cli.folder / "page.html"
    shown = cli("workload", *trace, "--json", "--report", str(page)).json()
    names = "requests rate_rps cv2 peak_to_mean cardinality top_share gini zipf_exponent"
    assert {*names.split(), "new_key_rate", "reuse"} <= shown.keys()
    assert shown["requests"] == 2000
    drawn = page.read_text()
    assert drawn.count("<svg") == 2
    assert "<script" not in drawn
    said = cli("workload", *trace)
    assert (said.code, "Zipf exponent" in said.out) == (0, True)
    assert cli("workload", "--json").json()["exit_code"] == 2
    assert cli("workload", "nobody", *trace, "--json").json()["exit_code"] == 2
    assert cli("workload", "nobody", "--json").json()["kind"] == "NotFound"
