"""The admin API shows and changes what is live, and takes nothing that a web page could send."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.applications import Starlette

from tidemill.control import deployments, launches
from tidemill.control.admin import MAX_BODY_BYTES, admin_app
from tidemill.control.deployments import deploy, get_deployment
from tidemill.foundation.home import Home
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.settings import LedgerSettings, ServeSettings
from tidemill.serving.live import StoreSource
from tidemill.serving.supervisor import Supervisor

Tables = tuple[str, str]
APPLY = "/admin/v1/applications"
PROMOTE = "/admin/v1/applications/app:promote"
ROLLBACK = "/admin/v1/applications/app:rollback"
READS = [
    "/admin/v1/health",
    "/admin/v1/models",
    "/admin/v1/models/m",
    "/admin/v1/deployments",
    "/admin/v1/deployments/app",
    "/admin/v1/applications/app",
    "/admin/v1/launches",
    "/admin/v1/openapi.json",
]


class Api:
    """Sends requests to an application, one at a time."""

    def __init__(self, app: Starlette) -> None:
        self._transport = httpx.ASGITransport(app=app)

    def get(self, path: str, **more: Any) -> httpx.Response:
        """Returns the answer to a GET."""
        return self._send("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        """Returns the answer to a POST."""
        return self._send("POST", path, **more)

    def _send(self, verb: str, path: str, **more: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            base = "http://127.0.0.1:8081"
            async with httpx.AsyncClient(transport=self._transport, base_url=base) as client:
                return await client.request(verb, path, **more)

        return asyncio.run(send())


@pytest.fixture
def api(home: Home, tables: Tables) -> Api:
    """The API of a home where version 1 is live, beside a supervisor that does not run."""
    deploy(home, "app", model="m", version=1, table=tables[0], by="ann", reason="first")
    supervisor = Supervisor(
        StoreSource(home),
        ServeSettings(),
        LedgerSettings(),
        run_path=home.run_path,
        ledger_path=home.ledger_path,
    )
    return Api(admin_app(home, supervisor, Instruments()))


def failed(response: Any, status: int, *words: str) -> None:
    """Checks an error: its status, its JSON and what it says."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    for word in words:
        assert word in response.json()["error"]


@pytest.mark.parametrize("path", READS)
def test_every_view_is_json(api: Api, path: str) -> None:
    """One object, of exactly that type; another verb is refused in JSON too."""
    response = api.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert isinstance(response.json(), dict)
    failed(api.post(path, json={}), 405, "POST")


