"""Tables and stored features whose file is damaged while it is served, and how it is told."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.control.deployments import get_deployment
from tidemill.control.rollout import build_live_table
from tidemill.foundation.durable import sha256_file
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


def failures(metrics: str, application: str) -> int:
    """How often a table, or features, of an application did not answer."""
    found = re.search(
        rf'tidemill_table_failures_total\{{[^}}]*"{application}"[^}}]*\}} (\d+)', metrics
    )
    assert found is not None
    return int(found[1])


def test_a_damaged_file_costs_the_models_time_and_no_answer(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    """One key or several, each failure counted, until it is built again; a start is not needed."""
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
        assert failures(client.get("/metrics").text, "add") == 2
        again = build_live_table(server.home, "add", rows, key=("x",), by="tests", full=True)
        assert again.table.sha256 == built.table.sha256
        server.until(
            lambda: server.health()["applications"]["add"] >= again.revision, "the table, mended"
        )
        assert asked(8, 4_000) == ([1008, 5000], {"table"})
        shutil.rmtree(server.home.cache_path / "tables")  # as on another host
        fetched = fetch_table(server.home, again.table.id)
        assert sha256_file(fetched / DATA_FILE) == built.table.sha256


def test_damaged_features_are_told_without_the_servers_paths(
    server: Any, client: httpx.Client, tmp_path: Path
) -> None:
    """A key that needs them gets 503 and is counted; one with all inputs is answered."""
    name = "damaged-features"
    server.deploy(name, "fares")
    rows = tmp_path / "rows.parquet"
    ages = pa.array(range(5_000), pa.int64())
    pq.write_table(pa.table({"age": ages, "fare": pa.array([7.25] * 5_000)}), rows)
    build_live_table(server.home, name, rows, key=("age",), by="tests", features=True)
    server.deploy(name, "fares")  # live anew, without a table: the features alone know the key
    features = get_deployment(server.home, name).features
    assert features is not None

    def asked(age: int) -> httpx.Response:
        return client.get(f"/v1/models/{name}:lookup?age={age}")

    assert asked(4_000).raise_for_status().json()["predictions"] == [4007.25]
    damage(fetch_table(server.home, features) / DATA_FILE)
    for age in (8, 4_000):
        told = asked(age)
        assert told.status_code == 503
        assert "the stored features of version 1 do not answer" in told.text
        assert str(server.home.path) not in told.text
    assert failures(client.get("/metrics").text, name) == 2
    whole = {"instances": [{"age": 8, "fare": 1.0}]}
    answer = client.post(f"/v1/models/{name}:predict", json=whole).raise_for_status().json()
    assert answer["predictions"] == [9.0]
