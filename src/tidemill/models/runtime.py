"""The Runtime seam: a loaded model that answers batches; and the way to open one, verified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from tidemill.foundation.errors import InvalidModel, NotTrusted
from tidemill.models.format import ModelManifest, read_manifest, verify_model
from tidemill.models.requirements import LOCK
from tidemill.models.runtimes.lightgbm import check_lightgbm, open_lightgbm
from tidemill.models.runtimes.mlflow import open_mlflow
from tidemill.models.runtimes.onnx import check_onnx, open_onnx
from tidemill.models.runtimes.python import open_python
from tidemill.models.runtimes.river import open_river
from tidemill.models.runtimes.sklearn import open_sklearn
from tidemill.models.runtimes.torch import check_torch, open_torch
from tidemill.models.runtimes.xgboost import check_xgboost, open_xgboost
from tidemill.models.signature import Batch, Signature


class Runtime(Protocol):
    """A loaded model; safe to share between threads."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""

    def predict(self, batch: Batch) -> Batch:
        """Returns the outputs, (n, *shape) each and of the types of the signature.

        Args:
            batch: as ``check_batch`` returns it; it is not checked again. No rows give no rows.

        Raises:
            InvalidInput: the model itself refuses a value (a NaN, an unknown category).
            NotReady: it is closed.
        """

    def close(self) -> None:
        """Gives its memory back; closing twice does nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opener:
    """What opens the models of one framework.

    Args:
        trust: "code" if opening one runs code of its maker, whatever its manifest claims.
        open: opens a verified model folder, so that one call uses so many threads.
        open_on: the same, on a GPU that is the only one this process sees; None if it can't be.
        check: raises ``InvalidModel`` for a verified folder that must not be opened here.
    """

    trust: Literal["data", "code"]
    open: Callable[[Path, ModelManifest, int], Runtime]
    open_on: Callable[[Path, ModelManifest, int, str], Runtime] | None = None
    check: Callable[[Path, ModelManifest], None] | None = None


RUNTIMES: dict[str, Opener] = {
    "onnx": Opener(trust="data", open=open_onnx, open_on=open_onnx, check=check_onnx),
    "sklearn": Opener(trust="code", open=open_sklearn),
    "torch": Opener(trust="code", open=open_torch, open_on=open_torch, check=check_torch),
    "lightgbm": Opener(trust="data", open=open_lightgbm, check=check_lightgbm),
    "xgboost": Opener(trust="data", open=open_xgboost, check=check_xgboost),
    "river": Opener(trust="code", open=open_river),
    "mlflow": Opener(trust="code", open=open_mlflow),
    "python": Opener(trust="code", open=open_python, open_on=open_python),
}
"""What opens a model here, by the name of its runtime."""


def runs_code(manifest: ModelManifest) -> bool:
    """Says whether opening the model runs code of its maker."""
    opener = RUNTIMES.get(manifest.runtime)
    return manifest.trust == "code" or (opener is not None and opener.trust == "code")


def check_model(folder: Path, manifest: ModelManifest) -> None:
    """Does nothing for a verified model folder that may be opened, as far as its content says.

    Raises:
        InvalidModel: it may not.
        Unavailable: the framework that could tell is not installed.
    """
    opener = RUNTIMES.get(manifest.runtime)
    if opener is not None and opener.check is not None and LOCK not in manifest.files:
        opener.check(folder, manifest)


def open_runtime(
    folder: Path, *, trust_code: bool = False, threads: int = 1, device: str = "cpu"
) -> Runtime:
    """Checks and loads the model in the folder; the caller closes it.

    Args:
        folder: a model folder.
        trust_code: somebody vouched for the code that loading the model runs.
        threads: how many threads one call may use.
        device: "cpu", or the GPU that is the only one this process sees.

    Raises:
        InvalidModel: it is no model folder, or nothing here may or can load it, or not on the
            device.
        Corrupted: a file is not what was written.
        NotTrusted: the model brings code and nobody vouched for it.
        Unavailable: the framework that loads it is not installed, or cannot use the device.
    """
    manifest = _verified(folder, trust_code=trust_code)
    check_model(folder, manifest)
    return _open(folder, manifest, threads, device)


def open_registered(
    folder: Path, *, trust_code: bool = False, threads: int = 1, device: str = "cpu"
) -> Runtime:
    """Loads a model whose content was checked when it was registered, as ``open_runtime`` does."""
    return _open(folder, _verified(folder, trust_code=trust_code), threads, device)


def _open(folder: Path, manifest: ModelManifest, threads: int, device: str) -> Runtime:
    opener = RUNTIMES[manifest.runtime]
    if device == "cpu":
        return opener.open(folder, manifest, threads)
    if opener.open_on is None:
        raise InvalidModel(
            f"model {manifest.name!r} ({manifest.runtime}) cannot be opened on {device!r}",
            remedy='Set device = "cpu" in the plan.',
        )
    return opener.open_on(folder, manifest, threads, device)


def _verified(folder: Path, *, trust_code: bool) -> ModelManifest:
    manifest = read_manifest(folder)
    if LOCK in manifest.files:
        raise InvalidModel(
            f"model {manifest.name!r} has an environment of its own, and is not opened here",
            remedy="Serve it: its workers run in its environment.",
        )
    if manifest.runtime == "remote":
        raise InvalidModel(
            f"model {manifest.name!r} answers in another server and cannot be loaded here",
            remedy="Ask it through tidemill serve.",
        )
    opener = RUNTIMES.get(manifest.runtime)
    if opener is None:
        raise InvalidModel(
            f"model {manifest.name!r} needs the unknown runtime {manifest.runtime[:100]!r}",
            remedy=f"Known runtimes: {', '.join(RUNTIMES)}.",
        )
    verify_model(folder, manifest)
    if not trust_code and runs_code(manifest):
        raise NotTrusted(
            f"model {manifest.name!r} runs its maker's code when it is loaded",
            remedy="Push it again with --trust-code if you trust who made it.",
        )
    return manifest
