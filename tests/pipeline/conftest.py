from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from tidemill.foundation.files import Files, open_files
from tidemill.foundation.store import Store
from tidemill.pipeline.runner import RunResult, StepEvent, run
from tidemill.pipeline.step import Pipeline


@dataclass
class Place:
    """A store, files and a work folder, and the calls that need them."""

    path: Path
    store: Store
    files: Files

    def run(self, pipeline: Pipeline, **options: object) -> RunResult:
        return run(
            pipeline,
            store=self.store,
            files=self.files,
            work=self.path / "work",
            **options,  # type: ignore[arg-type]
        )

    def events(self, pipeline: Pipeline, **options: object) -> tuple[RunResult, list[StepEvent]]:
        seen: list[StepEvent] = []
        return self.run(pipeline, on_event=seen.append, **options), seen


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Store(f"sqlite:///{tmp_path}/store.db") as store:
        yield Place(tmp_path, store, open_files(str(tmp_path / "files"), tmp_path / "cache"))


class Project:
    """Source files that a test writes, imports, edits and imports again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def write(self, **modules: str) -> None:
        """Writes modules; ``a__b`` is ``a/b.py``, and each package gets an ``__init__``."""
        for name, text in modules.items():
            path = self.folder / (name.replace("__", "/") + ".py")
            path.parent.mkdir(exist_ok=True)
            if path.parent != self.folder:
                (path.parent / "__init__.py").touch()
            path.write_text(textwrap.dedent(text))

    def load(self, name: str) -> ModuleType:
        """Imports the module afresh, with all of the project."""
        self.forget()
        return importlib.import_module(name)

    def forget(self) -> None:
        importlib.invalidate_caches()
        for name, module in list(sys.modules.items()):
            if str(self.folder) in (getattr(module, "__file__", None) or ""):
                del sys.modules[name]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    project = Project(tmp_path / "source")
    # Two versions of a file within a second and of the same size look alike to bytecode caches.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(project.folder))
    yield project
    project.forget()