def test_the_document_tells_of_every_operation(home: Home, api: Api) -> None:
    """Each route is in valid OpenAPI, with the body that it takes, and answers as that says."""
    document = api.get("/admin/v1/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    app = api._transport.app
    routes = {
        (route.path, method.lower()) for route in app.routes for method in route.methods - {"HEAD"}
    }
    described = {
        (path, method): each
        for path, methods in document["paths"].items()
        for method, each in methods.items()
    }
    assert described.keys() == routes
    assert len({each["operationId"] for each in described.values()}) == len(routes)
    for (_, way), each in described.items():
        assert ("requestBody" in each) == (way in ("post", "put"))
    for path in READS:
        general = re.sub(r"/(m|app)$", "/{name}", path)
        content = described[general, "get"]["responses"]["200"]["content"]["application/json"]
        schema = {**content["schema"], "components": document["components"]}
        Draft202012Validator(schema).validate(api.get(path).json())
    (takes,) = described[PROMOTE.replace("app:", "{name}:"), "post"]["requestBody"][
        "content"
    ].values()
    body = {**takes["schema"], "components": document["components"]}
    assert Draft202012Validator(body).is_valid({"version": 2})
    assert not Draft202012Validator(body).is_valid({"version": "two"})


def test_views_show_what_is_there(home: Home, api: Api) -> None:
    """Versions with aliases and reasons, what is live and its changes, launches, the supervisor."""
    versions = api.get("/admin/v1/models").json()["versions"]
    assert [(each["version"], each["blessed"]) for each in versions] == [
        (1, True),
        (2, True),
        (3, True),
        (4, False),
    ]
    assert versions[0]["aliases"] == ["champion"]
    assert "AUC" in versions[3]["reasons"][0]
    assert api.get("/admin/v1/models/m").json()["history"][0]["by"] == "ann"
    shown = api.get("/admin/v1/deployments/app").json()
    assert shown["live"][0]["versions"][0]["version"] == 1
    assert shown["changes"][0]["reason"] == "first"
    launches.begin(home.store, recipe="r", sha256="0" * 64, path="/in/1.csv", run="a", at=1.0)
    (launch,) = api.get("/admin/v1/launches").json()["launches"]
    assert (launch["path"], launch["status"], launch["attempts"]) == ("/in/1.csv", "begun", 1)
    assert api.get("/admin/v1/health").json()["gateways"] == []


def test_metrics_are_prometheus_text(api: Api) -> None:
    """Of the supervisor, and whatever this process measures itself."""
    response = api.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "tidemill_revision" in response.text


def test_a_version_is_promoted_and_rolled_back(home: Home, api: Api, tables: Tables) -> None:
    """As the command line does it, with its own name in the audit."""
    body = {"version": 2, "table": tables[1], "reason": "better"}
    done = api.post(PROMOTE, json=body)
    assert done.status_code == 200
    assert done.json()["versions"][0] == {
        "model": "m",
        "version": 2,
        "table": tables[1],
        "weight": 1.0,
    }
    back = api.post(ROLLBACK, json={})
    assert back.status_code == 200
    assert (back.json()["from_version"], back.json()["to_version"]) == (2, 1)
    assert back.json()["table"] == tables[0]
    changes = api.get("/admin/v1/deployments/app").json()["changes"]
    assert [(each["verb"], each["by"]) for each in changes] == [
        ("rollback", "admin API"),
        ("deploy", "admin API"),
        ("deploy", "ann"),
    ]
    assert get_deployment(home, "app").versions[0].version == 1


def test_applications_are_changed_by_their_verbs(home: Home, api: Api) -> None:
    """The same functions as on the command line: linked, weighed, scaled, shown and stopped."""
    at = "/admin/v1/applications"
    linked = api.post(f"{at}/app:link", json={"version": "m:2", "weight": 0.1, "reason": "try"})
    assert [each["version"] for each in linked.json()["versions"]] == [1, 2]
    api.post(f"{at}/app:weights", json={"weights": {"1": 0.4, "2": 0.6}}).raise_for_status()
    api.post(f"{at}/app:version", json={"version": 2}).raise_for_status()
    api.post(f"{at}/app:unlink", json={"version": 1}).raise_for_status()
    scaled = api.post(f"{at}/app:replicas", json={"replicas": 3})
    assert scaled.json()["plan"]["replicas"] == 3
    shown = api.get(f"{at}/app").json()
    assert shown["document"]["applications"]["app"]["versions"][0]["version"] == 2
    again = api.post(at, json=shown["document"])
    assert again.json() == {"applied": True, "changes": []}
    seen = api.post(at, json={"applications": {"app": {"slo_ms": 7}}, "dry_run": True}).json()
    assert seen["changes"][0]["fields"] == [{"path": "slo_ms", "old": 100.0, "new": 7.0}]
    made = api.post(f"{at}/twin:register", json={"like": "m:1", "default": {"y": [0.0]}})
    assert made.json()["versions"] == []
    assert api.post(f"{at}/twin:stop", json={}).json()["application"] == "twin"
    changes = api.get("/admin/v1/deployments/app").json()["changes"]
    assert [each["verb"] for each in changes] == [
        *("set_replicas", "unlink", "set_version", "set_weights", "link", "deploy")
    ]
    assert {each["by"] for each in changes[:5]} == {"admin API"}


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (APPLY, {"applications": {"app": {"slo_sm": 1}}}, (400, "the body: applications.app.slo_")),
        (APPLY, {"applications": {"app": {"plan": {"replicas": 0}}}}, (400, "plan.replicas")),
        (APPLY, {"applications": {"app": {}}, "expected": {"app": 9}}, (409, "meanwhile")),
        (APPLY, {"applications": []}, (400, "applications")),
        (APPLY, {"applications": {"a/b": {}}}, (400, "not allowed")),
        (f"{APPLY}/app:register", {"like": "m:1"}, (409, "exists")),
        (f"{APPLY}/new:register", {}, (400, "no signature")),
        (f"{APPLY}/new:register", {"like": "m:1", "signature": 3}, (400, "signature")),
        (f"{APPLY}/app:link", {"version": "m:4", "weight": 1}, (403, "not blessed")),
        (f"{APPLY}/app:link", {"version": 2}, (400, "version")),
        (f"{APPLY}/app:unlink", {"version": 2}, (404, "no version 2")),
        (f"{APPLY}/app:weights", {"weights": {"1": -1}}, (400, "weights")),
        (f"{APPLY}/app:replicas", {"replicas": 65}, (400, "replicas")),
        (f"{APPLY}/other:stop", {}, (404, "'other' does not exist")),
        (PROMOTE, {"version": 4}, (403, "not blessed")),
        (PROMOTE, {"version": 9}, (404, "no version 9")),
        (PROMOTE, {"version": 10**30}, (404, "no version")),
        (PROMOTE, {"version": 2, "table": "0123456789abcdef"}, (404, "table")),
        (PROMOTE, {"version": "2"}, (400, "$.version")),
        (PROMOTE, {}, (400, "version")),
        (PROMOTE, {"version": 2, "tables": "x"}, (400, "tables")),
        (PROMOTE, [2], (400, "object")),
        (PROMOTE.replace("app:", "other:"), {"version": 2}, (404, "'other' does not exist")),
        (ROLLBACK, {}, (404, "no previous champion")),
        (ROLLBACK, {"reasons": "x"}, (400, "reasons")),
        (ROLLBACK.replace("app:", "other:"), {}, (404, "'other' does not exist")),
    ],
)
def test_what_cannot_be_done_is_told(
    home: Home, api: Api, path: str, body: Any, expected: tuple[int, str]
) -> None:
    """With the status that fits, in one sentence, and nothing has changed."""
    failed(api.post(path, json=body), *expected)
    assert get_deployment(home, "app").revision == 1


