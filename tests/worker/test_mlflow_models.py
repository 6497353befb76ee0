"""MLflow's models say what they take and give; loading one writes nothing and calls nobody."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.linear_model import LinearRegression

from tidemill_worker.functions import InvalidInput, InvalidModel
from tidemill_worker.mlflow_models import (
    PyfuncModel,
    by_name,
    columns_told,
    describe_pyfunc,
    load_pyfunc,
    read_mlmodel,
)
from tidemill_worker.process import keep_mlflow_quiet
from tidemill_worker.signatures import Column, Signature

MATRIX = np.random.default_rng(1).normal(size=(40, 3))


def told(inputs: Any, outputs: Any = None) -> dict[str, Any]:
    """A signature as ``MLmodel`` keeps it."""
    return {
        "signature": {
            "inputs": json.dumps(inputs),
            "outputs": None if outputs is None else json.dumps(outputs),
        }
    }


def tensor(shape: list[int], dtype: str = "float32", **name: str) -> dict[str, Any]:
    """A tensor as MLflow describes one."""
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}, **name}


@pytest.mark.parametrize(
    ("inputs", "columns"),
    [
        (
            [{"type": "double", "name": "a"}, {"type": "datetime", "name": "at"}],
            [("a", "float64", ()), ("at", "string", ())],
        ),
        (
            [{"type": "integer", "name": "n"}, {"type": "boolean", "name": "b"}],
            [("n", "int32", ()), ("b", "bool", ())],
        ),
        ([{"type": "string"}], [("x", "string", ())]),
        ([{"type": "long"}, {"type": "float"}], [("x0", "int64", ()), ("x1", "float32", ())]),
        ([tensor([-1, 28, 28])], [("x", "float32", (28, 28))]),
        (
            [tensor([-1], "int64", name="ids"), tensor([-1, 2], "<U5", name="words")],
            [("ids", "int64", ()), ("words", "string", (2,))],
        ),
    ],
)
def test_columns_are_those_of_its_signature(inputs: Any, columns: Any) -> None:
    """Columns by name and type, tensors by the shape of a row; what has no name gets one."""
    found, outputs = columns_told(told(inputs))
    assert outputs is None
    assert found is not None
    assert [(column.name, column.type, column.shape) for column in found] == columns


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([{"type": "binary", "name": "a"}], "'a' is of MLflow's type 'binary'"),
        ([{"type": "array", "items": {"type": "long"}, "name": "a"}], "type 'array'"),
        ([tensor([4, 2], name="a")], r"\[4, 2\].*must be open"),
        ([tensor([-1, -1], name="a")], r"\[-1, -1\]"),
        ([tensor([-1], "complex64", name="a")], "holds 'complex64'"),
        ([{"name": "a"}], "cannot be read"),
        ([["a"]], "cannot be read"),
    ],
)
def test_what_no_column_can_hold_is_refused_by_name(inputs: Any, said: str) -> None:
    """The refusal names the column and what it is, and where help is."""
    with pytest.raises(InvalidModel, match=said):
        columns_told(told(inputs))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flavors: {python_function: {}", "cannot be read"),
        ("- nothing", "no flavour"),
        ("flavors: {sklearn: {}}", "no flavour"),
        ("flavors: !!python/object/apply:os.system ['true']", "cannot be read"),
        ("[" * 5000, "cannot be read"),
        ("a: " + "x" * (1 << 20), "more than 1024 KiB"),
    ],
)
def test_a_strange_description_is_refused(text: str, said: str, tmp_path: Path) -> None:
    """It is read as data, within bounds, and never as objects."""
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(InvalidModel, match=said):
        read_mlmodel(tmp_path)


def test_answers_of_every_form_are_found_by_name() -> None:
    """Frames, series, mappings, rows, matrices and lists."""
    names = ["a", "b"]
    frame = pd.DataFrame({"b": [3, 4], "a": [1, 2]})
    forms = (frame, frame.to_dict("list"), frame.to_dict("records"), frame[names].to_numpy())
    for form in forms:
        found = by_name(form, names)
        assert [list(found[name]) for name in names] == [[1, 2], [3, 4]]
    for form in (frame[["a"]], frame["a"], np.array([1, 2]), [1, 2], [{"else": 1}, {"else": 2}]):
        assert list(by_name(form, ["value"])["value"]) == [1, 2]
    with pytest.raises(InvalidModel, match="one column for each"):
        by_name([1, 2], names)


def test_outputs_that_are_not_told_are_asked_for(
    save_pyfunc: Callable[..., Path], tmp_path: Path
) -> None:
    """The input example is asked, or the rows given; without either they stay unknown."""
    line = LinearRegression().fit(MATRIX, MATRIX[:, 0])
    half = save_pyfunc(tmp_path / "half", line, signed="inputs")
    assert describe_pyfunc(half)["outputs"] is None
    found = describe_pyfunc(half, {"x": MATRIX[:4]})
    assert found["outputs"] == (Column("value", "float64"),)
    shown = save_pyfunc(tmp_path / "shown", signed="none", example=True)
    described = yaml.safe_load((shown / "MLmodel").read_bytes())
    described["signature"] = None
    (shown / "MLmodel").write_text(yaml.safe_dump(described))
    found = describe_pyfunc(shown)
    assert found["inputs"] == (
        Column("a", "float64"),
        Column("b", "int64"),
        Column("word", "string"),
    )
    assert found["outputs"] == (Column("total", "float64"), Column("shout", "string"))


def test_a_signature_of_ones_own_is_cast_to_the_models(
    save_pyfunc: Callable[..., Path], tmp_path: Path
) -> None:
    """Clients may send other widths than the model was saved with; it is given its own."""
    saved = save_pyfunc(tmp_path / "saved")
    inputs = (Column("a", "float32"), Column("b", "int16"), Column("word", "string"))
    signature = Signature(inputs, (Column("total", "float32"),))
    batch = {
        "a": np.array([0.5, 1.5], dtype=np.float32),
        "b": np.array([1, 2], dtype=np.int16),
        "word": np.array(["x", "y"], dtype=object),
    }
    answer = PyfuncModel(load_pyfunc(saved), signature).predict(batch)
    np.testing.assert_array_equal(answer["total"], np.array([1.5, 3.5], dtype=np.float32))


def test_an_estimator_takes_a_matrix(save_pyfunc: Callable[..., Path], tmp_path: Path) -> None:
    """Rows of a tensor go in as they are, and rows of one come out."""
    line = LinearRegression().fit(MATRIX, MATRIX[:, :2] * 3)
    saved = save_pyfunc(tmp_path / "saved", line)
    found = describe_pyfunc(saved)
    signature = Signature(found["inputs"] or (), found["outputs"] or ())
    assert signature.outputs == (Column("value", "float64", (2,)),)
    model = PyfuncModel(load_pyfunc(saved), signature)
    np.testing.assert_array_equal(model.predict({"x": MATRIX})["value"], line.predict(MATRIX))
    assert model.predict({"x": MATRIX[:0]})["value"].shape == (0, 2)
    with pytest.raises(InvalidInput, match="refuses"):
        model.predict({"x": MATRIX[:, :2]})


def test_moments_are_text_in_iso_8601(tmp_path: Path) -> None:
    """A column of MLflow's type datetime is sent as text; what is no moment is refused."""
    keep_mlflow_quiet()
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
        from mlflow.models import infer_signature

        class Years(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):  # noqa: ANN001, ANN202
                return model_input["at"].dt.year.to_numpy()

        rows = pd.DataFrame({"at": pd.to_datetime(["2026-11-26T01:00:00"])})
        signature = infer_signature(rows, np.array([2026]))
        mlflow.pyfunc.save_model(
            tmp_path / "saved",
            python_model=Years(),
            signature=signature,
            pip_requirements=["mlflow"],
        )
    found = describe_pyfunc(tmp_path / "saved")
    columns = Signature(found["inputs"] or (), found["outputs"] or ())
    model = PyfuncModel(load_pyfunc(tmp_path / "saved"), columns)
    moments = np.array(["2024-02-29", "1999-12-31T23:59:59.5"], dtype=object)
    assert model.predict({"at": moments})["value"].tolist() == [2024, 1999]
    with pytest.raises(InvalidInput, match="refuses"):
        model.predict({"at": np.array(["tomorrow"], dtype=object)})


