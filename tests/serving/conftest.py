"""A real server in processes of its own, with small models live; shared by this room's tests."""

from __future__ import annotations

import http.client
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import joblib
import msgspec
import numpy as np
import onnx
import pandas as pd  # type: ignore[import-untyped]
import pytest
from onnx import TensorProto, helper
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tidemill.control.deployments import Terms, deploy
from tidemill.control.pushing import push
from tidemill.control.rollout import build_live_table
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings
from tidemill.models.packagers.onnx import package_onnx
from tidemill.models.packagers.sklearn import package_sklearn
from tidemill.models.registry import Registry
from tidemill.models.runtime import open_runtime
from tidemill.models.signature import Array, Batch, Column, Signature
from tidemill.serving.plan import Deployment, ServingPlan

SLOW_MODEL = """
import os, time
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

class Slow(RegressorMixin, BaseEstimator):
    "Answers 2·x after x milliseconds; x = 13 is the end of its process, x < 0 an error."
    def fit(self, x, y=None):
        self.n_features_in_ = 1
        return self
    def predict(self, x):
        for value in np.ravel(x):
            if value == 13: os._exit(13)
            if value < 0: raise RuntimeError("less than nothing")
            time.sleep(value / 1000)
        return np.ravel(x) * 2.0
"""
CARRIERS = ("UA", "B6", "Ünïted")
MONTHS = 12
STARTS_WITHIN_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model of the tests: rows to ask for, and what it answers in this process."""

    name: str
    rows: Batch
    outputs: Batch


@dataclass(kw_only=True)
class Server:
    """A server, what it has live, and its home, which the tests change as the command line does."""

    home: Home
    process: subprocess.Popen[bytes]
    port: int
    admin_port: int
    grpc_port: int | None = None
    models: dict[str, Served] = field(default_factory=dict)
    again: Callable[[], Any] | None = None

    @property
    def address(self) -> str:
        """Host and port, as tritonclient wants them."""
        return f"127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        """A client that keeps its connection."""
        return httpx.Client(base_url=f"http://{self.address}", timeout=20)

    def connection(self) -> http.client.HTTPConnection:
        """A connection that sends what it is told, and no more."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def health(self) -> dict[str, Any]:
        """What the supervisor says of itself."""
        url = f"http://127.0.0.1:{self.admin_port}/admin/v1/health"
        found: dict[str, Any] = httpx.get(url, timeout=20).raise_for_status().json()
        return found

    def until(self, happened: Callable[[], bool], what: str, within_s: float = 30.0) -> None:
        """Waits for something; fails if it takes too long."""
        deadline = time.monotonic() + within_s
        while not happened():
            if time.monotonic() > deadline:
                pytest.fail(f"{what} has not happened within {within_s} s: {self.health()}")
            time.sleep(0.02)

    def go_live(self, deployment: Deployment) -> Deployment:
        """Waits until a deployment is what the server answers with."""
        name, revision = deployment.application, deployment.revision

        def live() -> bool:
            health = self.health()
            for each in health["refused"]:
                assert (each["application"], each["revision"]) != (name, revision), each
            return bool(health["applications"].get(name, 0) >= revision)

        self.until(live, f"revision {revision}")
        return deployment

    def deploy(self, application: str, model: str, version: int = 1, **terms: Any) -> Deployment:
        """Makes a version live; returns when it is."""
        table = terms.pop("table", None)
        plan = terms.pop("plan", {})
        made = Terms(plan=ServingPlan(**plan), **terms)
        return self.go_live(
            deploy(
                self.home,
                application,
                model=model,
                version=version,
                table=table,
                terms=made,
                by="tests",
                reason="a test",
            )
        )


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on free ports, with a compiled forest, strings behind a worker and a table live.

    ``digits``   a vector in, in the gateway
    ``delays``   strings and numbers in, several outputs, in a worker; a table on carrier and month
    ``add``      versions 1 to 3 answer x + 1000·version, in the gateway
    ``fares``    two scalar columns in, age and fare; gives their sum
    ``slow``     answers 2·x after x ms, in a worker, within 300 ms; ``slow-default`` has a default
    """
    with _everything(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture(scope="module")
def grpc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with all that ``server`` has live, that speaks gRPC too."""
    environment = {
        "TIDEMILL_SERVE_GRPC_PORT": "0",
        "TIDEMILL_SERVE_MAX_BODY_BYTES": str(1 << 20),
        "TIDEMILL_SERVE_MODEL_CONTROL": "explicit",
    }
    with _everything(tmp_path_factory.mktemp("grpc"), **environment) as server:
        yield server


