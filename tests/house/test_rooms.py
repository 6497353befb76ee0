"""The rules of the house, as absences: what no file here does."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
EVERYTHING = SOURCES + sorted(
    path
    for folder in ("tests", "bench", "docs")
    for path in (ROOT / folder).rglob("*.py")
    if ".peers" not in path.parts  # the environments of other servers
)
ROOMS = [path for path in SOURCES if path.name == "__init__.py"]

MAY_READ_THE_ENVIRONMENT = {
    "tidemill/foundation/settings.py": "it is where settings come from",
    "tidemill/foundation/environment.py": "it decides what a child process inherits",
    "tidemill_worker/process.py": "it sets what libraries read once: threads, and the GPU to use",
}
MAY_READ_THE_CLOCK = {"tidemill/foundation/clock.py": "it is the clock"}
EMPTY_WORDS = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
HEAVY = (
    *("sklearn", "onnxruntime", "onnx", "skl2onnx", "lightgbm", "xgboost", "torch", "river"),
    *("mlflow", "pandas", "duckdb", "scipy", "altair"),
)


def name_of(path: Path) -> str:
    """Says which file it is, from the top of the repository."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """Parses a file once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path: Path) -> str:
    """Says by which name the file is imported."""
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_a_room_has_a_caption_and_a_door(path: Path) -> None:
    """Each room opens with one sentence about what lives there, and exports what it names."""
    caption = ast.get_docstring(tree(path))
    assert caption, "the room's __init__.py needs a sentence that says what lives here"
    assert caption.split("\n\n")[0].endswith(".")
    if path.parent.name == "tidemill":
        return
    room = importlib.import_module(module_of(path))
    assert isinstance(room.__all__, list | tuple), "the room's door is its __all__"
    missing = [name for name in room.__all__ if not hasattr(room, name)]
    assert not missing


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    """A file has at most 600 lines and a function at most 80."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 600, "is there a second room hiding in this file?"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= 80, f"{node.name} has {length} lines: is there a step hiding in it?"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_names_say_something(path: Path) -> None:
    """No module is called utils, helpers, common, misc or manager."""
    words = {
        word for part in Path(module_of(path).replace(".", "/")).parts for word in part.split("_")
    }
    assert not words & EMPTY_WORDS


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    """Settings are the only way in for the environment; what else touches it has a reason."""
    if path.relative_to(ROOT / "src").as_posix() not in MAY_READ_THE_ENVIRONMENT:
        assert not list(uses(path, reads_environment))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_the_time_of_day_is_a_parameter(path: Path) -> None:
    """Nobody but the clock asks the machine what time it is."""
    if path.relative_to(ROOT / "src").as_posix() not in MAY_READ_THE_CLOCK:
        assert not list(uses(path, reads_clock))


def test_exceptions_are_still_needed() -> None:
    """A file that may do what others may not exists, and does it."""
    for names, used in (
        (MAY_READ_THE_ENVIRONMENT, reads_environment),
        (MAY_READ_THE_CLOCK, reads_clock),
    ):
        for name in names:
            assert list(uses(ROOT / "src" / name, used)), f"{name} no longer needs its exception"


def uses(path: Path, rule: Callable[[ast.AST], bool]) -> Iterator[str]:
    """Yields where a file breaks a rule."""
    for node in ast.walk(tree(path)):
        if rule(node):
            yield f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)}"


def reads_environment(node: ast.AST) -> bool:
    """Tells whether the node takes something from the environment."""
    words = {"environ", "environb", "getenv", "getenvb", "putenv"}
    if isinstance(node, ast.ImportFrom):
        return node.module == "os" and any(alias.name in words for alias in node.names)
    return (
        isinstance(node, ast.Attribute)
        and node.attr in words
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    )


def reads_clock(node: ast.AST) -> bool:
    """Tells whether the node asks for the time of day."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "time" and any(
            alias.name in {"time", "time_ns"} for alias in node.names
        )
    if not isinstance(node, ast.Attribute):
        return False
    owner = ast.unparse(node.value).rpartition(".")[2]
    return (owner == "time" and node.attr in {"time", "time_ns"}) or (
        owner in {"datetime", "date"} and node.attr in {"now", "utcnow", "today"}
    )


def test_imports_go_downstairs() -> None:
    """The floors of .importlinter hold, without an ignore list."""
    linter = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run(
        (linter, "--no-cache"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "ignore_imports" not in (ROOT / ".importlinter").read_text(encoding="utf-8")


@pytest.mark.parametrize("room", ["tidemill.foundation", "tidemill.serving", "tidemill.cli"])
def test_the_core_starts_without_any_framework(room: str) -> None:
    """Importing every module of these rooms imports no ML framework and no data engine."""
    folder = ROOT / "src" / Path(*room.split("."))
    modules = [module_of(path) for path in SOURCES if path.is_relative_to(folder)]
    script = (
        "import importlib, json, sys\n"
        f"for module in {modules!r}:\n    importlib.import_module(module)\n"
        f"print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))"
    )
    found = subprocess.run(
        (sys.executable, "-c", script), capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == []


def test_a_gateway_loads_no_store() -> None:
    """What answers queries holds no database library, nor the servers that others talk to."""
    heavy = (*HEAVY, "sqlalchemy", "pyarrow", "starlette", "uvicorn", "typer", "rich")
    script = (
        "import json, sys, tidemill.serving.gateway\n"
        f"print(json.dumps(sorted(set({heavy!r}) & set(sys.modules))))"
    )
    found = subprocess.run(
        (sys.executable, "-c", script), capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == []
