"""The work: keys of one number, ten numbers to each, the same for every server.

The model takes the key and nine numbers, and gives ten; the table is keyed by the one, so that a
question is the key alone. The answers that the peers hold are the model's, in 80 bytes each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from bench.questions import Body, write_bodies
from onnx import TensorProto, helper, numpy_helper

APPLICATION, KEY = "lookup", "user"
WIDTH = 10
QUESTIONS = 20_000
"""So many keys are asked for in turn: more than any server remembers requests."""

_FEATURES = tuple(f"f{at}" for at in range(WIDTH - 1))
_SCALE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Work:
    """The files of a run; ``bodies`` by how a server is asked."""

    model: Path
    rows: Path
    values: Path
    expected: Path
    bodies: dict[str, Path]
    keys: int


def make_work(folder: Path, keys: int) -> Work:
    """Writes the model, so many rows, the answers to them, and the questions."""
    folder.mkdir(parents=True)
    model, rows, values = folder / "model.onnx", folder / "rows.parquet", folder / "values.npy"
    write_model(model)
    write_rows(rows, keys)
    np.save(values, _answers(model, rows))
    asked = np.random.default_rng(2).choice(keys, min(QUESTIONS, keys), replace=False).tolist()
    expected = folder / "expected.json"
    answers = np.load(values)
    expected.write_text(json.dumps([{"y": answers[key].tolist()} for key in asked]))
    forms = {
        "lookup": [
            Body(b"", target=f"/v1/models/{APPLICATION}:lookup?{KEY}={key}") for key in asked
        ],
        "predict": [Body(json.dumps({"instances": [{KEY: key}]}).encode()) for key in asked],
        "peers": [Body(b"", target=f"/lookup/{key}") for key in asked],
    }
    bodies = {form: write_bodies(folder / f"{form}.bodies", each) for form, each in forms.items()}
    return Work(model=model, rows=rows, values=values, expected=expected, bodies=bodies, keys=keys)


def write_rows(path: Path, count: int) -> None:
    """Writes rows of the keys 0, 1, …; the first of many are those of few."""
    columns = {KEY: np.arange(count, dtype=np.int64)}
    for seed, name in enumerate(_FEATURES):
        columns[name] = np.random.default_rng(seed).random(count, dtype=np.float32)
    pq.write_table(pa.table(columns), path)


def write_model(path: Path) -> None:
    """Writes a network of one layer from ten numbers to ten of 64 bits."""
    weights = np.random.default_rng(1).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    weights[0] *= _SCALE  # the key counts as a number of its millions
    nodes = [
        helper.make_node("Cast", [KEY], ["k"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["k", *_FEATURES], ["x"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["s"]),
        helper.make_node("Cast", ["s"], ["y"], to=TensorProto.DOUBLE),
    ]
    inputs = [helper.make_tensor_value_info(KEY, TensorProto.INT64, ["n", 1])]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in _FEATURES
    ]
    graph = helper.make_graph(
        nodes,
        "lookup",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", WIDTH])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)


def _answers(model: Path, rows: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    table = pq.read_table(rows)
    given = {name: table[name].to_numpy().reshape(-1, 1) for name in table.column_names}
    answers: np.ndarray = session.run(["y"], given)[0]
    return answers