@contextmanager
def _everything(folder: Path, **environment: str) -> Iterator[Server]:
    modules = folder / "modules"
    modules.mkdir()
    (modules / "slow_model.py").write_text(SLOW_MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(modules))
        with open_home(Settings(home=folder / "home")) as home:
            models = [_digits(home, folder), _delays(home, folder)]
            _add(home, folder)
            _fares(home, folder)
            _slow(home, folder)
            with _running(home, modules, **environment) as server:
                server.models = {model.name: model for model in models}
                yield server


@contextmanager
def _running(home: Home, folder: Path, **environment: str) -> Iterator[Server]:
    process, said = _started(home, folder, environment)
    try:
        yield Server(
            home=home,
            process=process,
            port=said["port"],
            admin_port=said["admin_port"],
            grpc_port=said["grpc_port"],
        )
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait(20)


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Starts a server of one's own, with ``add`` live and with these environment variables."""

    @contextmanager
    def start(before: Callable[[Home], None] | None = None, **environment: str) -> Iterator[Server]:
        folder = tmp_path_factory.mktemp("launched")
        with open_home(Settings(home=folder / "home")) as home:
            _add(home, folder)
            if before is not None:
                before(home)
            with _running(home, folder, **environment) as server:
                yield server

    return start


@pytest.fixture(scope="module")
def launch_slow(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Starts a server of one's own, with ``slow`` registered and with these variables."""

    @contextmanager
    def start(**environment: str) -> Iterator[Server]:
        folder = tmp_path_factory.mktemp("slow")
        (folder / "slow_model.py").write_text(SLOW_MODEL)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(folder))
            with open_home(Settings(home=folder / "home")) as home:
                _push_slow(home, folder)
                with _running(home, folder, **environment) as server:
                    server.again = lambda: _running(home, folder, **environment)
                    yield server

    return start


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """A client of the server."""
    with server.client() as opened:
        yield opened


