"""Predictions over HTTP: pages as JSON or as Arrow's stream, for keys that may read."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jsonschema import Draft202012Validator

from tidemill.control import keys
from tidemill.control.admin import admin_app
from tidemill.foundation.files import put_content
from tidemill.foundation.home import Home
from tidemill.foundation.instruments import Instruments
from tidemill.tables.catalog import list_tables
from tidemill.tables.predictions import PredictionPart, keep_parts

PATH = "/admin/v1/predictions/app"
ARROW = {"accept": "application/vnd.apache.arrow.stream"}


def get(home: Home, path: str = PATH, key: str | None = None, **more: Any) -> httpx.Response:
    """Returns the answer of the admin API."""

    async def ask() -> httpx.Response:
        app = admin_app(home, None, Instruments())  # type: ignore[arg-type]
        transport = httpx.ASGITransport(app=app)
        base = "http://127.0.0.1:8081"
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            return await client.get(path, **more)

    if key is not None:
        more["headers"] = {**more.get("headers", {}), "authorization": f"Bearer {key}"}
    return asyncio.run(ask())


@pytest.fixture
def filled(home: Home, tables: tuple[str, str], tmp_path: Path) -> Home:
    """A home whose tables of ``app`` have ten predictions each: x, and y of each version."""
    for number, table in enumerate(tables, 1):
        rows = pa.table(
            {
                "x": pa.array(range(10), pa.float32()),
                "y": pa.array([float(number * x) for x in range(10)], pa.float32()),
            }
        )
        rows = rows.set_column(1, "y", pa.array([*rows.column("y").to_pylist()[:9], float("nan")]))
        path = tmp_path / f"{table}.parquet"
        pq.write_table(rows, path)
        key = put_content(home.files, path, folder="predictions", suffix="parquet")
        keep_parts(home, table, [PredictionPart(file_key=key, rows=10)])
    return home


def test_a_page_is_json(filled: Home) -> None:
    """Columns, rows, whose they are, and where the next page is, as its OpenAPI says."""
    info = list_tables(filled.store, "app")[0]
    params = {"columns": "x,y", "where": "x:ge:3", "limit": "2"}
    page = get(filled, params=params)
    assert page.status_code == 200
    found = page.json()
    assert (found["application"], found["table"]) == ("app", info.id)
    assert (found["model"], found["version"]) == ("m", info.version)
    assert found["columns"] == ["x", "y"]
    assert [row[0] for row in found["rows"]] == [3.0, 4.0]
    where = page.headers["link"]
    assert (
        where
        == f'<{PATH}?columns=x%2Cy&where=x%3Age%3A3&limit=2&cursor={found["next"]}>; rel="next"'
    )
    document = get(filled, "/admin/v1/openapi.json").json()
    described = document["paths"]["/admin/v1/predictions/{name}"]["get"]["responses"]["200"]
    schema = described["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": document["components"]}).validate(found)
    assert set(described["content"]) == {"application/json", ARROW["accept"]}


def test_links_lead_through_all_rows(filled: Home) -> None:
    """Until there is none; what is no number is null."""
    path, rows = f"{PATH}/history?limit=3&columns=x&columns=y", []
    for _ in range(20):
        page = get(filled, path)
        rows += page.json()["rows"]
        if "link" not in page.headers:
            break
        path = page.headers["link"].partition(">")[0].removeprefix("<")
    assert [row[0] for row in rows] == [float(x) for x in range(10)] * 2
    assert rows[9][1] is None
    assert {row[1] for row in rows[1:2] + rows[11:12]} == {1.0, 2.0}


def test_a_page_is_arrows_stream(filled: Home) -> None:
    """The same rows with their types, and the same link."""
    page = get(filled, params={"limit": "4"}, headers=ARROW)
    assert page.headers["content-type"] == ARROW["accept"]
    rows = pa.ipc.open_stream(io.BytesIO(page.content)).read_all()
    assert rows.column_names == ["x", "y", "model", "version", "table_id", "built_at"]
    assert (rows.schema.field("x").type, rows.num_rows) == (pa.float32(), 4)
    assert 'rel="next"' in page.headers["link"]
    none = get(filled, params={"where": "x:gt:99"}, headers=ARROW)
    assert pa.ipc.open_stream(io.BytesIO(none.content)).read_all().num_rows == 0
    assert "link" not in none.headers


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        (f"{PATH}?where=x", 400, "COLUMN:OP:VALUE"),
        (f"{PATH}?where={quote('x:eq:1) or (1=1')}", 400, "no value of type float"),
        (f"{PATH}?where={quote('y:eq:1')}", 400, "column 'y' is not in the key"),
        (f"{PATH}?columns={quote('x, (select 1)')}", 400, "is not among"),
        (f"{PATH}?limit=many", 400, "limit is 'many'"),
        (f"{PATH}?limit=65537", 400, "limit is 65537"),
        (f"{PATH}?cursor=here", 400, "cursor 'here' is none"),
        (f"{PATH}?cursor={'0' * 16}-0-0-0", 404, "has no table"),
        (f"{PATH}?filter=x", 400, "'filter' is no parameter"),
        ("/admin/v1/predictions/other", 404, "'other' has no predictions"),
        ("/admin/v1/predictions/other/history", 404, "'other' has no predictions"),
    ],
)
def test_what_cannot_be_asked_is_told(filled: Home, path: str, status: int, said: str) -> None:
    """With the status that fits; nothing that is sent becomes a query."""
    answer = get(filled, path)
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_a_key_for_an_application_reads_its_predictions(filled: Home) -> None:
    """With the scope ``operate``; it reads no other's, and no other scope reads any."""
    made = {
        "all": keys.create_key(filled, "all", scopes=["operate"], by="tests"),
        "app": keys.create_key(filled, "app", scopes=["operate"], applications=["app"], by="t"),
        "other": keys.create_key(filled, "other", scopes=["operate"], applications=["b"], by="t"),
        "query": keys.create_key(filled, "query", scopes=["query", "data"], by="tests"),
    }
    for path in (PATH, f"{PATH}/history"):
        codes = {name: get(filled, path, each.key).status_code for name, each in made.items()}
        assert codes == {"all": 200, "app": 200, "other": 403, "query": 403}
        assert get(filled, path).status_code == 401
