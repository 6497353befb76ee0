"""From what LightGBM and XGBoost save to answers over HTTP, by two commands."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import xgboost

X = np.random.default_rng(4).normal(size=(300, 4))
LATE = (X[:, 0] + X[:, 1] > 0).astype(int)


def ask(port: int, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Returns the outputs of a query of the protocol v2."""
    body = {
        "inputs": [
            {"name": key, "datatype": "FP64", "shape": list(np.shape(value)), "data": value}
            for key, value in inputs.items()
        ]
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/{name}/infer",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        outputs = json.loads(response.read())["outputs"]
    return {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in outputs}


def test_pushed_boosters_answer_as_their_libraries(cli: Any, tmp_path: Path) -> None:
    """Compiled in the gateway, or as they are in a worker: no word of trust, equal answers."""
    names = ["a", "b", "c", "d"]
    compiled = lightgbm.train(
        {"objective": "binary", "verbosity": -1}, lightgbm.Dataset(X, LATE), 5
    )
    compiled.save_model(tmp_path / "late.txt")
    given = xgboost.DMatrix(X, X[:, 0], feature_names=names)
    native = xgboost.train({"booster": "gblinear"}, given, 5)
    native.save_model(tmp_path / "delay.ubj")
    late = cli("push", str(tmp_path / "late.txt"), "--name", "late", "--json").json()
    delay = cli("push", str(tmp_path / "delay.ubj"), "--name", "delay", "--json").json()
    assert (late["model"]["runtime"], late["model"]["inputs"]) == ("onnx", ["x"])
    assert (delay["model"]["runtime"], delay["model"]["inputs"]) == ("xgboost", names)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tidemill", "serve", "--json"),
            *("--port", "0", "--admin-port", "0"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 90)[0]
        port = json.loads(process.stdout.readline())["port"]
        answer = ask(port, "late", {"x": X[:50].tolist()})
        likely = compiled.predict(X[:50])
        np.testing.assert_allclose(answer["probabilities"][:, 1], likely, atol=1e-6)
        np.testing.assert_array_equal(answer["label"], likely > 0.5)
        for rows in (X[:1], X[:50]):
            columns = dict(zip(names, rows.T.tolist(), strict=True))
            expected = native.predict(xgboost.DMatrix(rows, feature_names=names))
            np.testing.assert_allclose(ask(port, "delay", columns)["value"], expected, atol=1e-6)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
