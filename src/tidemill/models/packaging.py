"""What every packager does: a new folder, a measured model, a manifest; and how one is called."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from tidemill.foundation.clock import SYSTEM_CLOCK, Clock
from tidemill.foundation.errors import InvalidInput, InvalidModel, ModelFailed, TidemillError
from tidemill.models.compilation import COMPILED
from tidemill.models.format import (
    ORIGINAL,
    CompilationReport,
    Latency,
    ModelManifest,
    write_model,
)
from tidemill.models.runtime import Runtime, open_runtime
from tidemill.models.signature import Array, Batch, Column, Signature

_MEASURED_S = 0.15
_MEASURED_CALLS = 300
_EXAMPLE = (
    '{"inputs": [{"name": "x", "type": "float32", "shape": [4]}], '
    '"outputs": [{"name": "value", "type": "float32"}]}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What whoever has a model packaged knows of it beside its file.

    Args:
        signature: its columns; inferred where that is possible if None.
        rows: returns rows for a signature that the model must answer, and on which a compiled one
            must agree; made up if None.
        compiles: it is to be compiled where that changes no answer.
        clock: tells when, and how long a call takes.
    """

    signature: Signature | None = None
    rows: Callable[[Signature], Batch] | None = None
    compiles: bool = True
    clock: Clock = SYSTEM_CLOCK

    @property
    def rows_from(self) -> Literal["evaluation", "probes"]:
        """What the rows are, as reports call them."""
        return "probes" if self.rows is None else "evaluation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What was put into a model folder, as its manifest will tell it."""

    runtime: str
    entry: str
    signature: Signature
    options: dict[str, Any]


class Packager(Protocol):
    """Makes a model folder of what one framework saves."""

    def __call__(self, path: Path, name: str, folder: Path, given: Given) -> ModelManifest:
        """Makes a model folder, measured, of what lies at a path.

        Args:
            path: what the framework saved; somebody vouched for it if that runs code.
            name: the model's name.
            folder: a new folder, or an empty one.
            given: what else is known.

        Raises:
            InvalidModel: it cannot be loaded, does not answer, or its signature cannot be
                inferred and was not given (``signature_needed``).
            InvalidInput: the rows given do not fit the signature.
            Unavailable: the framework is not installed; the extra is named.
        """


def signature_needed(what: str) -> InvalidModel:
    """Returns the error that asks for a signature, after ``what``: why none can be inferred."""
    return InvalidModel(what, remedy=f"Say what it takes and gives: --signature '{_EXAMPLE}'.")


def read_file(path: Path) -> bytes:
    """Returns the bytes of a model's file.

    Raises:
        InvalidModel: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidModel(f"{str(path)!r} cannot be read: {error.strerror}") from error


def new_folder(folder: Path) -> None:
    """Makes the folder, or finds it empty.

    Raises:
        InvalidInput: something is in it.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InvalidInput(
            f"folder {str(folder)!r} is not empty", remedy="Choose a new folder for the model."
        )
    folder.mkdir(parents=True, exist_ok=True)


def made_with(*distributions: str) -> tuple[str, ...]:
    """Returns those of the distributions that are installed, as ``name==version``."""
    found = []
    for name in distributions:
        try:
            found.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            continue
    return tuple(found)


def blank_rows(signature: Signature, n: int) -> Batch:
    """Returns n rows of zeros and empty strings."""
    return {column.name: blank(column, n) for column in signature.inputs}


def blank(column: Column, n: int) -> Array:
    """Returns n zeros, or empty strings, of a column's type and shape."""
    return np.full((n, *column.shape), "" if column.type == "string" else 0, dtype=column.dtype)


def ask(runtime: Runtime, rows: Batch) -> Batch:
    """Returns the answers; whatever else the model raises is its failure.

    Raises:
        ModelFailed: it raised what is no error of Tidemill's.
    """
    try:
        return runtime.predict(rows)
    except TidemillError:
        raise
    except Exception as error:
        raise ModelFailed(f"the model raised {type(error).__name__}: {str(error)[:500]}") from error