@pytest.fixture(scope="session")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose clients may load and unload, with the models that Triton's examples ask.

    Seven models are registered, as in the examples' repository. ``add`` is not live.

    ``simple``            adds and subtracts INT32 (1, 16); ``simple_int8`` and ``simple_string``
                          do the same in other types
    ``simple_identity``   gives text (1, 16) back, ``custom_identity_int32`` numbers
    ``scores``            gives FP32 (1, 3) back
    """
    folder = tmp_path_factory.mktemp("controlled")
    with open_home(Settings(home=folder / "home")) as home:
        _add(home, folder, live=False)
        _simple(home, folder)
        _identity(home, folder, "simple_identity", TensorProto.STRING, 16)
        _identity(home, folder, "custom_identity_int32", TensorProto.INT32, 16)
        _identity(home, folder, "scores", TensorProto.FLOAT, 3)
        environment = {
            "TIDEMILL_SERVE_MODEL_CONTROL": "explicit",
            "TIDEMILL_SERVE_GRPC_PORT": "0",
            "TIDEMILL_SERVE_SERVER_NAME": "triton",
        }
        with _running(home, folder, **environment) as server:
            yield server


def _started(
    home: Home, modules: Path, environment: dict[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    command = [sys.executable, "-m", "tidemill", "serve", "--port", "0", "--admin-port", "0"]
    paths = filter(None, (str(modules), os.environ.get("PYTHONPATH")))
    process = subprocess.Popen(
        [*command, "--json", "--home", str(home.path)],
        stdout=subprocess.PIPE,
        cwd=modules,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})},
    )
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(STARTS_WITHIN_S):
            process.kill()
            pytest.fail(f"the server has not started within {STARTS_WITHIN_S} s")
    line = process.stdout.readline()
    process.stdout.close()
    if not line:
        pytest.fail(f"the server ended with {process.wait(10)} before it served")
    said: dict[str, Any] = json.loads(line)
    return process, said


def _live(home: Home, application: str, **terms: Any) -> None:
    deploy(
        home,
        application,
        model=terms.pop("model", application),
        version=terms.pop("version", 1),
        terms=msgspec.convert(terms, Terms),
        by="tests",
        reason="a test",
    )


def _digits(home: Home, folder: Path) -> Served:
    x, y = load_digits(return_X_y=True)
    estimator = RandomForestClassifier(10, max_depth=6, random_state=0).fit(x, y)
    joblib.dump(estimator, folder / "digits.joblib")
    pushed = push(home, folder / "digits.joblib", "digits", trust_code=True, by="tests")
    assert pushed.model.compiled, pushed.model.reason
    _live(home, "digits", slo_ms=3000.0, plan={"placement": "gateway"})
    rows = {"x": x[::60]}
    return Served(name="digits", rows=rows, outputs=_answers(home, "digits", rows))


def _delays(home: Home, folder: Path) -> Served:
    carrier = np.array(CARRIERS, object).repeat(MONTHS)
    month = np.tile(np.arange(1, MONTHS + 1), len(CARRIERS))
    rows: Batch = {
        "carrier": carrier,
        "month": month,
        "distance": month * 100 + (carrier == "UA") * 50,
        "temperature": 5.5 * month,
    }
    frame = pd.DataFrame(rows)
    labels = np.where((carrier == "UA") ^ (month > 6), "late", "on time")
    columns = ColumnTransformer(
        [
            ("s", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["carrier"]),
            ("n", "passthrough", ["month", "distance", "temperature"]),
        ]
    )
    forest = RandomForestClassifier(10, random_state=0)
    estimator = make_pipeline(columns, forest).fit(frame, labels)
    signature = Signature(
        (
            Column("carrier", "string"),
            Column("month", "int64"),
            Column("distance", "int64"),
            Column("temperature", "float64"),
        ),
        (Column("label", "string"), Column("probabilities", "float32", (2,))),
    )
    package_sklearn(estimator, "delays", signature, folder / "delays", rows)
    push(home, folder / "delays", "delays", trust_code=True, by="tests")
    _live(home, "delays", slo_ms=3000.0, plan={"placement": "worker"})
    # The table knows the first half of the year.
    frame[frame.month <= MONTHS // 2].to_csv(folder / "keyed.csv", index=False)
    build_live_table(home, "delays", folder / "keyed.csv", key=("carrier", "month"), by="tests")
    return Served(name="delays", rows=rows, outputs=_answers(home, "delays", rows))


def _add(home: Home, folder: Path, *, live: bool = True) -> None:
    for version in (1, 2, 3):
        graph = helper.make_graph(
            [helper.make_node("Add", ["x", "c"], ["y"])],
            "add",
            [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
            [helper.make_tensor_value_info("y", TensorProto.INT64, ["n"])],
            [helper.make_tensor("c", TensorProto.INT64, [1], [1000 * version])],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(made, folder / "add.onnx")
        package_onnx(folder / "add.onnx", "add", folder / f"add-{version}")
        Registry(home).register(folder / f"add-{version}", "add", blessed=True)
    if live:
        _live(home, "add", slo_ms=5000.0)


def _simple(home: Home, folder: Path) -> None:
    """The models that Triton's examples ask: a sum and a difference, of numbers and of text."""
    for name, kind in (
        ("simple", TensorProto.INT32),
        ("simple_int8", TensorProto.INT8),
        ("simple_string", TensorProto.STRING),
    ):
        inputs, outputs = ("INPUT0", "INPUT1"), ("OUTPUT0", "OUTPUT1")
        text = kind == TensorProto.STRING
        cast_in: list[Any] = []
        for each in inputs:  # models are tried on empty text: it is a nought here
            if text:
                cast_in += [
                    helper.make_node("Equal", [each, "empty"], [f"{each}e"]),
                    helper.make_node("Where", [f"{each}e", "nought", each], [f"{each}t"]),
                ]
            number = f"{each}t" if text else each
            cast_in.append(helper.make_node("Cast", [number], [f"{each}i"], to=TensorProto.INT32))
        constants = [
            helper.make_tensor("empty", TensorProto.STRING, [1], [b""]),
            helper.make_tensor("nought", TensorProto.STRING, [1], [b"0"]),
        ]
        cast_out = [helper.make_node("Cast", [f"{each}i"], [each], to=kind) for each in outputs]
        graph = helper.make_graph(
            [
                *cast_in,
                helper.make_node("Add", ["INPUT0i", "INPUT1i"], ["OUTPUT0i"]),
                helper.make_node("Sub", ["INPUT0i", "INPUT1i"], ["OUTPUT1i"]),
                *cast_out,
            ],
            name,
            [helper.make_tensor_value_info(each, kind, ["n", 16]) for each in inputs],
            [helper.make_tensor_value_info(each, kind, ["n", 16]) for each in outputs],
            constants if text else [],
        )
        _onnx(home, folder, name, graph)


