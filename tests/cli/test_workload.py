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
    for key, told in (("<k>,<k>", "'<k>' is named twice"), ("<k>,", "without a name")):
        wrong = cli("workload", *trace, "--key", key, "--json").json()
        assert (wrong["exit_code"], told in wrong["error"]) == (2, True)


def test_keys_are_counted_by_their_representation(cli: Any) -> None:
    """Of a trace and of an access log; a wrong one is refused."""
    texts = ["Oslo", "oslo ", "OSLO", "Rome"]
    trace = cli.folder / "texts.parquet"
    pq.write_table(pa.table({"time": [0.0, 1.0, 2.0, 3.0], "city": texts}), trace)
    asked = ("workload", "--trace", str(trace), "--json")
    assert cli(*asked).json()["cardinality"] == 4
    assert cli(*asked, "--represent", "city=text").json()["cardinality"] == 2
    for wrong in ("city=round(1)", "town=text", "city"):
        assert cli(*asked, "--represent", wrong).json()["exit_code"] == 2
    log = cli.folder / "access.log"
    line = '1.2.3.4 - - [01/Jan/2026:00:00:0{0} +0000] "GET /item/{0} HTTP/1.1" 200 5\n'
    log.write_text("".join(line.format(at) for at in range(5)))
    asked = ("workload", "--access-log", str(log), "--json")
    assert cli(*asked).json()["cardinality"] == 5
    assert cli(*asked, "--represent", "path=text(digits)").json()["cardinality"] == 1
