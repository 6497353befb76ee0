"""Replicas do not fight for processors: each uses the threads that its plan allows, no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tidemill.foundation.home import Home
from tidemill.models.packagers.sklearn import package_sklearn
from tidemill.models.registry import Registry
from tidemill.models.signature import Column, Signature

COUNTING = """
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from threadpoolctl import threadpool_info

class Counting(RegressorMixin, BaseEstimator):
    "Answers how many threads the numeric libraries of its process may use, at most."
    n_features_in_ = 1
    def fit(self, x, y=None):
        return self
    def predict(self, x):
        pools = threadpool_info()
        assert {pool["user_api"] for pool in pools} >= {"blas", "openmp"}, pools
        return np.full(len(x), float(max(pool["num_threads"] for pool in pools)))
"""


@pytest.fixture(scope="module")
def server(launch: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with an ONNX model and one that tells of its libraries."""
    folder = tmp_path_factory.mktemp("counting")
    (folder / "counting_model.py").write_text(COUNTING)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        estimator = import_module("counting_model").Counting().fit(None)
        signature = Signature((Column("x", "float64", (1,)),), (Column("value", "float32"),))

        def register(home: Home) -> None:
            package_sklearn(estimator, "counting", signature, folder / "counting", None)
            Registry(home).register(
                folder / "counting", "counting", blessed=True, blessing={"trust_code": True}
            )

        with launch(register, PYTHONPATH=str(folder)) as server:
            yield server


def _told(server: Any, application: str) -> float:
    connection = server.connection()
    path = f"/v1/models/{application}:predict"
    connection.request("POST", path, json.dumps({"instances": [[0.0]]}))
    response = connection.getresponse()
    said = json.loads(response.read())
    connection.close()
    assert response.status == 200, said
    value: float = said["predictions"][0]
    return value


@pytest.mark.parametrize(
    ("placement", "threads", "used"), [("worker", 1, 1), ("worker", 3, 3), ("gateway", 3, 1)]
)
def test_numeric_libraries_use_the_threads_of_the_plan(
    server: Any, placement: str, threads: int, used: int
) -> None:
    """BLAS and OpenMP of a worker use as many as it says; those of a gateway one, in any case."""
    name = f"{placement}-{threads}"
    plan = {"placement": placement, "threads": threads, "cache_bytes": 0}
    server.deploy(name, "counting", plan=plan, slo_ms=20_000.0)
    assert _told(server, name) == used


@pytest.mark.parametrize("threads", [1, 3])
def test_a_worker_has_the_threads_of_its_plan(server: Any, threads: int) -> None:
    """ONNX Runtime and BLAS start no more than it says; what else there is, is asleep."""
    name = f"add-{threads}"
    server.deploy(name, "add", plan={"placement": "worker", "threads": threads}, slo_ms=20_000.0)
    (worker,) = [each for each in server.health()["workers"] if each["application"] == name]
    tasks = len(list(Path(f"/proc/{worker['pid']}/task").iterdir()))
    assert threads <= tasks <= 2 + 2 * (threads - 1)
