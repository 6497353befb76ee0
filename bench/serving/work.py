"""The work: seven models, and at least a thousand distinct questions to each with their answers.

======  =====================================================  ================
name    model                                                  a question
======  =====================================================  ================
sum     none to speak of: the sum of the numbers               10 FP64
lr      logistic regression on scikit-learn's digits           64 FP64
rf      random forest of 100 trees on the digits               64 FP64
own     that forest, asked by scikit-learn's own method        64 FP64
bags    25 bagged trees, each asked through scikit-learn       64 FP64
knn     5 nearest of the digits, found by a k-d tree           64 FP64
crowd   the same among eight times as many, of which most      64 FP64
        are digits with some noise
mlp     ONNX, 784-512-512-10, random weights                   784 FP32
======  =====================================================  ================
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import onnxruntime
from bench.questions import Body, write_bodies
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

QUESTIONS = 1024
_CROWD = 8
_CLASSES = 10
_LAYERS = (784, 512, 512, _CLASSES)
_DATATYPES = {"float64": "FP64", "float32": "FP32"}


@dataclass(frozen=True, kw_only=True)
class Work:
    """One workload's files; ``bodies`` by the form that a server takes them in."""

    name: str
    model: Path
    columns: int
    bodies: dict[str, Path]
    expected: Path
    sample: Path
    questions: int


def make_work(name: str, folder: Path) -> Work:
    """Makes the model and writes it with its questions and their answers."""
    folder.mkdir(parents=True)
    model, rows, answers = _MAKERS[name](folder)
    work = Work(
        name=name,
        model=model,
        columns=rows.shape[1],
        bodies={
            form: write_bodies(folder / f"{form}.bodies", [body(row) for row in rows])
            for form, body in FORMS.items()
        },
        expected=folder / "expected.json",
        sample=folder / "sample.npy",
        questions=len(np.unique(rows, axis=0)),
    )
    assert work.questions >= 1000
    np.save(work.sample, rows)
    work.expected.write_text(json.dumps(answers), encoding="utf-8")
    return work


def edge_graph(path: Path, like: str) -> Path:
    """Writes the ONNX model that takes and answers what a workload's does, and computes nothing.

    ``like`` is "rf", of which it answers a label and ten numbers of two digits, or "mlp", of which
    it answers ten of eight digits. Both are made of the first ten of what is asked.
    """
    columns, kind = {"rf": (64, TensorProto.DOUBLE), "mlp": (_LAYERS[0], TensorProto.FLOAT)}[like]
    constants = [
        numpy_helper.from_array(np.array([number], np.int64), name)
        for name, number in (("from", 0), ("to", _CLASSES), ("axis", 1))
    ]
    nodes = [
        helper.make_node("Slice", ["x", "from", "to", "axis"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["ten"], to=TensorProto.FLOAT),
    ]
    outputs = []
    if like == "rf":
        constants.append(numpy_helper.from_array(np.array(0.05, np.float32), "twentieth"))
        nodes.append(helper.make_node("ArgMax", ["ten"], ["label"], axis=1, keepdims=0))
        outputs.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]))
        nodes.append(helper.make_node("Mul", ["ten", "twentieth"], ["probabilities"]))
    else:
        nodes.append(helper.make_node("Softmax", ["ten"], ["y"], axis=-1))
    last = "probabilities" if like == "rf" else "y"
    outputs.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", _CLASSES]))
    inputs = [helper.make_tensor_value_info("x", kind, ["n", columns])]
    return _save(helper.make_graph(nodes, "edge", inputs, outputs, constants), path)


def _sum(folder: Path) -> tuple[Path, np.ndarray, list[Any]]:
    rows = np.round(np.random.default_rng(0).standard_normal((QUESTIONS, 10)), 6)
    answers = [{"y": [value]} for value in rows.sum(axis=1).tolist()]
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n", rows.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", 1])],
        [axes],
    )
    return _save(graph, folder / "sum.onnx"), rows, answers


def _lr(folder: Path) -> tuple[Path, np.ndarray, list[Any]]:
    return _digits(LogisticRegression(max_iter=2000), folder / "lr.joblib")


def _rf(folder: Path) -> tuple[Path, np.ndarray, list[Any]]:
    return _digits(RandomForestClassifier(100, random_state=0), folder / "rf.joblib")


def _own(folder: Path) -> tuple[Path, np.ndarray, list[Any]]:
    # The only one to vote: a forest within another estimator is asked as scikit-learn asks it.
    forest = RandomForestClassifier(100, random_state=0)
    return _digits(VotingClassifier([("forest", forest)], voting="soft"), folder / "own.joblib")


