"""A dry run asks a model as it would be served, and leaves nothing behind."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import joblib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier

from tidemill.control.applications import find_version
from tidemill.control.deployments import list_deployments
from tidemill.foundation.errors import InvalidInput, InvalidModel, ModelFailed, NotFound, NotTrusted
from tidemill.foundation.home import Home
from tidemill.models.format import read_manifest, write_model
from tidemill.models.packagers.onnx import package_onnx
from tidemill.models.registry import Registry
from tidemill.recipes.dry_run import BATCH_ROWS, Asking, read_input, try_file, try_version
from tidemill.recipes.push import Source, push_model

DRAWN = np.random.default_rng(5)
ROWS = DRAWN.normal(size=(200, 4))
LABELS = (ROWS[:, 0] > 0).astype(int)


@pytest.fixture
def double(tmp_path: Path) -> Path:
    """An ONNX model that doubles a pair."""
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "y")
    ]
    node = helper.make_node("Add", ["x", "x"], ["y"])
    graph = helper.make_graph([node], "double", [sides[0]], [sides[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path = tmp_path / "double.onnx"
    onnx.save(model, path)
    return path


def test_a_file_is_asked_as_it_would_be_served_and_nothing_is_kept(
    home: Home, double: Path
) -> None:
    """Answers, columns, times and the place are told; registry and deployments stay empty."""
    asking = Asking(body=read_input("[[1, 2], [3, 4.5]]"))
    done = try_file(home, Source(path=double, name="double"), asking)
    assert done.answers == [[2.0, 4.0], [6.0, 9.0]]
    assert done.rows == 2
    assert not done.made_up
    assert (done.runtime, done.placement, done.version) == ("onnx", "gateway", None)
    assert done.inputs == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert done.row_ms > 0.0
    assert done.batch_rows == BATCH_ROWS
    assert Registry(home).list() == ()
    assert not list_deployments(home)


def test_a_folder_that_may_not_be_registered_is_not_opened_either(
    home: Home, double: Path, tmp_path: Path
) -> None:
    """A graph in somebody's folder that reads another file is refused before a server starts."""
    folder = tmp_path / "folder"
    manifest = package_onnx(double, "double", folder)
    model = onnx.load(folder / manifest.entry)
    weights = numpy_helper.from_array(np.ones(2, dtype=np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="secret")
    model.graph.initializer.append(weights)
    (folder / manifest.entry).write_bytes(model.SerializeToString())
    write_model(folder, read_manifest(folder))
    with pytest.raises(InvalidModel, match="keeps weights in another file"):
        try_file(home, Source(path=folder, name="double"), Asking())


def test_a_registered_version_is_asked_by_either_protocol(home: Home, double: Path) -> None:
    """It need not be live; a v2 body is read as v2."""
    push_model(home, double, "double")
    assert find_version(home, "double:1") == ("double", 1)
    assert find_version(home, "nobody") is None
    with pytest.raises(NotFound):
        find_version(home, "double:7")
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    done = try_version(home, "double", 1, Asking(body=json.dumps({"inputs": [tensor]}).encode()))
    assert done.answers == [[2.0, 4.0]]
    assert done.version == 1
    assert not list_deployments(home)


def test_a_forest_is_compiled_and_asked_a_sample(home: Home, tmp_path: Path) -> None:
    """The sample is what it is asked, and what its compiled form is compared on."""
    path, sample = tmp_path / "forest.joblib", tmp_path / "rows.npy"
    joblib.dump(RandomForestClassifier(5, random_state=0).fit(ROWS, LABELS), path)
    np.save(sample, ROWS[:50])
    source = Source(path=path, name="forest", sample=sample)
    with pytest.raises(NotTrusted):
        try_file(home, source, Asking(sample=sample))
    done = try_file(home, source, Asking(sample=sample), trust_code=True)
    assert done.compiled
    assert done.verified is not None
    assert done.rows == 50
    assert [answer["label"] for answer in done.answers] == LABELS[:50].tolist()


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ("[[1]]", "x"),
        ('{"instances": [["a", 2]]}', "x"),
        ('{"inputs": []}', "x"),
        ('{"instances": 3}', "instances"),
        ("[1, 2", "JSON"),
    ],
)
def test_an_input_that_does_not_fit_is_told_before_any_server_starts(
    home: Home, double: Path, monkeypatch: pytest.MonkeyPatch, told: str, named: str
) -> None:
    """The wire's own reader says which column and why."""
    monkeypatch.setattr("tidemill.recipes.dry_run.candidate_server", None)
    with pytest.raises(InvalidInput, match=named):
        try_file(home, Source(path=double, name="double"), Asking(body=read_input(told)))


PICKY = """
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

class Picky(RegressorMixin, BaseEstimator):
    n_features_in_ = 1
    def fit(self, x, y=None):
        return self
    def predict(self, x):
        if np.max(x) > 100:
            raise RuntimeError("over a hundred")
        return np.ravel(x) * 2.0
"""


def test_a_model_that_fails_on_the_input_is_told_apart(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model raised is in the error: it is the model's failure, not the input's."""
    (tmp_path / "picky_model.py").write_text(PICKY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    picky = import_module("picky_model").Picky()
    joblib.dump(picky.fit(None), tmp_path / "picky.joblib")
    np.save(tmp_path / "rows.npy", ROWS[:, :1])
    source = Source(path=tmp_path / "picky.joblib", name="picky", sample=tmp_path / "rows.npy")
    done = try_file(home, source, Asking(), trust_code=True)
    assert done.made_up
    assert done.answers == [0.0]
    assert done.placement == "worker"
    assert not done.compiled
    with pytest.raises(ModelFailed, match="over a hundred"):
        try_file(home, source, Asking(body=read_input("[[101.0]]")), trust_code=True)


def test_an_input_may_be_a_file(tmp_path: Path) -> None:
    """What is no JSON is a path."""
    (tmp_path / "rows.json").write_text(" [1]")
    assert json.loads(read_input(str(tmp_path / "rows.json"))) == {"instances": [1]}
    with pytest.raises(NotFound):
        read_input(str(tmp_path / "nothing.json"))