def _identity(home: Home, folder: Path, name: str, kind: int, size: int) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])],
        name,
        [helper.make_tensor_value_info("INPUT0", kind, ["n", size])],
        [helper.make_tensor_value_info("OUTPUT0", kind, ["n", size])],
    )
    _onnx(home, folder, name, graph)


def _fares(home: Home, folder: Path) -> None:
    columns = (("age", TensorProto.INT64), ("fare", TensorProto.DOUBLE))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["age"], ["years"], to=TensorProto.DOUBLE),
            helper.make_node("Add", ["years", "fare"], ["y"]),
        ],
        "fares",
        [helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in columns],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n"])],
    )
    _onnx(home, folder, "fares", graph)


def _onnx(home: Home, folder: Path, name: str, graph: Any) -> None:
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(made, folder / f"{name}.onnx")
    package_onnx(folder / f"{name}.onnx", name, folder / name)
    Registry(home).register(folder / name, name, blessed=True)
    _live(home, name, slo_ms=5000.0)


def _push_slow(home: Home, folder: Path) -> None:
    from slow_model import Slow  # type: ignore[import-not-found]

    signature = Signature((Column("x", "float64", (1,)),), (Column("value", "float32"),))
    package_sklearn(Slow().fit(None), "slow", signature, folder / "slow", None)
    push(home, folder / "slow", "slow", trust_code=True, go_live=False, by="tests")


def _slow(home: Home, folder: Path) -> None:
    _push_slow(home, folder)
    plan = {"placement": "worker", "cache_bytes": 0}
    _live(home, "slow", slo_ms=300.0, plan=plan)
    _live(home, "slow-default", model="slow", slo_ms=300.0, plan=plan, default={"value": -1.0})


def _answers(home: Home, model: str, rows: Batch) -> Batch:
    runtime = open_runtime(Registry(home).fetch(model, 1), trust_code=True)
    try:
        return {name: _plain(array) for name, array in runtime.predict(rows).items()}
    finally:
        runtime.close()


def _plain(array: Array) -> Array:
    return array.astype(object) if array.dtype.kind == "U" else array
