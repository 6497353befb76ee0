"""A table whose file is damaged while it is served: the model answers, and it is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.control.rollout import build_live_table
from tidemill.tables.catalog import fetch_table
from tidemill.tables.table import DATA_FILE

PAGE = 4096


def damage(path: Path) -> None:
    """Empties all pages of a table's file but the first two, in place: a server has them mapped."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(2 * PAGE)
        file.write(bytes(size - 2 * PAGE))


def test_a_damaged_file_costs_the_models_time_and_no_answer(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    """One key or several; each failure is counted, and no client hears of the server's files."""
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": pa.array(range(5_000), pa.int64())}), rows)
    with launch() as server, server.client() as client:
        built = build_live_table(server.home, "add", rows, key=("x",), by="tests")
        server.until(
            lambda: server.health()["applications"].get("add", 0) >= built.revision, "the table"
        )

        def asked(*xs: int) -> tuple[list[int], set[str]]:
            body = {"instances": [{"x": x} for x in xs]}
            answer = client.post("/v1/models/add:predict", json=body).raise_for_status().json()
            return answer["predictions"], set(answer["sources"])

        assert asked(5) == ([1005], {"table"})
        damage(fetch_table(server.home, built.table.id) / DATA_FILE)
        assert asked(7) == ([1007], {"model"})
        assert asked(8, 4_000) == ([1008, 5000], {"model"})
        metrics = client.get("/metrics").text
        found = re.search(r'tidemill_table_failures_total\{[^}]*"add"[^}]*\} (\d+)', metrics)
        assert found is not None
        assert int(found[1]) == 2
