"""Finds the sources of a Python function, and copies them into a model's folder."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tidemill.foundation.errors import InvalidModel
from tidemill.models.format import MAX_FILES

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")
_MAX_BYTES = 1 << 30
_FUNCTION = "predict"
MAIN = "model.py"
"""The module that holds the function of a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """A function and the files that it needs.

    Args:
        root: the folder that its modules are imported from.
        files: relative to it.
        reference: the function, as ``module:name``.
    """

    root: Path
    files: tuple[Path, ...]
    reference: str

    def copy(self, folder: Path) -> None:
        """Copies the files to the same places in a folder."""
        for path in self.files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.root / path, folder / path)


def split_reference(path: Path) -> tuple[str, str] | None:
    """Returns what stands before and after the first colon of ``module:name``; None without one."""
    place, colon, name = str(path).partition(":")
    if not colon or not place or not all(_REFERENCE.match(each) for each in name.split(":")):
        return None
    return place, name


def find_sources(path: Path, working: Path | None = None) -> Sources:
    """Finds the function at a path, and every file that it may need.

    A folder is taken whole. Of a file or a module, the modules beside it that it imports are taken
    too; what is installed is not.

    Args:
        path: ``module:name``, ``file.py``, ``file.py:name``, a folder with a ``model.py``, or
            ``folder:module:name``; without a name the function is ``predict``.
        working: where modules are looked for first; the working folder if None.

    Raises:
        InvalidModel: there is no such module, or there is too much beside it.
    """
    place, name = (str(path), "") if path.exists() else split_reference(path) or (str(path), "")
    found = Path(place)
    if found.is_dir():
        module, _, function = name.rpartition(":")
        reference = f"{module or Path(MAIN).stem}:{function or _FUNCTION}"
        return _sources(found, _walk(found, found), reference)
    if found.is_file():
        root, module = found.parent, found.stem
        if not _REFERENCE.match(module):
            raise InvalidModel(
                f"{str(found)!r} cannot be imported by its name",
                remedy="Use letters, digits and '_' in the file's name.",
            )
        return _sources(root, _closure(root, module), f"{module}:{name or _FUNCTION}")
    if not _REFERENCE.match(place) or not name:
        raise InvalidModel(f"there is no file {place!r}", remedy="Check the path.")
    return _of_module(place, name, working or Path.cwd())


def _of_module(module: str, name: str, working: Path) -> Sources:
    top = module.partition(".")[0]
    if _place(working, top) is not None:
        return _sources(working, _closure(working, top), f"{module}:{name}")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError) as error:
        raise InvalidModel(f"module {top!r} cannot be found: {error}") from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise InvalidModel(
            f"there is no module {top!r} in {str(working)!r}, nor is it installed",
            remedy="Check the name, or give the path of its file.",
        )
    origin = Path(spec.origin)
    root = origin.parent.parent if spec.submodule_search_locations else origin.parent
    return _sources(root, _members(root, top), f"{module}:{name}")


def _sources(root: Path, files: Iterator[Path], reference: str) -> Sources:
    kept: list[Path] = []
    size = 0
    for path in files:
        kept.append(path)
        size += (root / path).stat().st_size
        if len(kept) > MAX_FILES or size > _MAX_BYTES:
            raise InvalidModel(
                f"{str(root)!r} holds more than {MAX_FILES} files or {_MAX_BYTES >> 20} MiB",
                remedy="Put the function and what it needs into a folder of their own.",
            )
    return Sources(root=root, files=tuple(sorted(kept)), reference=reference)


def _closure(root: Path, top: str) -> Iterator[Path]:
    """Yields the files of a module, and of those beside it that it imports."""
    seen, waiting = {top}, [top]
    while waiting:
        for path in _members(root, waiting.pop()):
            yield path
            if path.suffix != ".py":
                continue
            for name in _imports(root / path) - seen:
                if _place(root, name) is not None:
                    seen.add(name)
                    waiting.append(name)


def _members(root: Path, top: str) -> Iterator[Path]:
    place = _place(root, top)
    if place is None:
        return
    if place.is_dir():
        yield from _walk(root, place)
    else:
        yield place.relative_to(root)


def _place(root: Path, top: str) -> Path | None:
    """Returns the folder or file of a module beside others."""
    if (root / top).is_dir() and any((root / top).glob("*.py")):
        return root / top
    return root / f"{top}.py" if (root / f"{top}.py").is_file() else None


def _walk(root: Path, folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith((".", "__pycache__"))]
        for name in names:
            if not name.startswith(".") and not name.endswith(".pyc"):
                yield Path(place, name).relative_to(root)


def _imports(path: Path) -> set[str]:
    """Returns the top-level names that a file imports, wherever in it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError) as error:
        raise InvalidModel(f"{str(path)!r} is not Python: {error}") from error
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names
