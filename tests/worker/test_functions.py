"""A Python function as a model, with nothing of Tidemill's but the worker."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypedDict

import numpy as np
import pytest
from numpy.typing import NDArray

from tidemill_worker.functions import (
    Corrupted,
    FunctionModel,
    InvalidInput,
    InvalidModel,
    NotReady,
    NotTrusted,
    load_function,
    open_function,
)
from tidemill_worker.signatures import Column, Signature, describe_function

ONE = Signature((Column("x", "float64"),), (Column("value", "float64"),))
X = {"x": np.array([1.0, 2.0, 3.0])}

Make = Callable[..., Path]


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[Make]:
    """Writes files of text into a folder and returns it."""

    def make(folder: str = "code", **files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / folder / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / folder

    yield make
    assert not list(tmp_path.rglob("__pycache__")), "bytecode was written beside the sources"


def ask(code: Path, reference: str, signature: Signature = ONE, batch: Any = None) -> Any:
    """Loads, asks once, closes."""
    with closing(load_function(code, reference)) as loaded:
        return FunctionModel(loaded, signature).predict(X if batch is None else batch)


def test_a_function_of_columns_gets_arrays(sources: Make) -> None:
    """Parameters with the inputs' names get whole columns."""
    code = sources(model="def f(x):\n    return x * 2")
    np.testing.assert_array_equal(ask(code, "model:f")["value"], [2.0, 4.0, 6.0])


def test_a_function_of_single_values_is_called_row_by_row(sources: Make) -> None:
    """A parameter annotated as one value never meets an array."""
    code = sources(model="def f(x: float) -> float:\n    return x * 2 if x > 1 else -1.0")
    np.testing.assert_array_equal(ask(code, "model:f")["value"], [-1.0, 4.0, 6.0])


def test_any_other_function_gets_a_dictionary(sources: Make) -> None:
    """One parameter of another name gets all columns, and may give several outputs."""
    code = sources(model="def f(batch):\n    return {'a': batch['x'] > 1, 'b': ['t', 1, 'u']}")
    two = Signature(ONE.inputs, (Column("a", "bool"), Column("b", "string")))
    answer = ask(code, "model:f", two)
    assert answer["a"].tolist() == [False, True, True]
    assert answer["b"].tolist() == ["t", "1", "u"]
    assert answer["b"].dtype == object


def test_a_class_becomes_an_instance_made_once(sources: Make) -> None:
    """State that is costly to make is made when the model is loaded."""
    text = "class M:\n    def __init__(self):\n        self.k = 3\n"
    text += "    def __call__(self, x):\n        return x * self.k"
    np.testing.assert_array_equal(ask(sources(model=text), "model:M")["value"], [3.0, 6.0, 9.0])


def test_modules_beside_it_are_found_even_late(sources: Make) -> None:
    """Siblings, packages and imports inside the function all come from the folder."""
    code = sources(
        model="import factor\ndef f(x):\n    from deep.inner import K\n    return x * factor.K * K",
        factor="K = 2",
        deep__in__inner="from . import outer\nK = outer.K",
        deep__in__outer="K = 5",
    )
    np.testing.assert_array_equal(ask(code, "model:f")["value"], [10.0, 20.0, 30.0])


def test_odd_things_among_the_modules_are_let_be(
    sources: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries put things there that have every attribute, and none of it a path."""

    class Anything(ModuleType):
        def __getattr__(self, name: str) -> object:
            return object()

    odd = Anything("odd.classes")
    monkeypatch.setitem(sys.modules, "odd.classes", odd)
    code = sources(model="import factor\ndef f(x):\n    return x * factor.K", factor="K = 2")
    loaded = load_function(code, "model:f")
    loaded.close()
    assert sys.modules["odd.classes"] is odd
    assert "factor" not in sys.modules


def test_two_models_may_use_the_same_names(sources: Make) -> None:
    """Each has its own modules, whichever came first, and none stays when both are closed."""
    one = sources("one", same_name="import part\ndef f(x):\n    return x * part.K", part="K = 1")
    two = sources("two", same_name="import part\ndef f(x):\n    return x * part.K", part="K = 2")
    before, finders = set(sys.modules), list(sys.meta_path)
    models = [FunctionModel(load_function(each, "same_name:f"), ONE) for each in (one, two)]
    assert [model.predict(X)["value"][0] for model in models] == [1.0, 2.0]
    for model in models:
        model.close()
        model.close()
    assert sys.meta_path == finders
    assert not {"same_name", "part"} & (set(sys.modules) - before)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("model:missing", "no attribute"),
        ("nothing:f", "No module named"),
        ("model:K", "a int, no function"),
        ("broken:f", "ZeroDivisionError"),
        ("ends:f", "SystemExit"),
        ("json:loads", "loaded already"),
        ("numpy:sum", "loaded already"),
        ("model", "names no function"),
        (":f", "names no function"),
    ],
)
def test_what_cannot_be_loaded_is_told(sources: Make, reference: str, said: str) -> None:
    """Wrong names and failing modules say so, and leave nothing behind."""
    code = sources(model="K = 1\ndef f(x): ...", broken="1 / 0", ends="raise SystemExit")
    finders = list(sys.meta_path)
    with pytest.raises(InvalidModel, match=said):
        load_function(code, reference)
    assert sys.meta_path == finders
    assert "model" not in sys.modules


def test_parameters_that_fit_no_input_are_told(sources: Make) -> None:
    """Several parameters that are no inputs are refused before any batch."""
    code = sources(model="def f(a, b): ...")
    with pytest.raises(InvalidModel, match="takes a, b"):
        ask(code, "model:f")


def test_answers_that_do_not_fit_are_the_models_fault(sources: Make) -> None:
    """Too few rows, other types or other names never reach a client."""
    code = sources(
        model="def few(x):\n    return x[:1]\ndef word(x):\n    return ['a'] * len(x)\n"
        "def other(x):\n    return {'wrong': x}"
    )
    for name, said in (("few", "no float64"), ("word", "no float64"), ("other", "no 'value'")):
        with pytest.raises(InvalidModel, match=said):
            ask(code, f"model:{name}")


def test_a_value_that_it_refuses_is_the_callers_error(sources: Make) -> None:
    """ValueError and TypeError mean the batch; anything else is the model's own failure."""
    code = sources(
        model="def f(x):\n    raise ValueError('no such age')\ndef g(x):\n    return [][1]"
    )
    with pytest.raises(InvalidInput, match="no such age"):
        ask(code, "model:f")
    with pytest.raises(IndexError):
        ask(code, "model:g")


def test_threads_take_turns(sources: Make) -> None:
    """A function that is not made for threads is never entered twice at once."""
    code = sources(
        model="import time\ninside = []\ndef f(x):\n    inside.append(1)\n    time.sleep(0.001)\n"
        "    n = len(inside)\n    inside.pop()\n    return x * n"
    )
    model = FunctionModel(load_function(code, "model:f"), ONE)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(model.predict, [X] * 20))
    model.close()
    assert all(answer["value"].tolist() == [1.0, 2.0, 3.0] for answer in answers)


