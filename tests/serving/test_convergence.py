"""One application's slow start is its own: the others go live meanwhile."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from tidemill.control.deployments import Terms, deploy
from tidemill.foundation.home import Home
from tidemill.models.packagers.sklearn import package_sklearn
from tidemill.models.registry import Registry
from tidemill.models.signature import Column, Signature
from tidemill.serving.plan import ServingPlan

LATE = """
import sys, time
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

class Late(RegressorMixin, BaseEstimator):
    "Takes long to load in a worker."
    n_features_in_ = 1
    def fit(self, x, y=None):
        return self
    def __setstate__(self, state):
        if "tidemill_worker" in sys.argv[0]:
            time.sleep(8)
        super().__setstate__(state)
    def predict(self, x):
        return np.ravel(x) * 2.0
"""


def test_a_slow_start_holds_up_nobody_else(
    launch: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one worker loads, another application goes live; then it does, too."""
    (tmp_path / "late_model.py").write_text(LATE)
    monkeypatch.syspath_prepend(str(tmp_path))
    estimator = import_module("late_model").Late().fit(None)
    signature = Signature((Column("x", "float64", (1,)),), (Column("value", "float32"),))

    def register(home: Home) -> None:
        package_sklearn(estimator, "late", signature, tmp_path / "late", None)
        Registry(home).register(
            tmp_path / "late", "late", blessed=True, blessing={"trust_code": True}
        )

    with launch(register, PYTHONPATH=str(tmp_path)) as server:
        late = deploy(
            server.home,
            "late",
            model="late",
            version=1,
            terms=Terms(plan=ServingPlan(placement="worker")),
            by="tests",
            reason="a test",
        )
        server.deploy("quick", "add", version=2)
        server.deploy("quick", "add", version=3)
        health = server.health()
        assert health["applications"]["quick"] == late.revision + 2
        assert "late" not in health["applications"]
        server.go_live(late)
        server.until(
            lambda: server.health()["revision_live"] == server.health()["revision_wanted"],
            "all to be live",
        )
