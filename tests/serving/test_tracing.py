"""A trace shows the way of one query, from the client's span to the batch that answered it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tidemill.control.deployments import Terms, deploy
from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import InvalidSettings
from tidemill.foundation.home import open_home
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.settings import ServeSettings, Settings
from tidemill.models.packagers.onnx import package_onnx
from tidemill.models.registry import Registry
from tidemill.serving import tracing
from tidemill.serving.plan import ServingPlan
from tidemill.serving.query import Query
from tidemill.serving.tracing import Tracing, check_tracing, is_traced, read_traceparent

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


@dataclass
class Collector:
    """An OTLP receiver over HTTP, and every span that it was sent."""

    port: int = 0
    spans: list[Any] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)

    def of(self, trace: str) -> dict[str, Any]:
        """The spans of a trace by name, once all three have come."""
        deadline = time.monotonic() + 30
        while True:
            found = {s.name: s for s in list(self.spans) if s.trace_id.hex() == trace}
            if len(found) == 3:
                return found
            assert time.monotonic() < deadline, [s.name for s in self.spans]
            time.sleep(0.02)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A collector that listens."""
    made = Collector()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.headers["content-type"] == "application/x-protobuf"
            request = ExportTraceServiceRequest.FromString(body)
            made.paths.add(self.path)
            for each in request.resource_spans:
                made.resources.append(attributes(each.resource))
                made.spans += [span for scope in each.scope_spans for span in scope.spans]
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        made.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield made
        server.shutdown()


@pytest.fixture(scope="module")
def served(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that sends its traces there, with the model ``add`` in a worker."""
    folder = tmp_path_factory.mktemp("traced")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "c"], ["y"])],
        "add",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["n"])],
        [helper.make_tensor("c", TensorProto.INT64, [1], [1000])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, folder / "add.onnx")
    package_onnx(folder / "add.onnx", "add", folder / "add")
    with open_home(Settings(home=folder / "home")) as home:
        Registry(home).register(folder / "add", "add", blessed=True)
        plan = ServingPlan(placement="worker")
        terms = Terms(slo_ms=5000.0, plan=plan)
        deploy(home, "add", model="add", version=1, terms=terms, by="tests", reason="a test")
    settings = {
        "TIDEMILL_SERVE_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        "TIDEMILL_SERVE_OTLP_RATIO": "0",
        "TIDEMILL_LOGS_QUERIES": "all",
    }
    command = [sys.executable, "-m", "tidemill", "serve", "--port", "0", "--admin-port", "0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--json", "--home", str(folder / "home")],
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder,
            env={**os.environ, **settings},
        )
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        yield f"http://127.0.0.1:{said['port']}"
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    logged = [line for line in lines if line["event"] == "query.answered"]
    assert len({line["prediction_id"] for line in logged}) == len(logged) >= 3
    assert {line["replica"] for line in logged if line["source"] == "model"} == {"worker-1"}


def attributes(of: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


def ask(address: str, x: int, **headers: str) -> dict[str, Any]:
    """Asks for one row; returns the answer's parameters."""
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [x]}]}
    answer = httpx.post(f"{address}/v2/models/add/infer", json=body, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["outputs"][0]["data"] == [x + 1000]
    parameters: dict[str, Any] = found["parameters"]
    return parameters


def test_one_query_is_a_chain_from_the_edge_to_the_replica(
    served: str, collector: Collector
) -> None:
    """The client's trace goes on: request, queue, compute, each inside the one before."""
    began = time.time_ns()
    said = ask(served, 41, traceparent=f"00-{TRACE}-{SPAN}-01")
    ended = time.time_ns()
    spans = collector.of(TRACE)
    request, queue, compute = spans["infer add"], spans["queue"], spans["compute"]
    assert request.parent_span_id.hex() == SPAN
    assert request.kind == request.SPAN_KIND_SERVER
    assert queue.parent_span_id == compute.parent_span_id == request.span_id
    assert began - 10**8 <= request.start_time_unix_nano == queue.start_time_unix_nano
    assert queue.end_time_unix_nano == compute.start_time_unix_nano
    assert compute.end_time_unix_nano <= request.end_time_unix_nano <= ended + 10**8
    about = attributes(request)
    assert about["tidemill.prediction_id"] == said["prediction_id"]
    assert (about["tidemill.application"], about["tidemill.version"]) == ("add", 1)
    assert (about["tidemill.source"], about["tidemill.rows"]) == ("model", 1)
    where = attributes(compute)
    assert where["tidemill.replica"] == "worker-1"
    assert where["tidemill.batch_rows"] == 1
    assert where["tidemill.batch"] >= 1
    assert collector.resources[-1]["service.name"] == "tidemill"
    assert collector.resources[-1]["service.instance.id"] == "gateway-0"
    assert collector.paths == {"/v1/traces"}


def test_the_clients_word_counts(served: str, collector: Collector) -> None:
    """What the client does not record, or says in two ways, is not traced with ratio 0."""
    other = "1" * 32
    ask(served, 1, traceparent=f"00-{other}-{SPAN}-00")
    ask(served, 2)
    body = b'{"instances": [3]}'
    head = (
        b"POST /v1/models/add:predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n"
        % len(body)
    )
    twice = f"traceparent: 00-{other}-{SPAN}-01\r\n".encode() * 2
    with httpx.Client(base_url=served) as client:
        port = client.base_url.port
    import socket

    with socket.create_connection(("127.0.0.1", port or 0), timeout=20) as connection:
        connection.sendall(head + twice + b"\r\n" + body)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    last = "2" * 32
    ask(served, 4, traceparent=f"00-{last}-{SPAN}-01")
    collector.of(last)
    assert not [span for span in collector.spans if span.trace_id.hex() == other]
    text = httpx.get(f"{served}/metrics", timeout=20).text
    counts = {
        line.split('"')[1]: float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("tidemill_spans_total{")
    }
    assert counts["sent"] >= 3.0
    assert counts["sent"] % 3 == counts["lost"] == counts["dropped"] == 0.0


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"twice",
        f"00-{TRACE}-{SPAN}".encode(),
        f"ff-{TRACE}-{SPAN}-01".encode(),
        f"00-{'0' * 32}-{SPAN}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        f"00-{TRACE.upper()}-{SPAN}-01".encode(),
        f"00-{TRACE}-{SPAN}-01-more".encode(),
    ],
)
def test_a_wrong_traceparent_is_none(value: bytes) -> None:
    """As the W3C has it: what is not understood is ignored, and a new trace may begin."""
    assert read_traceparent(value) is None


