"""Python functions, from a file or a module's name to answers of a real server."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tidemill.foundation.errors import InvalidModel, NotTrusted, TidemillError
from tidemill.foundation.home import Home
from tidemill.models.format import read_manifest
from tidemill.models.kinds import find_kind
from tidemill.models.registry import Registry
from tidemill.models.signature import Column, Signature
from tidemill.recipes.push import PushedModel, push_model
from tidemill.recipes.steps.infra import candidate_server
from tidemill.serving.placement import decide_placement
from tidemill.serving.plan import ServingPlan

RATES = "EURO = 1.5\n"
FARE = """
import os
import rates

def predict(amount: float, tip: bool) -> float:
    if amount < 0:
        raise ValueError("an amount below nothing")
    return amount * rates.EURO + tip

def where(amount: float) -> str:
    import tidemill
    return f"{os.getpid()} {tidemill.__name__}"

class Untold:
    signature = {
        "inputs": [{"name": "x", "type": "float32", "shape": [2]}],
        "outputs": [{"name": "total", "type": "float32"}],
    }
    def __call__(self, x):
        return x.sum(axis=1)
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a function's file and a module that it imports."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "fare.py").write_text(FARE)
    (folder / "rates.py").write_text(RATES)
    (folder / "unrelated.py").write_text("raise SystemExit\n")
    monkeypatch.chdir(folder)
    return folder


def push(home: Home, path: str, name: str = "fare", **given: Any) -> PushedModel:
    """Pushes what somebody vouches for."""
    return push_model(home, Path(path), name, trust_code=True, **given)


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


def test_a_function_is_served_as_it_answers(home: Home, sources: Path) -> None:
    """Named as a module's, it needs no requirements; it runs in a worker, with what it imports."""
    pushed = push(home, "fare:predict")
    assert (pushed.runtime, pushed.environment) == ("python", None)
    assert (pushed.inputs, pushed.outputs) == (("amount", "tip"), ("value",))
    assert pushed.batch_1_ms is not None
    folder = Registry(home).fetch("fare", 1)
    manifest = read_manifest(folder)
    assert set(manifest.files) == {"code/fare.py", "code/rates.py"}
    assert decide_placement(ServingPlan(placement="gateway"), manifest) == "worker"
    for source in sources.iterdir():
        source.unlink()  # what was pushed is what is served
    with candidate_server(folder, "fare") as port:
        rows = [{"amount": 2.0, "tip": True}, {"amount": 0.5, "tip": False}]
        assert ask(port, "fare", rows) == [4.0, 0.75]
        status, said = ask(port, "fare", [{"amount": -1.0, "tip": True}])
        assert status == 400
        assert "an amount below nothing" in said
        assert ask(port, "fare", [{"amount": 2.0, "tip": "yes"}])[0] == 400
    assert not {"fare", "rates"} & set(sys.modules)


def test_what_it_is_called_by_makes_no_difference(home: Home, sources: Path) -> None:
    """A module's name, a file, a file and a name: the same content is the same version."""
    assert push(home, "fare:predict").version == 1
    assert push(home, "fare.py").version == 1
    assert push(home, str(sources / "fare.py:predict")).version == 1
    assert push(home, "fare:where").version == 2


def test_a_function_among_tidemills_libraries_is_in_another_process(
    home: Home, sources: Path
) -> None:
    """It sees what is installed here; the gateway and whoever pushes never run it."""
    push(home, "fare.py:where", "where")
    with candidate_server(Registry(home).fetch("where", 1), "where") as port:
        (said,) = ask(port, "where", [1.0])
    pid, library = said.split()
    assert library == "tidemill"
    assert not Path("/proc", pid).exists()  # it went with its server


def test_a_folder_with_a_model_is_taken_whole(home: Home, sources: Path) -> None:
    """Its ``model.py`` holds ``predict``, unless another is named."""
    folder = sources / "whole"
    folder.mkdir()
    (folder / "model.py").write_text(FARE)
    (folder / "rates.py").write_text(RATES)
    (folder / "rates.csv").write_text("EURO,1.5\n")
    assert push(home, "whole").inputs == ("amount", "tip")
    assert set(read_manifest(Registry(home).fetch("fare", 1)).files) == {
        *("code/model.py", "code/rates.py", "code/rates.csv"),
    }
    assert push(home, "whole:model:where", "other").inputs == ("amount",)


def test_its_columns_are_its_own_or_those_given(home: Home, sources: Path) -> None:
    """From annotations, from an attribute ``signature``, or from whoever pushes."""
    told = push(home, "fare:Untold", "told")
    assert (told.inputs, told.outputs) == (("x",), ("total",))
    (sources / "bare.py").write_text("def predict(batch):\n    return batch['a'] * 2\n")
    with pytest.raises(InvalidModel, match="does not say what it takes") as caught:
        push(home, "bare.py", "bare")
    assert "--signature" in caught.value.remedy
    given = Signature((Column("a", "float64"),), (Column("twice", "float64"),))
    bare = push(home, "bare.py", "bare", signature=given)
    assert (bare.inputs, bare.outputs) == (("a",), ("twice",))
    wrong = Signature((Column("b", "float64"),), (Column("twice", "float64"),))
    with pytest.raises(TidemillError, match="'a'"):
        push(home, "bare.py", "bare", signature=wrong)
    assert len(Registry(home).list()) == 2


def test_a_sample_is_what_it_must_answer(home: Home, sources: Path) -> None:
    """Rows that are given are asked in place of a made-up one."""
    (sources / "rows.csv").write_text("amount,tip\n1.5,true\n-1,false\n")
    with pytest.raises(TidemillError, match="below nothing"):
        push(home, "fare:predict", sample=Path("rows.csv"))
    (sources / "rows.csv").write_text("amount,tip\n1.5,true\n1,false\n")
    assert push(home, "fare:predict", sample=Path("rows.csv")).version == 1


def test_a_function_needs_a_word(home: Home, sources: Path) -> None:
    """Unvouched for it is not even looked at."""
    (sources / "fare.py").write_text("open('ran', 'w')\n" + FARE)
    for path in ("fare:predict", "fare.py", "fare.py:predict", "."):
        with pytest.raises((NotTrusted, InvalidModel)):
            push_model(home, Path(path), "fare")
    assert not (sources / "ran").exists()
    assert find_kind(Path("fare:predict")).trust == "code"
    assert Registry(home).list() == ()


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("nowhere:predict", "", "there is no module 'nowhere'"),
        ("nowhere.py", "", "there is no file"),
        ("bad:nothing", "x = 1\n", "cannot be loaded"),
        ("bad:x", "x = 1\n", "is a int, no function"),
        ("bad.py", "import nothing_such\ndef predict(x: float) -> str: ...\n", "nothing_such"),
        ("bad.py", "def predict(x: float) -> str:\n    raise RuntimeError('broken')\n", "broken"),
        ("bad.py", "import os\nos._exit(3)\n", "ended with 3"),
        ("bad.py", "def predict(\n", "is not Python"),
    ],
)
def test_what_does_not_answer_is_not_registered(
    home: Home, sources: Path, path: str, code: str, said: str
) -> None:
    """The push asks it in a process of its own, and tells what it came to."""
    (sources / "bad.py").write_text(code)
    with pytest.raises(TidemillError, match=said):
        push(home, path)
    assert Registry(home).list() == ()