@contextmanager
def answering(path: Path, given: Given) -> Iterator[None]:
    """Makes a refusal of rows, while a file is packaged, an error of the model that says so."""
    try:
        yield
    except InvalidModel:
        raise
    except (InvalidInput, ModelFailed) as error:
        which = "made-up rows" if given.rows is None else "the rows of the sample"
        raise InvalidModel(
            f"{path} does not answer {which}: {error.what}",
            remedy="Give rows that it takes, with --sample.",
        ) from error


def write_served(
    folder: Path,
    plain: ModelManifest,
    report: CompilationReport | None,
    rows: Batch | None,
    *,
    write_original: Callable[[Path], None],
    compiled_with: tuple[str, ...] = (),
    clock: Clock = SYSTEM_CLOCK,
) -> ModelManifest:
    """Completes a folder with the model as it is, or beside what it was compiled to.

    Args:
        folder: empty, or with the compiled model alone if the report says that it is equal.
        plain: the manifest of the model as it is.
        report: how its compilation went; None if nobody tried.
        rows: rows to measure it with; zeros if None.
        write_original: writes the model's own files into a folder.
        compiled_with: the distributions that made the compiled model, beside ONNX Runtime.
        clock: tells how long a call takes.
    """
    equal = report is not None and report.equal
    original = folder / ORIGINAL if equal else folder
    original.mkdir(exist_ok=True)
    write_original(original)
    sample = measured_rows(plain.signature, rows)
    plain = _measured(original, write_model(original, plain), sample, clock)
    if report is None:
        return plain
    if not equal:
        return write_model(folder, msgspec.structs.replace(plain, compiled_from=report))
    compiled = msgspec.structs.replace(
        plain,
        runtime="onnx",
        entry=COMPILED,
        trust="data",
        runtime_options={},
        latency=None,
        compiled_from=msgspec.structs.replace(report, original_latency=plain.latency),
        requirements=made_with("onnxruntime", *compiled_with),
    )
    return _measured(folder, write_model(folder, compiled), sample, clock)


def measure_latency(runtime: Runtime, rows: Batch, clock: Clock = SYSTEM_CLOCK) -> Latency:
    """Returns the median seconds of a call with one row and of one with 64.

    Args:
        runtime: loaded.
        rows: 64 rows; calls of one take them in turn.
        clock: measures.
    """
    singles = [{name: array[i : i + 1] for name, array in rows.items()} for i in range(64)]
    return Latency(
        batch_1_s=_median_s(runtime, singles, clock),
        batch_64_s=_median_s(runtime, [rows], clock),
    )


def _median_s(runtime: Runtime, batches: list[Batch], clock: Clock) -> float:
    ask(runtime, batches[0])
    seconds: list[float] = []
    end = clock.monotonic() + _MEASURED_S
    while len(seconds) < _MEASURED_CALLS and (len(seconds) < 5 or clock.monotonic() < end):
        batch = batches[len(seconds) % len(batches)]
        start = clock.monotonic()
        ask(runtime, batch)
        seconds.append(clock.monotonic() - start)
    return statistics.median(seconds)


def measured_rows(signature: Signature, rows: Batch | None) -> dict[str, Any]:
    """Returns the 64 rows that a model is measured with: those given, in turn, or zeros."""
    if rows is None:
        return blank_rows(signature, 64)
    return {name: np.resize(array, (64, *array.shape[1:])) for name, array in rows.items()}


def _measured(folder: Path, manifest: ModelManifest, sample: Batch, clock: Clock) -> ModelManifest:
    # What is measured is what will be served: loaded again from its folder, with one thread.
    runtime = open_runtime(folder, trust_code=True)
    try:
        latency = measure_latency(runtime, sample, clock)
    finally:
        runtime.close()
    return write_model(folder, msgspec.structs.replace(manifest, latency=latency))
