"""Boosters' own files as model folders, compiled where that was found equal."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from tidemill.foundation.clock import iso
from tidemill.foundation.errors import InvalidModel, ModelFailed
from tidemill.foundation.names import check_name
from tidemill.models.boosters.forest import MAX_FILE_BYTES, Forest, malformed
from tidemill.models.boosters.graph import build_graph
from tidemill.models.boosters.lightgbm import read_lightgbm
from tidemill.models.boosters.xgboost import read_xgboost
from tidemill.models.compilation import TOLERANCE, compile_verified
from tidemill.models.format import NOT_COMPILED, CompilationReport, ModelManifest, write_model
from tidemill.models.packaging import (
    Given,
    answering,
    ask,
    made_with,
    new_folder,
    read_file,
    write_served,
)
from tidemill.models.probing import probe_rows
from tidemill.models.runtime import Runtime
from tidemill.models.runtimes.boosted import BoostedRuntime, check_fits
from tidemill.models.runtimes.lightgbm import load_lightgbm
from tidemill.models.runtimes.xgboost import load_xgboost
from tidemill.models.signature import Batch, Signature, check_batch
from tidemill.models.trying import try_apart


@dataclass(frozen=True, slots=True, kw_only=True)
class _Library:
    """A library of boosters, a module as its runtime: what reads its files, and loads them."""

    runtime: str
    read: Callable[[bytes], Forest]
    load: Callable[[bytes, Signature], BoostedRuntime]
    distributions: tuple[str, ...]


_LIGHTGBM = _Library(
    runtime="lightgbm",
    read=read_lightgbm,
    load=load_lightgbm,
    distributions=("lightgbm",),
)
_XGBOOST = _Library(
    runtime="xgboost",
    read=read_xgboost,
    load=load_xgboost,
    distributions=("xgboost", "xgboost-cpu"),
)


def package_lightgbm(path: Path, name: str, folder: Path, given: Given) -> ModelManifest:
    """Makes a model folder of a text file that LightGBM's ``Booster.save_model`` wrote."""
    return _package(_LIGHTGBM, path, name, folder, given)


def package_xgboost(path: Path, name: str, folder: Path, given: Given) -> ModelManifest:
    """Makes a model folder of a JSON or UBJSON file that XGBoost's ``save_model`` wrote."""
    return _package(_XGBOOST, path, name, folder, given)


def _package(library: _Library, path: Path, name: str, folder: Path, given: Given) -> ModelManifest:
    check_name("model", name)
    if path.stat().st_size > MAX_FILE_BYTES:
        raise malformed(f"it has over {MAX_FILE_BYTES} bytes")
    data = read_file(path)
    forest = library.read(data)
    signature = given.signature or forest.signature()
    check_fits(forest, signature)
    rows = check_batch(signature, _rows(forest, signature, given))
    new_folder(folder)
    entry = f"booster{path.suffix.lower()}"  # "model.json" is the manifest
    plain = ModelManifest(
        name=name,
        runtime=library.runtime,
        signature=signature,
        entry=entry,
        trust="data",
        classes=tuple(map(str, range(forest.classes))),
        requirements=made_with(*library.distributions, "numpy"),
        created_at=iso(given.clock.now()),
    )

    def write(place: Path) -> None:
        (place / entry).write_bytes(data)

    with ThreadPoolExecutor(1) as other:
        trial = other.submit(_try_apart, plain, write)
        # Importing takes both processes long, and reads nothing of the file: they do it at once.
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(library.runtime)
        trial.result()
    with answering(path, given):
        original = library.load(data, signature)
        ask(original, rows)
        report = _compiled(forest, original, rows, folder) if given.compiles else NOT_COMPILED
        return write_served(
            folder,
            plain,
            msgspec.structs.replace(report, rows_from=given.rows_from),
            rows,
            write_original=write,
            compiled_with=("onnx", *library.distributions),
            clock=given.clock,
        )


def _rows(forest: Forest, signature: Signature, given: Given) -> Batch:
    if given.rows is not None:
        return given.rows(signature)
    return probe_rows(None, signature, thresholds=forest.thresholds())


def _try_apart(manifest: ModelManifest, write: Callable[[Path], None]) -> None:
    """Has another process load the file first: what was checked is not all that a library reads.

    Raises:
        InvalidModel: that process died of it.
    """
    place = Path(tempfile.mkdtemp(prefix="tidemill-trial-"))
    try:
        write(place)
        write_model(place, manifest)
        try_apart(place)
    except ModelFailed as error:
        raise InvalidModel(
            f"{manifest.runtime} does not survive the file: {error.what}",
            remedy="Save the model again.",
        ) from error
    finally:
        shutil.rmtree(place)


def _compiled(forest: Forest, original: Runtime, rows: Batch, folder: Path) -> CompilationReport:
    if forest.only_native is not None:
        return CompilationReport(equal=False, reason=forest.only_native, tolerance=TOLERANCE)
    signature = original.signature
    return compile_verified(
        original,
        rows,
        [{column.name: column.type for column in signature.inputs}],
        lambda _: build_graph(forest, signature),
        classes=np.arange(forest.classes) if forest.classes else None,
        folder=folder,
    )
