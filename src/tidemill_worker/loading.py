"""Opens a model where there is nothing of Tidemill's but this package, once its files match.

This is what a worker does in an environment that a model's own requirements made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tidemill_worker.estimators import EstimatorModel, as_estimator, load_pickled, with_threads
from tidemill_worker.functions import Corrupted, InvalidModel, NotTrusted, open_function
from tidemill_worker.mlflow_models import PLACE, PyfuncModel, load_pyfunc
from tidemill_worker.river_models import RiverModel
from tidemill_worker.signatures import Signature

_MANIFEST = "model.json"
_MAX_MANIFEST_BYTES = 16 << 20


class _Manifest(msgspec.Struct, frozen=True):
    name: str
    runtime: str
    entry: str
    signature: Signature
    files: dict[str, str]
    runtime_options: dict[str, Any] = {}


def open_model(folder: Path, *, trust_code: bool, threads: int, device: str = "cpu") -> Any:
    """Loads the model of a folder once the folder holds exactly its files, unchanged.

    Args:
        folder: a model folder.
        trust_code: somebody vouched for the code.
        threads: how many one call may use.
        device: the only GPU that the function's libraries see, if it is none of "cpu".

    Raises:
        Corrupted: a file is missing, changed, a link, or not the model's.
        InvalidModel: it is no model folder, or nothing here opens its runtime.
        NotTrusted: nobody vouched for it.
    """
    told = verify(folder)
    opener = _OPENERS.get(told.runtime)
    if opener is None:
        # What the function does with a device is its own business: it was shown the right one.
        return open_function(folder, trust_code=trust_code, threads=threads)
    if not trust_code:
        raise NotTrusted(f"model {told.name!r} runs its maker's code when it is loaded")
    if device != "cpu":
        raise InvalidModel(f"model {told.name!r} ({told.runtime}) runs on the CPU alone")
    return opener(folder, told, threads)


def _open_estimator(folder: Path, told: _Manifest, threads: int) -> EstimatorModel:
    estimator = as_estimator(load_pickled((folder / told.entry).read_bytes()))
    return EstimatorModel(with_threads(estimator, threads), told.signature)


def _open_river(folder: Path, told: _Manifest, threads: int) -> RiverModel:
    del threads
    model = load_pickled((folder / told.entry).read_bytes())
    return RiverModel(model, told.signature, told.runtime_options.get("classes", ()))


def _open_pyfunc(folder: Path, told: _Manifest, threads: int) -> PyfuncModel:
    del threads
    return PyfuncModel(load_pyfunc(folder / PLACE), told.signature)


_OPENERS: dict[str, Callable[[Path, _Manifest, int], Any]] = {
    "sklearn": _open_estimator,
    "river": _open_river,
    "mlflow": _open_pyfunc,
}


def verify(folder: Path) -> _Manifest:
    """Makes sure that a folder holds exactly the files that its ``model.json`` names.

    Raises:
        InvalidModel: there is no such file, or it cannot be read.
        Corrupted: a file is missing, changed, a link, or not named.
    """
    try:
        with (folder / _MANIFEST).open("rb") as file:
            told = msgspec.json.decode(file.read(_MAX_MANIFEST_BYTES), type=_Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise InvalidModel(f"{str(folder)!r} is no model folder: {error}") from error
    present = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    del present[_MANIFEST]
    for name, path in present.items():
        if path.is_symlink() or name not in told.files:
            raise Corrupted(f"file {name[:200]!r} of model {told.name!r} is not the model's")
    for name, digest in told.files.items():
        if name not in present or _sha256(present[name]) != digest:
            raise Corrupted(
                f"file {name[:200]!r} of model {told.name!r} is not what was written",
                remedy="Push the model again.",
            )
    if told.entry not in told.files:
        raise InvalidModel(f"model {told.name!r} has no file {told.entry[:200]!r}")
    return told


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
