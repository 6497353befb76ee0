"""The models as every peer calls them: many rows in, an array per output.

Runs in the peers' own environments: NumPy and the model's framework are all that it needs. The
environment names the work (``WORKLOAD``) and the model's file (``MODEL``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Outputs = Mapping[str, Any]
Predict = Callable[[Any], Outputs]

WORKLOAD = os.environ.get("WORKLOAD", "sum")
CLASSIFIER = WORKLOAD in {"lr", "rf"}
COLUMNS = {"sum": 10, "lr": 64, "rf": 64, "mlp": 784}[WORKLOAD]
DTYPE: Any = np.float32 if WORKLOAD == "mlp" else np.float64


def open_model() -> Predict:
    """Loads the model and returns what answers for it."""
    if WORKLOAD == "sum":
        return lambda rows: {"y": np.asarray(rows, DTYPE).sum(axis=1, keepdims=True)}
    if WORKLOAD == "mlp":
        return _onnx(os.environ["MODEL"])
    return _sklearn(os.environ["MODEL"])


def answers(outputs: Outputs) -> list[dict[str, Any]]:
    """Returns a JSON value for each row."""
    if not CLASSIFIER:
        return [{"y": row} for row in outputs["y"].tolist()]
    pairs = zip(outputs["label"].tolist(), outputs["probabilities"].tolist(), strict=True)
    return [{"label": label, "probabilities": row} for label, row in pairs]


def _sklearn(path: str) -> Predict:
    import joblib  # noqa: PLC0415

    model = joblib.load(path)

    def predict(rows: Any) -> Outputs:
        probabilities = model.predict_proba(np.asarray(rows, DTYPE))
        # As predict() would say, without a second walk through the trees.
        return {
            "label": model.classes_[probabilities.argmax(axis=1)],
            "probabilities": probabilities,
        }

    return predict


def _onnx(path: str) -> Predict:
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda rows: {"y": session.run(["y"], {"x": np.asarray(rows, DTYPE)})[0]}
