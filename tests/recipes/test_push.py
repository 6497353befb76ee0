"""A pushed file becomes a version, compiled where that changes nothing; code needs a word."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier

from tidemill.control.deployments import list_deployments
from tidemill.control.pushing import push
from tidemill.foundation.errors import (
    Corrupted,
    InvalidInput,
    InvalidModel,
    NotFound,
    NotTrusted,
)
from tidemill.foundation.home import Home
from tidemill.models.format import read_manifest
from tidemill.models.registry import Registry
from tidemill.recipes.push import PushedModel, push_model, read_signature

DRAWN = np.random.default_rng(3)
ROWS = DRAWN.normal(size=(300, 4))
LABELS = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(int)


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A forest over a matrix of four columns, as joblib."""
    path = tmp_path_factory.mktemp("forest") / "forest.joblib"
    joblib.dump(RandomForestClassifier(5, random_state=0).fit(ROWS, LABELS), path)
    return path


@pytest.fixture
def double(tmp_path: Path) -> Path:
    """An ONNX model that doubles its input."""
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


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_an_onnx_file_is_live_under_its_name(home: Home, double: Path) -> None:
    """It needs no word of trust; the signature is the graph's."""
    done = push(home, double, "double", trust_code=False, by="tests")
    assert (done.model.runtime, done.model.inputs, done.model.outputs) == ("onnx", ("x",), ("y",))
    assert (done.application, done.revision) == ("double", 1)
    assert list_deployments(home)[0].versions[0].version == 1
    again = push(home, double, "double", trust_code=False, by="tests")
    assert again.model.version == 1  # the same content


def test_a_signature_may_be_given(home: Home, double: Path, tmp_path: Path) -> None:
    """As JSON or a file of it; what the model does not answer so is refused."""
    wide = '{"inputs": [{"name": "x", "type": "float64", "shape": [2]}], "outputs": [%s]}'
    written = tmp_path / "signature.json"
    written.write_text(wide % '{"name": "y", "type": "float64", "shape": [2]}')
    given = read_signature(str(written))
    assert given == read_signature(written.read_text())
    push_model(home, double, "double", signature=given)
    folder = Registry(home).fetch("double", 1)
    assert read_manifest(folder).signature == given
    other = read_signature(wide % '{"name": "z", "type": "float64"}')
    with pytest.raises(InvalidModel, match="none of the model's"):
        push_model(home, double, "other", signature=other)
    with pytest.raises(InvalidInput, match="has a signature already"):
        push_model(home, folder, "again", signature=given)
    with pytest.raises(InvalidInput, match="Leave --sample out"):
        push_model(home, folder, "again", sample=written)
    with pytest.raises(InvalidInput, match="Leave --no-compile out"):
        push_model(home, folder, "again", compiles=False)


def test_a_signature_that_is_none_is_told(tmp_path: Path) -> None:
    """A path that is not there, JSON of something else, a file without an end."""
    (tmp_path / "long.json").write_bytes(b" " * (1 << 20) + b"{}")
    for told, kind, said in (
        ("nope.json", NotFound, "cannot be read"),
        ("x" * 5000, NotFound, "cannot be read"),
        (str(tmp_path), NotFound, "cannot be read"),
        ('{"inputs": []}', InvalidModel, "signature"),
        (str(tmp_path / "long.json"), InvalidModel, "bytes"),
    ):
        with pytest.raises(kind, match=said):
            read_signature(told)


def test_an_estimator_takes_a_signature(home: Home, forest: Path) -> None:
    """Columns that the file does not name get the names that clients send."""
    columns = ", ".join(f'{{"name": "{name}", "type": "float64"}}' for name in "abcd")
    outputs = '{"name": "label", "type": "int64"}'
    given = read_signature(f'{{"inputs": [{columns}], "outputs": [{outputs}]}}')
    pushed = push_model(home, forest, "forest", trust_code=True, signature=given)
    assert (pushed.inputs, pushed.outputs) == (("a", "b", "c", "d"), ("label",))


