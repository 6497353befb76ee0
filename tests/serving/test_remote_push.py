"""A model of another server is pushed by its URL, and served with all that Tidemill promises."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tidemill.control.deployments import Terms, deploy
from tidemill.control.pushing import push_url
from tidemill.foundation.errors import InvalidModel, Refused, Unavailable
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings
from tidemill.models.format import ModelManifest, write_model
from tidemill.models.registry import Registry
from tidemill.models.runtime import open_runtime
from tidemill.models.signature import Column, Signature

SIGNATURE = Signature((Column("x", "int64"),), (Column("y", "int64"),))


@dataclass(kw_only=True)
class Near:
    """A server with nothing of its own: its models are in others."""

    query: str
    admin: str

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.admin}/admin/v1/health", timeout=20).json()
        return found


def stand_in(home: Home, folder: Path, name: str, url: str) -> None:
    """Makes a remote model live without asking its server, which is not there."""
    made = folder / name
    made.mkdir()
    (made / "remote.json").write_text(json.dumps({"url": url}))
    manifest = ModelManifest(
        name=name, runtime="remote", signature=SIGNATURE, entry="remote.json", trust="data"
    )
    write_model(made, manifest)
    Registry(home).register(made, name, blessed=True)
    terms = Terms(slo_ms=300.0, default={"y": -1})
    deploy(home, name, model=name, version=1, terms=terms, by="tests", reason="a test")


@pytest.fixture(scope="module")
def near(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Near]:
    """Serves ``delays`` and ``digits`` of the other server, and two whose servers cannot be had."""
    folder = tmp_path_factory.mktemp("near")
    with open_home(Settings(home=folder / "home")) as home:
        command = [sys.executable, "-m", "tidemill", "push", "--json", "--home", str(home.path)]
        url = f"http://{server.address}/v2/models/digits"
        pushed = subprocess.run(
            [*command, "--remote", url, "--name", "digits"], capture_output=True, check=True
        )
        assert json.loads(pushed.stdout)["model"]["runtime"] == "remote"
        made = push_url(home, f"http://{server.address}/v2/models/delays", "far-delays", by="tests")
        assert made.model.inputs == ("carrier", "month", "distance", "temperature")
        for name in ("digits", "far-delays"):
            terms = Terms(slo_ms=10_000.0)
            deploy(home, name, model=name, version=1, terms=terms, by="tests", reason="time")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            stand_in(home, folder, "gone", f"http://127.0.0.1:{free.getsockname()[1]}/v2/models/m")
        stand_in(home, folder, "foreign", "http://192.0.2.1:8000/v2/models/m")
        command = [sys.executable, "-m", "tidemill", "serve", "--port", "0", "--admin-port", "0"]
        process = subprocess.Popen(
            [*command, "--json", "--home", str(home.path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "TIDEMILL_SERVE_GATEWAYS": "1"},
        )
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        yield Near(
            query=f"http://127.0.0.1:{said['port']}", admin=f"http://127.0.0.1:{said['admin_port']}"
        )
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()


def test_its_answers_are_the_other_servers(near: Near, server: Any) -> None:
    """Strings and numbers, in rows and in batches; equal ones come from the cache after."""
    rows, outputs = server.models["delays"].rows, server.models["delays"].outputs
    n = len(rows["month"])
    instances = [{name: array.tolist()[at] for name, array in rows.items()} for at in range(n)]
    path = f"{near.query}/v1/models/far-delays:predict"
    body = httpx.post(path, json={"instances": instances}, timeout=30).json()
    assert [each["label"] for each in body["predictions"]] == list(outputs["label"])
    shown = np.array([each["probabilities"] for each in body["predictions"]], np.float32)
    assert np.allclose(shown, outputs["probabilities"])
    assert set(body["sources"]) == {"model"}
    again = httpx.post(path, json={"instances": instances}, timeout=30).json()
    assert again["predictions"] == body["predictions"]
    assert set(again["sources"]) == {"cache"}


def test_many_at_once_are_batched(near: Near, server: Any) -> None:
    """Rows that arrive together go as few requests, and each gets its own answer."""
    model = server.models["digits"]
    x, labels = model.rows["x"], model.outputs["label"]
    body = [json.dumps({"instances": [row]}).encode() for row in x.tolist()]
    sent = b"".join(
        b"POST /v1/models/digits:predict HTTP/1.1\r\nhost: localhost\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(b), b)
        for b in body
    )
    port = httpx.URL(near.query).port
    assert port is not None
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(sent)
        with connection.makefile("rb") as received:
            for label in labels.tolist():
                head = b"".join(iter(received.readline, b"\r\n"))
                assert head.startswith(b"HTTP/1.1 200"), head
                length = int(head.lower().split(b"content-length: ")[1].split()[0])
                (found,) = json.loads(received.read(length))["predictions"]
                assert found["label"] == label
    text = httpx.get(f"{near.query}/metrics", timeout=20).text
    counts = {
        line.split("{")[0]: float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith(("tidemill_batch_rows_count", "tidemill_batch_rows_sum"))
        and 'application="digits"' in line
    }
    assert counts["tidemill_batch_rows_sum"] == len(labels)
    assert counts["tidemill_batch_rows_count"] < len(labels)


def test_a_server_that_is_away_costs_the_default(near: Near) -> None:
    """The application is live, and says by its deadline what it says when nobody answers."""
    began = time.monotonic()
    answer = httpx.post(f"{near.query}/v1/models/gone:predict", json={"instances": [1]}, timeout=20)
    assert time.monotonic() - began < 5.0
    assert (answer.json()["predictions"], answer.json()["sources"]) == ([-1], ["default"])
    ready = httpx.get(f"{near.query}/v2/models/gone/ready", timeout=20)
    assert ready.status_code == 503


def test_a_host_that_nobody_allowed_is_not_asked(near: Near) -> None:
    """Its application is not live, and the reason names the setting."""
    (refused,) = near.health()["refused"]
    assert refused["application"] == "foreign"
    assert "serve.remote_hosts" in refused["reason"]
    path = f"{near.query}/v1/models/foreign:predict"
    assert httpx.post(path, json={"instances": [1]}, timeout=20).status_code == 404


def test_what_cannot_be_pushed_is_said(home: Home, server: Any, tmp_path: Path) -> None:
    """No such model, no server, a host that is not allowed; and none of it can be loaded here."""
    with pytest.raises(Unavailable, match="status 404"):
        push_url(home, f"http://{server.address}/v2/models/nope", "m", by="tests")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v2/models/m"
    with pytest.raises(Unavailable, match="does not answer"):
        push_url(home, url, "m", by="tests")
    with pytest.raises(Refused, match=r"192\.0\.2\.1:80"):
        push_url(home, "http://192.0.2.1/v2/models/m", "m", by="tests")
    push_url(home, f"http://{server.address}/v2/models/add", "m", go_live=False, by="tests")
    with pytest.raises(InvalidModel, match="another server"):
        open_runtime(Registry(home).fetch("m", 1))
