"""What is compiled runs only as long as it is of these sources, and whatever goes wrong is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tidemill.foundation import native
from tidemill.foundation.errors import InvalidInput, Unavailable
from tidemill.foundation.native import compile_native, native_folder, prefer_native

_SOURCE = """
class Adder:
    def __init__(self, n: int) -> None:
        self.n = n

    def add(self, m: int) -> int:
        return self.n + m
"""
_ASK = f"""
import json, sys
from pathlib import Path
from {prefer_native.__module__} import prefer_native
package, environment = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(package.parent))
preferred = prefer_native(package, environment)
from sums.adder import Adder
import sums.adder
print(json.dumps([preferred, Path(sums.adder.__file__).suffix, Adder(40).add(2)]))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The sources of a package with one module."""
    made = tmp_path / "sources" / "sums"
    made.mkdir(parents=True)
    (made / "__init__.py").write_text("")
    (made / "adder.py").write_text(_SOURCE)
    return made


def ask(package: Path, environment: Path) -> list[object]:
    """Whether a new process prefers what is compiled, what it has imported, and 40 + 2."""
    said = subprocess.run(
        [sys.executable, "-c", _ASK, str(package), str(environment)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: list[object] = json.loads(said)
    return found


def test_what_is_compiled_runs_until_a_source_changes(package: Path, tmp_path: Path) -> None:
    """A change of any file of the package, of no word or a single one, brings the sources back."""
    environment = tmp_path / "environment"
    assert ask(package, environment) == [False, ".py", 42]
    folder, made = compile_native(package, ["sums.adder"], environment)
    assert made
    assert compile_native(package, ["sums.adder"], environment) == (folder, False)
    assert ask(package, environment) == [True, ".so", 42]
    (package / "other.py").write_text("")
    assert ask(package, environment) == [False, ".py", 42]
    (package / "other.py").unlink()
    assert ask(package, environment) == [True, ".so", 42]
    (package / "adder.py").write_text(_SOURCE.replace("self.n + m", "self.n + m + 1"))
    assert ask(package, environment) == [False, ".py", 43]
    newer, made = compile_native(package, ["sums.adder"], environment)
    assert made
    assert ask(package, environment) == [True, ".so", 43]
    assert list(folder.parent.iterdir()) == [newer]  # what is of other sources went


def test_a_module_that_cannot_be_compiled_is_named(package: Path, tmp_path: Path) -> None:
    """Nothing is left that a process could take for something whole."""
    (package / "adder.py").write_text("x: int = 'a'\n")
    with pytest.raises(Unavailable, match=r"sums/adder\.py:1: error: Incompatible types"):
        compile_native(package, ["sums.adder"], tmp_path / "environment")
    assert list((tmp_path / "environment" / "sums_native").iterdir()) == []


def test_a_process_that_has_imported_a_source_keeps_to_the_sources(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes of both kinds would not know each other."""
    folder = native_folder(package, tmp_path)
    (folder / "sums").mkdir(parents=True)
    (folder / "sums" / f"adder{native.SUFFIX}").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "sums.adder", sys)
    before = list(sys.meta_path)
    assert not prefer_native(package, tmp_path)
    assert sys.meta_path == before


@pytest.mark.parametrize(
    ("lacking", "said"),
    [("find_spec", r"pip install 'tidemill\[native\]'"), ("which", "no C compiler")],
)
def test_what_compiling_needs_is_named(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str, said: str
) -> None:
    """Before anything is done."""
    place = {"find_spec": native.importlib.util, "which": native.shutil}[lacking]
    monkeypatch.setattr(place, lacking, lambda _: None)
    with pytest.raises(InvalidInput, match=said):
        compile_native(package, ["sums.adder"], tmp_path / "environment")
    assert not (tmp_path / "environment").exists()


def test_an_environment_that_cannot_be_written_to_is_named(package: Path, tmp_path: Path) -> None:
    """It may belong to somebody else, or be a file."""
    (tmp_path / "environment").write_text("a file")
    with pytest.raises(InvalidInput, match="cannot be written"):
        compile_native(package, ["sums.adder"], tmp_path / "environment")