def test_what_cannot_be_loaded_says_with_what_it_was_made(
    save_pyfunc: Callable[..., Path], tmp_path: Path
) -> None:
    """A broken pickle of another Python's names that Python."""
    saved = save_pyfunc(tmp_path / "saved")
    described = yaml.safe_load((saved / "MLmodel").read_bytes())
    described["flavors"]["python_function"]["python_version"] = "3.8.1"
    (saved / "MLmodel").write_text(yaml.safe_dump(described))
    (saved / "python_model.pkl").write_bytes(b"\x80\x05.")
    with pytest.raises(InvalidModel, match=r"cannot load") as caught:
        load_pyfunc(saved)
    assert "Python 3.8.1" in caught.value.remedy


WATCHED = """
import os, sys

calls = []

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        calls.append((event, str(arguments[1:])))
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        calls.append((event, str(arguments[0])))
    if event in ("os.mkdir", "os.rename", "os.remove"):
        calls.append((event, str(arguments[0])))

sys.addaudithook(watch)
from pathlib import Path
from tidemill_worker.mlflow_models import PyfuncModel, describe_pyfunc, load_pyfunc
from tidemill_worker.signatures import Signature
from tidemill_worker.warmup import synthetic_row

saved = Path(sys.argv[1])
told = describe_pyfunc(saved)
model = PyfuncModel(load_pyfunc(saved), Signature(told["inputs"], told["outputs"]))
model.predict(synthetic_row(told["inputs"]))
model.close()
from mlflow.telemetry.utils import is_telemetry_disabled
print(is_telemetry_disabled(), calls)
"""


def test_loading_calls_nobody_and_writes_nothing(
    save_pyfunc: Callable[..., Path], tmp_path: Path
) -> None:
    """Neither MLflow's telemetry nor its stores: no address is looked up, no file is made."""
    saved = save_pyfunc(tmp_path / "saved")
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-B", "-c", WATCHED, str(saved)],
        capture_output=True,
        cwd=tmp_path / "empty",
        timeout=100,
        check=True,
    )
    assert done.stdout.decode().strip() == "True []"
    assert list((tmp_path / "empty").iterdir()) == []
