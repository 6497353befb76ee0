"""Models of River's and of MLflow's, from what was saved to answers of a real server.

One test asks the machine's package index for MLflow's skinny distribution and what that requires.
"""

from __future__ import annotations

import json
import pickle
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from river import linear_model, preprocessing, tree
from sklearn.linear_model import LinearRegression

from tidemill.foundation.errors import InvalidInput, InvalidModel, NotTrusted
from tidemill.foundation.home import Home
from tidemill.models.environments import environments_path
from tidemill.models.format import read_manifest
from tidemill.models.packagers.mlflow import model_requirements
from tidemill.models.registry import Registry
from tidemill.models.requirements import unmet_requirements
from tidemill.models.signature import Column, Signature
from tidemill.recipes.push import push_model
from tidemill.recipes.steps.infra import candidate_server
from tidemill.serving.placement import decide_placement
from tidemill.serving.plan import ServingPlan

DRAWN = np.random.default_rng(9)
ROWS = [{"heat": heat, "load": load} for heat, load in DRAWN.normal(size=(200, 2)).tolist()]
INPUTS = (Column("heat", "float64"), Column("load", "float64"))


def learned(model: Any, labels: list[Any]) -> Any:
    """Lets a model learn from the rows."""
    for row, label in zip(ROWS, labels, strict=True):
        model.learn_one(row, label)
    return model


def stored(folder: Path, model: Any) -> Path:
    """Writes a model as people do."""
    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps(model))
    return path


def ask(port: int, name: str, rows: list[Any]) -> Any:
    """Asks a server; a refusal is returned with its status."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/models/{name}:predict",
        json.dumps({"instances": rows}).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())["predictions"]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def test_a_model_of_rivers_is_served_as_it_answers(home: Home, tmp_path: Path) -> None:
    """No flag but trust; the same labels and probabilities, in workers, over HTTP."""
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    learned(model, [row["heat"] > row["load"] for row in ROWS])
    pushed = push_model(home, stored(tmp_path, model), "late", trust_code=True)
    assert (pushed.runtime, pushed.inputs) == ("river", ("heat", "load"))
    assert push_model(home, stored(tmp_path, model), "late", trust_code=True).version == 1
    with candidate_server(Registry(home).fetch("late", 1), "late") as port:
        answers = ask(port, "late", ROWS[:20])
        assert ask(port, "late", [{"heat": "warm", "load": 1.0}])[0] == 400
        assert ask(port, "late", ROWS[:20]) == answers
    for row, answer in zip(ROWS[:20], answers, strict=True):
        told = model.predict_proba_one(row)
        assert answer["label"] == model.predict_one(row)
        np.testing.assert_allclose(answer["probabilities"], [told[False], told[True]], rtol=1e-6)


def test_a_model_of_rivers_needs_a_word_and_its_columns(home: Home, tmp_path: Path) -> None:
    """Unvouched it is not loaded; what it does not tell is asked for, and then believed if true."""
    model = learned(
        tree.HoeffdingTreeClassifier(), ["up" if r["heat"] > 0 else "down" for r in ROWS]
    )
    path = stored(tmp_path, model)
    with pytest.raises(NotTrusted, match="runs code"):
        push_model(home, path, "it")
    with pytest.raises(InvalidModel, match="HoeffdingTreeClassifier") as caught:
        push_model(home, path, "it", trust_code=True)
    assert "--signature" in caught.value.remedy
    label = Column("label", "string")
    three = Signature(INPUTS, (label, Column("probabilities", "float32", (3,))))
    with pytest.raises(InvalidModel, match="knows the 2 classes down, up"):
        push_model(home, path, "it", trust_code=True, signature=three)
    assert Registry(home).list() == ()
    two = Signature(INPUTS, (label, Column("probabilities", "float32", (2,))))
    assert push_model(home, path, "it", trust_code=True, signature=two).version == 1


def test_what_mlflow_saved_is_served_as_it_answers(
    home: Home, tmp_path: Path, save_pyfunc: Callable[..., Path]
) -> None:
    """Where its requirements are met it runs among Tidemill's libraries, always in a worker."""
    saved = save_pyfunc(tmp_path / "saved")
    pushed = push_model(home, saved, "adds", trust_code=True)
    assert pushed.environment is None
    assert pushed.inputs == ("a", "b", "word")
    assert pushed.outputs == ("total", "shout")
    folder = Registry(home).fetch("adds", 1)
    manifest = read_manifest(folder)
    assert {"mlflow/MLmodel", "mlflow/python_model.pkl"} <= manifest.files.keys()
    assert decide_placement(ServingPlan(placement="gateway"), manifest) == "worker"
    with candidate_server(folder, "adds") as port:
        rows = [{"a": 0.5, "b": 2, "word": "ünd"}, {"a": 1, "b": -1, "word": ""}]
        assert ask(port, "adds", rows) == [
            {"total": 2.5, "shout": "ÜND"},
            {"total": 0.0, "shout": ""},
        ]
        status, said = ask(port, "adds", [{"a": 0.5, "b": 2.5, "word": "x"}])
        assert status == 400
        assert "'b'" in said


