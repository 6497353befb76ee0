"""Tries a model in the environment that it will be served in: ``python -m tidemill_worker.trial``.

First comes the process to die with, then what to do:

    describe-function CODE FUNCTION        says the function's columns
    describe-file FILE [SIGNATURE [ROWS]]  says what a pickled model is, and its columns
    describe-pyfunc FOLDER [ROWS]          says the columns of what MLflow saved
    measure FOLDER [ROWS]                  opens a model folder, asks it, says what a call takes
    ask LOADER FOLDER                      has ``module:function`` open it and asks it a row

SIGNATURE is JSON, ROWS an ``.npz`` file. One line of JSON on standard output: what was found, or
``{"error": {"kind": …, "what": …, "remedy": …}}``. What the model prints goes to standard error.
"""

from __future__ import annotations

import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidemill_worker import process
from tidemill_worker.estimators import as_estimator, describe_estimator, load_pickled
from tidemill_worker.frames import Batch
from tidemill_worker.functions import InvalidModel, load_function
from tidemill_worker.loading import open_model
from tidemill_worker.mlflow_models import describe_pyfunc
from tidemill_worker.river_models import RiverModel, describe_river, is_river
from tidemill_worker.signatures import Signature, describe_function
from tidemill_worker.warmup import synthetic_row

_CALLS = 50
_MEASURED_S = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Tries what the arguments name; returns 0 if that went well."""
    parent, verb, *rest = sys.argv[1:] if arguments is None else arguments
    process.limit()
    process.die_with_parent(int(parent))
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        said = _VERBS[verb](*rest)
    except Exception as error:  # noqa: BLE001 - a model may raise anything; the caller is told
        what = str(getattr(error, "what", "")) or f"{type(error).__name__}: {error}"
        remedy = str(getattr(error, "remedy", ""))
        kind = type(error).__name__
        said = {"error": {"kind": kind, "what": what[:4096], "remedy": remedy[:4096]}}
    with os.fdopen(out, "wb") as file:
        file.write(msgspec.json.encode(said) + b"\n")
    return 1 if "error" in said else 0


def _describe_function(code: str, function: str) -> dict[str, Any]:
    loaded = load_function(Path(code), function)
    signature = describe_function(loaded.call)
    if signature is None:
        raise InvalidModel(
            f"{function[:200]!r} does not say what it takes and gives",
            remedy="Annotate its parameters and what it returns, or give --signature.",
        )
    return {"signature": signature}


def _ask(loader: str, folder: str) -> dict[str, Any]:
    module, _, function = loader.partition(":")
    opens = getattr(importlib.import_module(module), function)
    model = opens(Path(folder), trust_code=True, threads=1)
    model.predict(synthetic_row(model.signature.inputs))
    model.close()
    return {}


def _describe_file(
    file: str, signature: str | None = None, rows: str | None = None
) -> dict[str, Any]:
    model = load_pickled(Path(file).read_bytes())
    given = None if signature is None else msgspec.json.decode(signature, type=Signature)
    if not is_river(model):
        found = describe_estimator(as_estimator(model)) if given is None else given
        return {"runtime": "sklearn", "signature": found, "options": {}}
    found, classes = describe_river(
        model,
        None if given is None else given.inputs,
        None if rows is None else _rows(Path(rows)),
    )
    options = {"classes": classes} if classes else {}
    return {"runtime": "river", "signature": given or found, "options": options}


def _describe_pyfunc(folder: str, rows: str | None = None) -> dict[str, Any]:
    return dict(describe_pyfunc(Path(folder), None if rows is None else _rows(Path(rows))))


def _measure(folder: str, rows: str | None = None) -> dict[str, Any]:
    model = open_model(Path(folder), trust_code=True, threads=1)
    columns = model.signature.inputs
    row = synthetic_row(columns) if rows is None else _rows(Path(rows))
    n = len(next(iter(row.values())))
    singles = [{name: array[i : i + 1] for name, array in row.items()} for i in range(min(n, 64))]
    many = {name: np.resize(array, (64, *array.shape[1:])) for name, array in row.items()}
    model.predict(row)
    if isinstance(model, RiverModel):
        model.check_steady(row)
    found = {"batch_1_s": _median_s(model, singles), "batch_64_s": _median_s(model, [many])}
    model.close()
    return found


def _rows(path: Path) -> Batch:
    with np.load(path, allow_pickle=False) as arrays:
        return {
            name: array.astype(object) if array.dtype.kind == "U" else array
            for name, array in arrays.items()
        }


def _median_s(model: Any, batches: list[Batch]) -> float:
    seconds: list[float] = []
    end = time.perf_counter() + _MEASURED_S
    while len(seconds) < _CALLS and (len(seconds) < 3 or time.perf_counter() < end):
        start = time.perf_counter()
        model.predict(batches[len(seconds) % len(batches)])
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


_VERBS: dict[str, Callable[..., dict[str, Any]]] = {
    "describe-function": _describe_function,
    "describe-file": _describe_file,
    "describe-pyfunc": _describe_pyfunc,
    "measure": _measure,
    "ask": _ask,
}


if __name__ == "__main__":
    sys.exit(main())
