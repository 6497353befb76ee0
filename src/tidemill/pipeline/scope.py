"""Which modules are a project's own, and which versions the others have."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which modules are the project's own."""

    top: str | None
    folder: Path | None

    def owns(self, module: str | None) -> bool:
        """Tells whether the module of that name belongs to the project."""
        if module is None:
            return False
        if self.top is not None:
            return module == self.top or module.startswith(f"{self.top}.")
        if module in sys.stdlib_module_names:
            return False
        file = _file(module)
        if file is None or self.folder is None:
            return module == "__main__"
        path = Path(file)
        return path.is_relative_to(self.folder) and "site-packages" not in path.parts


def scope_of(function: Callable[..., Any]) -> Scope:
    """Returns what is the function's own project: its package, else the folder of its file."""
    inner = inspect.unwrap(function)
    module = getattr(inner, "__module__", None) or "__main__"
    top, dot, _ = module.partition(".")
    if dot or hasattr(sys.modules.get(module), "__path__"):
        return Scope(top=top, folder=None)
    file = getattr(sys.modules.get(module), "__file__", None)
    return Scope(top=None, folder=Path(file).parent if file else None)


def _file(module: str) -> str | None:
    loaded = sys.modules.get(module)
    if loaded is not None:
        return getattr(loaded, "__file__", None)
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return None
    return spec.origin if spec else None


@functools.lru_cache(maxsize=1024)
def version_of(root: str) -> str:
    """Returns the version of the distribution that has the top-level module."""
    try:
        return importlib.metadata.version(root)
    except importlib.metadata.PackageNotFoundError:
        names = sorted(set(_distributions().get(root, ())))
        return " ".join(f"{name} {importlib.metadata.version(name)}" for name in names) or "none"


@functools.lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()