def _bags(folder: Path) -> tuple[Path, np.ndarray, list[Any]]:
    return _digits(BaggingClassifier(n_estimators=25, random_state=0), folder / "bags.joblib")


def _knn(folder: Path) -> tuple[Path, np.ndarray, list[Any]]:
    return _digits(KNeighborsClassifier(5, algorithm="kd_tree"), folder / "knn.joblib")


def _crowd(folder: Path) -> tuple[Path, np.ndarray, list[Any]]:
    digits = load_digits()
    rows, random = np.asarray(digits.data, np.float64), np.random.default_rng(0)
    noisy = [rows + random.normal(0.0, 1.0, rows.shape) for _ in range(_CROWD - 1)]
    estimator = KNeighborsClassifier(5, algorithm="kd_tree")
    estimator.fit(np.concatenate([rows, *noisy]), np.tile(digits.target, _CROWD))
    return _asked(estimator, rows, folder / "crowd.joblib")


def _digits(estimator: Any, path: Path) -> tuple[Path, np.ndarray, list[Any]]:
    digits = load_digits()
    rows = np.asarray(digits.data, np.float64)
    estimator.fit(rows, digits.target)
    return _asked(estimator, rows, path)


def _asked(estimator: Any, rows: np.ndarray, path: Path) -> tuple[Path, np.ndarray, list[Any]]:
    joblib.dump(estimator, path)
    answers = [
        {"label": int(row.argmax()), "probabilities": row.tolist()}
        for row in estimator.predict_proba(rows)
    ]
    return path, rows, answers


def _mlp(folder: Path) -> tuple[Path, np.ndarray, list[Any]]:
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for number, (wide, narrow) in enumerate(itertools.pairwise(_LAYERS)):
        values = (random.standard_normal((wide, narrow)) / np.sqrt(wide)).astype(np.float32)
        weights += [numpy_helper.from_array(values, f"w{number}")]
        weights += [numpy_helper.from_array(np.zeros(narrow, np.float32), f"b{number}")]
        names = [last, f"w{number}", f"b{number}"]
        nodes.append(helper.make_node("Gemm", names, [f"g{number}"]))
        last = f"r{number}"
        if number < len(_LAYERS) - 2:
            nodes.append(helper.make_node("Relu", [f"g{number}"], [last]))
    nodes.append(helper.make_node("Softmax", [f"g{len(_LAYERS) - 2}"], ["y"], axis=-1))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", _LAYERS[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", _LAYERS[-1]])],
        weights,
    )
    path = _save(graph, folder / "mlp.onnx")
    rows = np.round(random.random((QUESTIONS, _LAYERS[0])), 4).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return path, rows, [{"y": row} for row in session.run(["y"], {"x": rows})[0].tolist()]


_MAKERS: dict[str, Callable[[Path], tuple[Path, np.ndarray, list[Any]]]] = {
    "sum": _sum,
    "lr": _lr,
    "rf": _rf,
    "own": _own,
    "bags": _bags,
    "knn": _knn,
    "crowd": _crowd,
    "mlp": _mlp,
}


def _save(graph: Any, path: Path) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _numbers(row: np.ndarray) -> list[float]:
    # The digits of an FP32 as people write them, not those of its double.
    return [float(str(value)) for value in row]


def _plain(row: np.ndarray) -> Body:
    return _json({"x": _numbers(row)})


def _batch(row: np.ndarray) -> Body:
    return _json({"x": [_numbers(row)]})


def _v2(row: np.ndarray) -> Body:
    return _json({"inputs": [{**_tensor(row), "data": _numbers(row)}]})


def _v2_binary(row: np.ndarray) -> Body:
    tensor = {**_tensor(row), "parameters": {"binary_data_size": row.nbytes}}
    head = _json({"inputs": [tensor], "parameters": {"binary_data_output": True}}).data
    return Body(head + row.tobytes(), header_bytes=len(head))


FORMS: dict[str, Callable[[np.ndarray], Body]] = {
    "plain": _plain,
    "batch": _batch,
    "v2": _v2,
    "v2-binary": _v2_binary,
}


def _tensor(row: np.ndarray) -> dict[str, Any]:
    return {"name": "x", "shape": [1, len(row)], "datatype": _DATATYPES[row.dtype.name]}


def _json(value: dict[str, Any] | Sequence[Any]) -> Body:
    return Body(json.dumps(value, separators=(",", ":")).encode())
