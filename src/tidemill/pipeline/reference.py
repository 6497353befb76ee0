"""Functions by reference: how a process finds the function that another one means."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tidemill.foundation.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A module-level function, by its module, name and file."""

    module: str
    name: str
    file: str

    @property
    def importable(self) -> bool:
        """Whether ``import`` finds the module: test modules and scripts are found by file."""
        try:
            spec = importlib.util.find_spec(self.module)
        except (ImportError, ValueError):
            return False
        return spec is not None and spec.origin is not None and _same(spec.origin, self.file)

    def load(self) -> Callable[..., Any]:
        """Returns the function; imports its module if need be."""
        found: Any = self._module()
        for part in self.name.split("."):
            found = getattr(found, part)
        function: Callable[..., Any] = found
        return function

    def _module(self) -> ModuleType:
        loaded = sys.modules.get(self.module)
        if loaded is not None:
            return loaded
        if self.importable:
            return importlib.import_module(self.module)
        spec = importlib.util.spec_from_file_location(self.module, self.file)
        if spec is None or spec.loader is None:
            raise InvalidInput(f"module {self.module!r} cannot be loaded from {self.file!r}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.module] = module
        spec.loader.exec_module(module)
        return module


def reference_of(function: Callable[..., Any], step: str) -> Reference:
    """Returns how another process finds the function.

    Raises:
        InvalidInput: it cannot: the function was made at run time or typed into a session.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    loaded = sys.modules.get(module or "")
    file = getattr(loaded, "__file__", None)
    remedy = "Define the function at the top of a module, or drop timeout_s."
    if loaded is None or module is None or file is None or not Path(file).is_file():
        raise InvalidInput(
            f"step {step!r} has a timeout, so it runs in a process of its own, but the module "
            f"{module!r} of its function has no file",
            remedy=remedy,
        )
    found: Any = loaded
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not function:
        raise InvalidInput(
            f"step {step!r} has a timeout, so it runs in a process of its own, where its function "
            f"{module}.{name} cannot be found",
            remedy=remedy,
        )
    return Reference(module=module, name=name, file=str(file))


def _same(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()
