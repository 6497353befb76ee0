"""One application's slow start is its own: the others go live meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

from tidemill.control.deployments import Terms, deploy
from tidemill.foundation.home import Home
from tidemill.models.packagers.sklearn import package_sklearn
from tidemill.models.registry import Registry
from tidemill.models.signature import Column, Signature
from tidemill.serving.plan import Deployment, ServingPlan

LATE = """
import os, sys, time
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

class Late(RegressorMixin, BaseEstimator):
    "Loads in a worker of so many threads once there is a file of that name."
    n_features_in_ = 1
    def fit(self, x, y=None):
        return self
    def __setstate__(self, state):
        if "tidemill_worker" in sys.argv[0]:
            gate = GATES + os.environ["OMP_NUM_THREADS"]
            open(gate + ".waits", "w").close()
            while not os.path.exists(gate):
                time.sleep(0.02)
        super().__setstate__(state)
    def predict(self, x):
        return np.ravel(x) * 2.0
"""


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Home], None]:
    """Registers a model that loads when it is told."""
    (tmp_path / "late_model.py").write_text(f"GATES = {str(tmp_path / 'gate-')!r}\n{LATE}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "late_model", raising=False)
    estimator = import_module("late_model").Late().fit(None)
    signature = Signature((Column("x", "float64", (1,)),), (Column("value", "float32"),))

    def _register(home: Home) -> None:
        package_sklearn(estimator, "late", signature, tmp_path / "late", None)
        Registry(home).register(
            tmp_path / "late", "late", blessed=True, blessing={"trust_code": True}
        )

    return _register


def deploy_late(home: Home, threads: int) -> Deployment:
    """Wants the model live, in a worker of so many threads."""
    return deploy(
        home,
        "late",
        model="late",
        version=1,
        terms=Terms(plan=ServingPlan(placement="worker", threads=threads)),
        by="tests",
        reason="a test",
    )


def test_a_slow_start_holds_up_nobody_else(launch: Any, register: Any, tmp_path: Path) -> None:
    """While one worker loads, another application goes live; then it does, too."""
    with launch(register, PYTHONPATH=str(tmp_path)) as server:
        late = deploy_late(server.home, 1)
        server.deploy("quick", "add", version=2)
        server.deploy("quick", "add", version=3)
        health = server.health()
        assert health["applications"]["quick"] == late.revision + 2
        assert "late" not in health["applications"]
        (tmp_path / "gate-1").touch()
        server.go_live(late)
        server.until(
            lambda: server.health()["revision_live"] == server.health()["revision_wanted"],
            "all to be live",
        )


def test_a_change_while_a_worker_loads_is_live_when_its_own_worker_is(
    launch: Any, register: Any, tmp_path: Path
) -> None:
    """Nobody is told that the newest revision is live while the one before comes up."""
    with launch(register, PYTHONPATH=str(tmp_path)) as server:
        (tmp_path / "gate-1").touch()
        server.go_live(deploy_late(server.home, 1))
        deploy_late(server.home, 2)
        server.until((tmp_path / "gate-2.waits").exists, "a worker to load")
        time.sleep(0.6)  # it is not waited for any more
        newest = deploy_late(server.home, 3)
        time.sleep(0.15)
        (tmp_path / "gate-2").touch()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            health = server.health()
            assert health["revision_live"] < newest.revision, health
            time.sleep(0.02)
        (tmp_path / "gate-3").touch()
        server.go_live(newest)


def test_a_correction_does_not_wait_for_what_it_corrects(
    launch: Any, register: Any, tmp_path: Path
) -> None:
    """A version that hangs while it loads is given up once another one is wanted."""
    with launch(register, PYTHONPATH=str(tmp_path)) as server:
        server.deploy("late", "add", version=2)
        deploy_late(server.home, 2)
        server.until((tmp_path / "gate-2.waits").exists, "a worker to load")
        time.sleep(0.6)  # it is not waited for any more
        server.deploy("late", "add", version=3)  # live within seconds, or this fails
        health = server.health()
        assert health["revision_live"] == health["revision_wanted"]
        assert health["refused"] == []
        assert health["workers"] == []


@pytest.mark.alone
def test_what_is_live_gets_its_worker_back_while_a_change_loads(
    launch: Any, register: Any, tmp_path: Path
) -> None:
    """A worker that dies meanwhile is started again, and nobody waits for the change."""
    with launch(register, PYTHONPATH=str(tmp_path)) as server:
        (tmp_path / "gate-1").touch()
        server.go_live(deploy_late(server.home, 1))
        newest = deploy_late(server.home, 2)
        server.until((tmp_path / "gate-2.waits").exists, "a worker to load")
        (worker,) = server.health()["workers"]
        os.kill(worker["pid"], signal.SIGKILL)

        def answers() -> bool:
            url = f"http://127.0.0.1:{server.port}/v1/models/late:predict"
            return httpx.post(url, json={"instances": [[2.0]]}).is_success

        server.until(lambda: worker not in server.health()["workers"], "the worker to die")
        server.until(answers, "an answer")
        assert server.health()["applications"]["late"] < newest.revision
        (tmp_path / "gate-2").touch()
        server.go_live(newest)
        server.until(lambda: len(server.health()["workers"]) == 1, "the old worker to end")