def test_a_push_need_not_go_live(home: Home, double: Path) -> None:
    """Registered and blessed by whoever pushed it, but nothing answers with it."""
    done = push(home, double, "double", trust_code=False, go_live=False, by="tests")
    assert done.revision is None
    assert list_deployments(home) == []
    assert Registry(home).get("double").blessed


def test_code_is_not_run_without_a_word(home: Home, tmp_path: Path) -> None:
    """A pickle without --trust-code is refused by its name alone: nothing in it ran."""
    for name in ("trap.joblib", "trap.pkl"):
        joblib.dump(Trap(tmp_path / "sprung"), tmp_path / name)
        with pytest.raises(NotTrusted, match="--trust-code"):
            push_model(home, tmp_path / name, "trap")
    (tmp_path / "trap.onnx").write_bytes((tmp_path / "trap.joblib").read_bytes())
    with pytest.raises(InvalidModel):
        push_model(home, tmp_path / "trap.onnx", "trap", trust_code=True)
    assert not (tmp_path / "sprung").exists()
    assert Registry(home).list() == ()


def test_a_folder_with_code_needs_the_word_too(home: Home, tmp_path: Path) -> None:
    """A model folder says itself whether it brings code."""
    path = tmp_path / "dummy.joblib"
    joblib.dump(DummyClassifier().fit(ROWS, LABELS), path)  # nobody converts it to ONNX
    pushed = push_model(home, path, "dummy", trust_code=True)
    assert (pushed.runtime, pushed.compiled) == ("sklearn", False)
    assert pushed.reason
    folder = Registry(home).fetch("dummy", 1)
    with pytest.raises(NotTrusted, match="--trust-code"):
        push_model(home, folder, "copy")
    assert push_model(home, folder, "copy", trust_code=True).version == 1


def test_a_forest_is_compiled_on_made_up_rows(home: Home, forest: Path) -> None:
    """Without a sample it says that the rows were made up."""
    pushed = push_model(home, forest, "forest", trust_code=True)
    assert (pushed.runtime, pushed.compiled, pushed.reason) == ("onnx", True, None)
    assert "made-up rows" in str(pushed.verified)
    blessing = Registry(home).get("forest").blessing
    assert blessing is not None
    assert blessing["trust_code"] is True  # said once, recorded


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_a_forest_is_compiled_on_real_rows(
    home: Home, forest: Path, suffix: str, tmp_path: Path
) -> None:
    """A sample is a matrix in .npy, or columns in a CSV file."""
    sample = tmp_path / f"rows{suffix}"
    if suffix == ".npy":
        np.save(sample, ROWS)
    else:
        np.savetxt(sample, ROWS, delimiter=",", header="a,b,c,d", comments="")
    pushed = push_model(home, forest, "forest", trust_code=True, sample=sample)
    assert pushed.compiled
    assert pushed.verified is not None
    assert "300 rows" in pushed.verified
    assert "made-up" not in pushed.verified


def _array(path: Path, value: Any) -> Path:
    np.save(path, value)
    return path


