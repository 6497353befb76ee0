"""A Python function as a model: found among the sources that came with it, asked batch by batch.

    model.json            runtime "python", ``runtime_options``: {"function": "module:name"}
    code/module.py        the sources, whose modules may import each other

Only the standard library, NumPy and msgspec are needed, so that a function can run in an
environment of its own that has nothing else of Tidemill's.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np

from tidemill_worker.frames import Batch
from tidemill_worker.signatures import Column, Signature, takes_rows

CODE = "code"
"""The folder, inside a model's, of the sources."""

_LOADING = threading.Lock()
_MAX_MANIFEST_BYTES = 16 << 20


class FunctionError(Exception):
    """Says what happened and what to do; its class has the name of Tidemill's own error."""

    def __init__(self, what: str, *, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy


class InvalidModel(FunctionError):  # noqa: N818 - as the errors are called that they become
    """The sources, the function or its answers do not fit together."""


class InvalidInput(FunctionError):  # noqa: N818
    """The function refuses a batch."""


class NotReady(FunctionError):  # noqa: N818
    """The model is closed."""


class NotTrusted(FunctionError):  # noqa: N818
    """Nobody vouched for the code."""


class Corrupted(FunctionError):  # noqa: N818
    """A file is not what was written."""


def open_function(folder: Path, *, trust_code: bool, threads: int) -> FunctionModel:
    """Loads the function of a model folder once every file's sha256 matches.

    Args:
        folder: a model folder whose runtime is "python".
        trust_code: somebody vouched for the code.
        threads: for functions that ask; numeric libraries have read theirs by now.

    Raises:
        NotTrusted: nobody vouched for it.
        Corrupted: a file is missing, or not what was written.
        InvalidModel: it is no such folder, or its function cannot be found.
    """
    del threads
    manifest = _read(folder)
    if not trust_code:
        raise NotTrusted(
            f"model {manifest.name!r} runs its maker's code when it is loaded",
            remedy="Push it again with --trust-code if you trust who made it.",
        )
    _verify(folder, manifest.files)
    loaded = load_function(folder / CODE, str(manifest.runtime_options.get("function", "")))
    try:
        return FunctionModel(loaded, manifest.signature)
    except InvalidModel:
        loaded.close()
        raise


class _Manifest(msgspec.Struct, frozen=True):
    name: str
    runtime: str
    signature: Signature
    files: dict[str, str]
    runtime_options: dict[str, Any]


def _read(folder: Path) -> _Manifest:
    try:
        with (folder / "model.json").open("rb") as file:
            manifest = msgspec.json.decode(file.read(_MAX_MANIFEST_BYTES), type=_Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise InvalidModel(f"{str(folder)!r} is no model folder: {error}") from error
    if manifest.runtime != "python":
        raise InvalidModel(
            f"model {manifest.name!r} has the runtime {manifest.runtime[:100]!r}, not python"
        )
    return manifest


def _verify(folder: Path, files: Mapping[str, str]) -> None:
    for path, digest in files.items():
        try:
            found = hashlib.sha256((folder / path).read_bytes()).hexdigest()
        except OSError as error:
            raise Corrupted(f"model file {path[:200]!r} cannot be read: {error}") from error
        if found != digest:
            raise Corrupted(f"model file {path[:200]!r} is not what was written")
    present = {
        Path(place, name).relative_to(folder).as_posix()
        for place, _, names in os.walk(folder / CODE)
        for name in names
    }
    if present - set(files):
        raise Corrupted(f"file {min(present - set(files))[:200]!r} is not the model's")


class LoadedFunction:
    """A function and the place of its sources, which stay importable until it is closed.

    Args:
        call: the function, or the instance that is called.
        sources: finds its modules.
    """

    def __init__(self, call: Callable[..., Any], sources: _Sources) -> None:
        self.call = call
        self._sources = sources

    def close(self) -> None:
        """Takes its modules out of this process; what still runs keeps what it has."""
        with _LOADING:
            self._sources.forget()


def load_function(code: Path, reference: str) -> LoadedFunction:
    """Imports a function from a folder of sources; nothing is written there.

    Args:
        code: the folder; modules in it come before installed ones, not before Python's own.
        reference: ``module:name``; a class is called once, without arguments, for an instance.

    Raises:
        InvalidModel: there is no such module or function, or its module fails to load.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise InvalidModel(
            f"{reference[:200]!r} names no function", remedy="Name it as module:function."
        )
    with _LOADING:
        sources = _Sources(code)
        sources.begin(module_name)
        try:
            found = _imported(module_name, name, reference)
        except BaseException:
            sources.forget()
            raise
    return LoadedFunction(found, sources)


def _imported(module_name: str, name: str, reference: str) -> Callable[..., Any]:
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
        if isinstance(found, type):
            found = found()
    except (Exception, SystemExit) as error:
        raise InvalidModel(
            f"{reference[:200]!r} cannot be loaded: {type(error).__name__}: {str(error)[:500]}",
            remedy="Check the name, and that what it imports is beside it, installed, or listed in "
            "--requirements.",
        ) from error
    if isinstance(found, ModuleType) or not callable(found):
        raise InvalidModel(f"{reference[:200]!r} is a {type(found).__name__}, no function")
    call: Callable[..., Any] = found
    return call


class _Source(importlib.machinery.SourceFileLoader):
    """Reads sources and writes no bytecode beside them: a model's folder stays as it is."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Writes nothing."""


class _Sources(MetaPathFinder):
    """Finds modules in one folder."""

    def __init__(self, root: Path) -> None:
        self._root = str(root.resolve())

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Returns where a module of the folder is; Python's own modules come first."""
        if path is None:
            places = [] if fullname in sys.stdlib_module_names else [self._root]
        else:
            places = [place for place in path if self._holds(place)]
        for place in places:
            finder = importlib.machinery.FileFinder(place, (_Source, [".py"]))
            spec = finder.find_spec(fullname, target)
            if spec is not None:
                return spec
        return None

    def begin(self, module_name: str) -> None:
        """Comes before whatever finds modules now; modules of other models make room.

        Raises:
            InvalidModel: the module's name is taken by a module that this process needs.
        """
        top = module_name.partition(".")[0]
        others = [each for each in sys.meta_path if isinstance(each, _Sources)]
        own = {entry.partition(".")[0] for entry in _listed(self._root)}
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in own and any(each.found(module) for each in others):
                del sys.modules[name]
        if top in sys.stdlib_module_names or top in sys.modules:
            raise InvalidModel(
                f"module {top!r} has the name of one that is loaded already",
                remedy="Give the file that holds the function another name.",
            )
        sys.meta_path.insert(0, self)

    def forget(self) -> None:
        """Finds nothing any more, and what it found is imported no more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for name, module in list(sys.modules.items()):
            if self.found(module):
                del sys.modules[name]

    def found(self, module: ModuleType) -> bool:
        """Says whether a module lies in the folder."""
        spec = getattr(module, "__spec__", None)
        path = getattr(module, "__path__", None)
        # What a library puts among the modules need be none: torch.classes has any attribute.
        places = [getattr(spec, "origin", None), *(path if isinstance(path, Iterable) else ())]
        return any(isinstance(place, str) and self._holds(place) for place in places)

    def _holds(self, place: str) -> bool:
        return place == self._root or place.startswith(self._root + os.sep)


def _listed(folder: str) -> list[str]:
    try:
        return [each.name for each in Path(folder).iterdir()]
    except OSError as error:
        raise InvalidModel(f"there are no sources in {folder!r}: {error.strerror}") from error


class FunctionModel:
    """A function that answers batches; threads take turns.

    Three kinds of function are taken: one whose parameters are single values (``age: int``) is
    called row by row; one whose parameters have the names of the input columns is called with
    their arrays; any other one with a dictionary of them. It returns the values of its only
    output, or a mapping with one entry per output.

    Args:
        function: loaded.
        signature: what it takes and gives.

    Raises:
        InvalidModel: the function cannot be called with these columns.
    """

    def __init__(self, function: LoadedFunction, signature: Any) -> None:
        self._function: LoadedFunction | None = function
        self._signature = signature
        self._turn = threading.Lock()
        self._call = _calling(function.call, [column.name for column in signature.inputs])

    @property
    def signature(self) -> Any:
        """What it takes and gives."""
        return self._signature

    def predict(self, batch: Batch) -> Batch:
        """Returns the outputs, (n, *shape) each.

        Raises:
            InvalidInput: the function raised ValueError or TypeError.
            InvalidModel: its answer does not fit the signature.
            NotReady: it is closed.
        """
        columns = self._signature.outputs
        n = batch[self._signature.inputs[0].name].shape[0]
        with self._turn:
            if self._function is None:
                raise NotReady("the model is closed", remedy="Open it again.")
            if n == 0:
                return no_answers(columns)
            try:
                answer = self._call(batch)
            except (ValueError, TypeError) as error:
                raise InvalidInput(f"the model refuses the batch: {str(error)[:500]}") from error
        if not isinstance(answer, Mapping):
            answer = {columns[0].name: answer} if len(columns) == 1 else {}
        return {column.name: conform(answer, column, n) for column in columns}

    def close(self) -> None:
        """Takes its modules out of this process; closing twice does nothing."""
        with self._turn:
            function, self._function = self._function, None
        if function is not None:
            function.close()


def _calling(function: Callable[..., Any], names: list[str]) -> Callable[[Batch], Any]:
    """Returns a call of the function with a batch, in the way that its parameters ask for."""
    try:
        rows, parameters = takes_rows(function)
    except (TypeError, ValueError) as error:
        raise InvalidModel(f"the function cannot be called: {error}") from error
    if rows:
        return lambda batch: _by_rows(function, batch)
    if set(parameters) == set(names):
        return lambda batch: function(**batch)
    if len(parameters) == 1:
        return function
    raise InvalidModel(
        f"the function takes {', '.join(parameters)}, the signature's inputs are "
        f"{', '.join(names)}",
        remedy="Name the parameters as the inputs, or take one dictionary of arrays.",
    )


def _by_rows(function: Callable[..., Any], batch: Batch) -> Any:
    names = list(batch)
    rows = zip(*(array.tolist() for array in batch.values()), strict=True)
    answers = [function(**dict(zip(names, row, strict=True))) for row in rows]
    if answers and all(isinstance(answer, Mapping) for answer in answers):
        return {name: [answer[name] for answer in answers] for name in answers[0]}
    return answers


def conform(answers: Mapping[str, Any], column: Column, n: int) -> Any:
    """Returns a column's answers, (n, *shape) and of its type.

    Raises:
        InvalidModel: there are none, or they do not fit.
    """
    if column.name not in answers:
        raise InvalidModel(f"the function gives no {column.name!r}: {sorted(map(str, answers))}")
    try:
        array = np.asarray(answers[column.name])
        if column.type == "string":
            texts = np.array([str(value) for value in array.ravel()], dtype=object)
            return texts.reshape((n, *column.shape))
        return array.astype(_dtype(column), copy=False).reshape((n, *column.shape))
    except (ValueError, TypeError) as error:
        raise InvalidModel(
            f"the function's {column.name!r} is no {column.type} of {(n, *column.shape)}: {error}"
        ) from error


def no_answers(columns: Sequence[Column]) -> Batch:
    """Returns the answer to no rows: arrays (0, *shape) of the outputs' types."""
    return {each.name: np.empty((0, *each.shape), _dtype(each)) for each in columns}


def _dtype(column: Column) -> Any:
    return np.dtype(object if column.type == "string" else column.type)