@pytest.mark.parametrize("path", ["/admin/v1/models/nope", "/admin/v1/deployments/nope"])
def test_views_of_unknown_names_are_told(api: Api, path: str) -> None:
    """With what is known instead."""
    failed(api.get(path), 404, "'nope' does not exist")


@pytest.mark.parametrize("path", ["/", "/admin", "/admin/v1/nope", "/admin/v1/models/a/b"])
def test_other_places_are_told(api: Api, path: str) -> None:
    """Nothing is served there, in JSON."""
    failed(api.get(path), 404, "nothing is served")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_of_another_type_is_refused(home: Home, api: Api, kind: str | None) -> None:
    """Those are the types that a foreign page may send without asking."""
    headers = {} if kind is None else {"content-type": kind}
    content = json.dumps({"version": 2}).encode()
    failed(api.post(PROMOTE, content=content, headers=headers), 400, "application/json")
    assert get_deployment(home, "app").revision == 1


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 5000, b"null", b'{"version":1'])
def test_bad_json_is_told(api: Api, content: bytes) -> None:
    """Cut off, not UTF-8, deep, or not an object: a sentence, never a traceback."""
    headers = {"content-type": "application/json; charset=utf-8"}
    failed(api.post(PROMOTE, content=content, headers=headers), 400)


def test_a_body_over_the_limit_is_refused(api: Api) -> None:
    """Before it is read whole, whether it says its length or not."""
    big = json.dumps({"version": 2, "reason": "x" * MAX_BODY_BYTES}).encode()
    headers = {"content-type": "application/json"}
    failed(api.post(PROMOTE, content=big, headers=headers), 413, str(MAX_BODY_BYTES))

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(big), 1000):
            yield big[start : start + 1000]

    failed(api.post(PROMOTE, content=parts(), headers=headers), 413)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8081",
        "localhost.evil.example",
        "a_b.evil.example",
        "[::1",
        "",
        "0.0.0.0",
    ],
)
def test_a_foreign_host_is_refused(home: Home, api: Api, host: str) -> None:
    """A name that was bound to this machine by somebody else's DNS opens nothing."""
    for path in [*READS, "/metrics"]:
        failed(api.get(path, headers={"host": host}), 403, "not this machine's loopback")
    failed(api.post(PROMOTE, json={"version": 2}, headers={"host": host}), 403)
    assert get_deployment(home, "app").revision == 1


@pytest.mark.parametrize("host", ["localhost:8081", "127.0.0.1", "[::1]:8081"])
def test_own_names_are_taken(api: Api, host: str) -> None:
    """With a port or without."""
    assert api.get("/admin/v1/health", headers={"host": host}).status_code == 200


def test_what_is_not_foreseen_is_json_too(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The caller learns its kind, the log the rest."""

    def broken(*args: Any, **more: Any) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr(deployments, "rollback", broken)
    response = api.post(ROLLBACK, json={})
    failed(response, 500, "RuntimeError")
    assert "secret words" not in response.text
    assert "secret words" in capsys.readouterr().err