def folder_of(code: Path) -> Path:
    """Makes a model folder around sources, as Tidemill writes it."""
    folder = code.parent
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in code.rglob("*.py")
    }
    manifest = {
        "format": 1,
        "name": "m",
        "runtime": "python",
        "signature": {
            "inputs": [{"name": "x", "type": "float64", "shape": []}],
            "outputs": [{"name": "value", "type": "float64"}],
        },
        "entry": "code/model.py",
        "trust": "code",
        "files": files,
        "runtime_options": {"function": "model:f"},
    }
    (folder / "model.json").write_text(json.dumps(manifest))
    return folder


def test_a_model_folder_is_opened_without_tidemill(sources: Make) -> None:
    """The loader needs the worker's package alone, answers, and refuses once it is closed."""
    folder = folder_of(sources(model="def f(x):\n    return x * 2"))
    model = open_function(folder, trust_code=True, threads=1)
    assert model.signature == ONE
    assert model.predict({"x": np.empty(0)})["value"].shape == (0,)
    model.close()
    with pytest.raises(NotReady, match="closed"):
        model.predict(X)
    script = "import sys, tidemill_worker.functions; print('tidemill' in sys.modules)"
    found = subprocess.run(
        (sys.executable, "-c", script), capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "False"


def test_a_folder_that_was_changed_or_not_vouched_for_is_refused(sources: Make) -> None:
    """Trust comes first, then every sha256; a file that nobody named is refused as well."""
    folder = folder_of(sources(model="raise SystemExit('it ran')"))
    with pytest.raises(NotTrusted):
        open_function(folder, trust_code=False, threads=1)
    (folder / "code" / "extra.py").write_text("")
    with pytest.raises(Corrupted, match="extra"):
        open_function(folder, trust_code=True, threads=1)
    (folder / "code" / "extra.py").unlink()
    (folder / "code" / "model.py").write_text("def f(x): return x")
    with pytest.raises(Corrupted, match=r"model\.py"):
        open_function(folder, trust_code=True, threads=1)


class Both(TypedDict):
    """Two outputs."""

    label: str
    odds: Annotated[NDArray[np.float32], 2]


def test_annotations_and_attributes_say_what_a_function_takes() -> None:
    """Single values, columns, shapes of rows and several outputs; or a mapping that says it."""

    def scalars(age: int, name: str, *, ok: bool = True) -> float: ...

    def columns(a: NDArray[np.float32], b: Annotated[NDArray[np.int64], (2, 3)]) -> Both: ...

    def told(batch: Any) -> Any: ...

    told.signature = {  # type: ignore[attr-defined]
        "inputs": [{"name": "x", "type": "float64"}],
        "outputs": [{"name": "value", "type": "float64"}],
    }
    assert describe_function(scalars) == Signature(
        (Column("age", "int64"), Column("name", "string"), Column("ok", "bool")),
        (Column("value", "float64"),),
    )
    assert describe_function(columns) == Signature(
        (Column("a", "float32"), Column("b", "int64", (2, 3))),
        (Column("label", "string"), Column("odds", "float32", (2,))),
    )
    assert describe_function(told) == ONE


def test_a_function_that_says_too_little_is_not_guessed_at() -> None:
    """A missing or foreign annotation gives no signature."""

    def half(x: float, y) -> float: ...  # type: ignore[no-untyped-def]  # noqa: ANN001

    def foreign(x: bytes) -> float: ...

    assert [describe_function(each) for each in (lambda x: x, half, foreign)] == [None] * 3