def test_sampling_is_a_decision() -> None:
    """A parent decides for its own; otherwise the draw does."""
    later = read_traceparent(f"01-{TRACE}-{SPAN}-03-more".encode())
    assert later is not None
    assert (later.sampled, later.trace_id) == (True, int(TRACE, 16))
    assert is_traced(later, ratio=0.0, draw=0.9)
    assert not is_traced(read_traceparent(f"00-{TRACE}-{SPAN}-00".encode()), ratio=1.0, draw=0.0)
    assert is_traced(None, ratio=0.25, draw=0.2)
    assert not is_traced(None, ratio=0.25, draw=0.25)
    assert not is_traced(None, ratio=0.0, draw=0.0)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:4318", "file:///tmp/x", "http://me:pa55@host/", "http://"]
)
def test_an_endpoint_is_a_plain_url(url: str) -> None:
    """Anything else is refused when the server starts, and a password is not repeated."""
    with pytest.raises(InvalidSettings, match="otlp_endpoint") as caught:
        check_tracing(ServeSettings(otlp_endpoint=url))
    assert "pa55" not in str(caught.value)
    check_tracing(ServeSettings(otlp_endpoint="https://collector:4318"))
    check_tracing(ServeSettings())


def test_nobody_waits_for_a_collector_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over the bound spans are dropped and counted, and ending takes no longer than it may."""
    import asyncio
    import socket

    monkeypatch.setattr(tracing, "MAX_WAITING", 9)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        instruments = Instruments()
        settings = ServeSettings(
            otlp_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", otlp_ratio=1.0
        )
        traces = Tracing(settings, instruments, FakeClock(at=1e9), "gateway-0")
        traces.start()
        query = Query(
            inputs={"x": np.array([1])}, n=1, arrived=5.0, deadline=6.0, done=lambda _: None
        )
        query.state = SimpleNamespace(name="app")
        for _ in range(100):
            traces.ended(query, 5.5)
        rows = instruments.snapshot()["tidemill_spans"]["rows"]
        assert {values[0]: count for values, count in rows}["dropped"] == 90
        began = time.monotonic()
        asyncio.run(traces.aclose(0.2))
        assert time.monotonic() - began < 2.0