def test_what_mlflow_saved_may_bring_its_requirements(
    home: Home, tmp_path: Path, save_pyfunc: Callable[..., Path]
) -> None:
    """What is not met here is built for it at push, and it answers there."""
    other = "3.1.1" if version("cloudpickle") != "3.1.1" else "3.1.2"
    saved = save_pyfunc(tmp_path / "saved", requirements=(f"cloudpickle=={other}", "pandas"))
    said: list[str] = []
    pushed = push_model(home, saved, "adds", trust_code=True, say=said.append)
    assert f"it requires cloudpickle=={other}" in said[0]
    assert pushed.environment is not None
    assert f"cloudpickle=={other}" in pushed.environment.distributions
    folder, place = Registry(home).fetch("adds", 1), environments_path(home.cache_path)
    with candidate_server(folder, "adds", environments=place) as port:
        assert ask(port, "adds", [{"a": 0.5, "b": 2, "word": "x"}]) == [
            {"total": 2.5, "shout": "X"}
        ]


def test_what_mlflow_does_not_tell_is_asked_for(
    home: Home, tmp_path: Path, save_pyfunc: Callable[..., Path]
) -> None:
    """Outputs are seen in answers to a sample; what stays unknown is asked for."""
    line = LinearRegression().fit(np.eye(2), [1.0, 2.0])
    requirements = ("cloudpickle", "scikit-learn")
    half = save_pyfunc(tmp_path / "half", line, signed="inputs", requirements=requirements)
    with pytest.raises(InvalidModel, match="does not say what the model gives") as caught:
        push_model(home, half, "line", trust_code=True)
    assert "--signature" in caught.value.remedy
    np.save(tmp_path / "rows.npy", np.eye(2))
    pushed = push_model(home, half, "line", trust_code=True, sample=tmp_path / "rows.npy")
    assert (pushed.inputs, pushed.outputs) == (("x",), ("value",))


def test_a_folder_of_mlflows_is_taken_whole_or_not_at_all(
    home: Home, tmp_path: Path, save_pyfunc: Callable[..., Path]
) -> None:
    """Nobody's code runs unvouched; links, and requirements that are none, are refused by name."""
    saved = save_pyfunc(tmp_path / "saved")
    with pytest.raises(NotTrusted, match="what it requires run code"):
        push_model(home, saved, "adds")
    (saved / "aside").symlink_to(tmp_path)
    with pytest.raises(InvalidModel, match="aside' is a link"):
        push_model(home, saved, "adds", trust_code=True)
    (saved / "aside").unlink()
    (saved / "requirements.txt").write_text("mlflow==3.1.0\n-c constraints.txt\n")
    with pytest.raises(InvalidInput, match="line 2 of"):
        push_model(home, saved, "adds", trust_code=True)
    (saved / "requirements.txt").unlink()
    with pytest.raises(InvalidModel, match=r"has no requirements\.txt") as caught:
        push_model(home, saved, "adds", trust_code=True)
    assert "--requirements" in caught.value.remedy
    assert Registry(home).list() == ()


def test_mlflow_is_required_in_its_skinny_distribution(tmp_path: Path) -> None:
    """Whole it would bring servers; what loads a model is enough, and pandas."""
    listed = tmp_path / "requirements.txt"
    listed.write_text("mlflow==3.1.0  # by MLflow\nScikit_Learn>=1\nsix<1; python_version < '3'\n")
    wanted = model_requirements(tmp_path)
    assert wanted == (
        "mlflow-skinny==3.1.0",
        "Scikit_Learn>=1",
        "six<1; python_version < '3'",
        "pandas",
    )
    assert unmet_requirements(wanted) == ("mlflow-skinny==3.1.0",)
    assert unmet_requirements(["nothing-of-this-name", "numpy"]) == ("nothing-of-this-name",)
    listed.write_text("numpy\n")
    assert model_requirements(tmp_path) == ("numpy", "mlflow-skinny", "pandas")