def _text(path: Path, value: str) -> Path:
    path.write_text(value)
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda at: at / "nope.npy", "does not exist"),
        (lambda at: at / "nope.csv", "does not exist"),
        (lambda at: _array(at / "s.npy", np.zeros((3, 9))), "shape"),
        (lambda at: _array(at / "s.npy", np.array([["a"] * 4])), "column 'x'"),
        (lambda at: _array(at / "s.npy", np.array([Trap(at / "sprung")])), "cannot be read"),
        (lambda at: _text(at / "s.npy", "not an array"), "cannot be read"),
        (lambda at: _text(at / "s.npy", ""), "cannot be read"),
        (lambda at: _text(at / "s.csv", "a,b\n1,2\n"), "shape"),
        (lambda at: _text(at / "s.csv", "a,b,c,d\n1,2,3,x\n"), "column 'x'"),
        (lambda at: _text(at / "s.csv", "a,b,c,d\n"), "no row"),
        (lambda at: _text(at / "s.csv", ""), "cannot be read"),
    ],
)
def test_a_sample_that_does_not_fit_is_told(
    home: Home, forest: Path, make: Callable[[Path], Path], said: str, tmp_path: Path
) -> None:
    """What is wrong with the sample is said; nothing in it runs and nothing is registered."""
    with pytest.raises((InvalidInput, NotFound), match=said):
        push_model(home, forest, "forest", trust_code=True, sample=make(tmp_path))
    assert Registry(home).list() == ()
    assert not (tmp_path / "sprung").exists()


def test_a_model_that_is_not_compiled_takes_a_sample_too(
    home: Home, double: Path, tmp_path: Path
) -> None:
    """An ONNX file must take the rows as well: what was given is never passed over."""
    for sample, said in (
        (tmp_path / "nope.npy", "does not exist"),
        (_array(tmp_path / "s.npy", np.zeros((3, 9, 9))), "does not answer the rows .* shape"),
    ):
        with pytest.raises((InvalidInput, NotFound), match=said):
            push_model(home, double, "double", sample=sample)
    assert Registry(home).list() == ()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("garbage.onnx", b"\x00\x01garbage", "garbage.onnx|cannot be loaded|model"),
        ("garbage.joblib", b"\x80\x04garbage", "cannot be unpickled"),
        ("list.joblib", pickle.dumps([1, 2]), "holds a list, which cannot predict"),
        ("empty.onnx", b"", "is empty"),
        ("empty.joblib", b"", "is empty"),
        ("model.bin", b"x", "does not look like a model"),
        ("model", b"x", "does not look like a model"),
    ],
)
def test_files_that_are_no_model_are_told(
    home: Home, name: str, data: bytes, said: str, tmp_path: Path
) -> None:
    """Garbage, nothing at all, another suffix: one sentence, and nothing is registered."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidModel, match=said):
        push_model(home, tmp_path / name, "m", trust_code=True)
    assert Registry(home).list() == ()


def test_places_that_are_no_model_are_told(home: Home, tmp_path: Path) -> None:
    """A folder without a manifest, and nothing where something was meant."""
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InvalidModel, match="no model folder"):
        push_model(home, tmp_path / "folder.onnx", "m")
    with pytest.raises(InvalidModel, match="there is no file"):
        push_model(home, tmp_path / "nope.onnx", "m")


def test_a_name_must_be_one(home: Home, double: Path) -> None:
    """Names never reach a path unchecked."""
    for name in ("../up", "", "a b", "x" * 101):
        with pytest.raises(InvalidInput, match="not allowed"):
            push_model(home, double, name)


def test_a_tampered_model_folder_is_refused(home: Home, double: Path, tmp_path: Path) -> None:
    """A file that is not what the manifest says never reaches the registry."""
    push_model(home, double, "double")
    folder = Path(shutil.copytree(Registry(home).fetch("double", 1), tmp_path / "copy"))
    (folder / "model.onnx").chmod(0o600)
    (folder / "model.onnx").write_bytes(double.read_bytes() + b"x")
    with pytest.raises(Corrupted, match=r"model\.onnx"):
        push_model(home, folder, "copy")
    assert [each.name for each in Registry(home).list()] == ["double"]


def test_nothing_is_left_in_the_cache(home: Home, forest: Path, tmp_path: Path) -> None:
    """Work folders are gone after a push, good or bad."""
    done: PushedModel = push_model(home, forest, "forest", trust_code=True)
    assert done.version == 1
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    with pytest.raises(InvalidModel):
        push_model(home, tmp_path / "bad.onnx", "bad")
    assert not list(home.cache_path.glob("push-*"))
