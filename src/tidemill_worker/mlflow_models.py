"""MLflow's pyfunc models: what their ``MLmodel`` says, and how a batch is put to them.

    MLMODEL       the file that says which flavours a folder has, and its signature
    PLACE         the folder, inside a model's, that holds what MLflow saved

Needs MLflow, whose import takes seconds, where a model is loaded; PyYAML, which MLflow requires,
where only its columns are read.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tidemill_worker import process
from tidemill_worker.frames import Batch
from tidemill_worker.functions import InvalidInput, InvalidModel, NotReady, conform, no_answers
from tidemill_worker.signatures import Column

MLMODEL = "MLmodel"
PLACE = "mlflow"
SIGNATURE_NEEDED = "Say what it takes and gives, with --signature."

_MAX_BYTES = 1 << 20
_SCALARS = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "string": "string",
    "datetime": "string",
}
"""Column types by the names that MLflow gives them; a datetime is text in ISO 8601."""

_TENSORS = frozenset(
    (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    )
)

Columns = tuple[Column, ...]


def read_mlmodel(folder: Path) -> dict[str, Any]:
    """Returns what the ``MLmodel`` of a folder says; no code of the model's is run.

    Raises:
        InvalidModel: there is none, it cannot be read, or it is no pyfunc model.
    """
    yaml = importlib.import_module("yaml")
    try:
        with (folder / MLMODEL).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise InvalidModel(f"{MLMODEL} has more than {_MAX_BYTES >> 10} KiB")
        told: Any = yaml.safe_load(data)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidModel(f"{MLMODEL} cannot be read: {str(error)[:300]}") from error
    known: dict[str, Any] = told if isinstance(told, dict) else {}
    flavors = known.get("flavors")
    if not isinstance(flavors, dict) or not isinstance(flavors.get("python_function"), dict):
        raise InvalidModel(
            f"{MLMODEL} names no flavour 'python_function'",
            remedy="Save the model with mlflow.pyfunc, or with a flavour that can be loaded by it.",
        )
    return known


def columns_told(told: Mapping[str, Any]) -> tuple[Columns | None, Columns | None]:
    """Returns the inputs and the outputs that a signature of MLflow's names; None for what lacks.

    A column is one of the same type; a tensor one whose rows have its shape. What has no name is
    called ``x`` (``x0``, ``x1``, …) where it comes in, and ``value`` where it goes out.

    Raises:
        InvalidModel: no column can hold one of them.
    """
    signature = told.get("signature")
    if not isinstance(signature, dict):
        return None, None
    return _columns(signature.get("inputs"), "x"), _columns(signature.get("outputs"), "value")


def describe_pyfunc(folder: Path, rows: Batch | None = None) -> dict[str, Columns | None]:
    """Returns the columns of what MLflow saved in a folder.

    Outputs that are not told are found by asking the model: the rows given, else its own input
    example. Without either they are None.

    Raises:
        InvalidModel: it is no pyfunc model, does not answer, or no column can hold what it takes.
    """
    told = read_mlmodel(folder)
    inputs, outputs = columns_told(told)
    if outputs is not None and inputs is not None:
        return {"inputs": inputs, "outputs": outputs}
    if (rows is None or inputs is None) and not told.get("saved_input_example_info"):
        return {"inputs": inputs, "outputs": outputs}
    loaded = load_pyfunc(folder)
    if rows is not None and inputs is not None:
        example = _feeding(loaded, inputs)(rows)
    else:
        example = loaded.metadata.load_input_example(str(folder))
    infer = importlib.import_module("mlflow.models.signature").infer_signature
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = infer(example, loaded.predict(example)).to_dict()
    seen = columns_told({"signature": found})
    return {"inputs": inputs or seen[0], "outputs": outputs or seen[1]}


def load_pyfunc(folder: Path) -> Any:
    """Loads what MLflow saved in a folder; runs its maker's code, and writes nothing.

    Raises:
        InvalidModel: it cannot be loaded here.
    """
    process.keep_mlflow_quiet()
    sys.dont_write_bytecode = True
    with warnings.catch_warnings():
        # MLflow warns of its own annotations as it is imported.
        warnings.simplefilter("ignore")
        mlflow = importlib.import_module("mlflow")
        pyfunc = importlib.import_module("mlflow.pyfunc")
    tracing = getattr(mlflow, "tracing", None)
    if tracing is not None:
        tracing.disable()
    try:
        return pyfunc.load_model(str(folder), suppress_warnings=True)
    except Exception as error:
        raise InvalidModel(
            f"MLflow {mlflow.__version__} cannot load the model: "
            f"{type(error).__name__}: {str(error)[:500]}",
            remedy=f"Require what it was made with{_python(folder)}, with --requirements.",
        ) from error


class PyfuncModel:
    """A pyfunc model that answers batches; threads take turns.

    Args:
        loaded: as ``load_pyfunc`` returns it.
        signature: what it takes and gives.
    """

    def __init__(self, loaded: Any, signature: Any) -> None:
        self._loaded: Any = loaded
        self._turn = threading.Lock()
        self._feed = _feeding(loaded, signature.inputs)
        self.signature = signature

    def predict(self, batch: Batch) -> Batch:
        """Returns the outputs, (n, *shape) each.

        Raises:
            InvalidInput: the model, or MLflow's check of what it is given, raised.
            InvalidModel: its answer does not fit the signature.
            NotReady: it is closed.
        """
        inputs, outputs = self.signature.inputs, self.signature.outputs
        n = batch[inputs[0].name].shape[0]
        with self._turn:
            if self._loaded is None:
                raise NotReady("the model is closed", remedy="Open it again.")
            if n == 0:
                return no_answers(outputs)
            answer = self._asked(batch)
        named = by_name(answer, [column.name for column in outputs])
        return {column.name: conform(named, column, n) for column in outputs}

    def _asked(self, batch: Batch) -> Any:
        refused = importlib.import_module("mlflow.exceptions").MlflowException
        try:
            return self._loaded.predict(self._feed(batch))
        except (ValueError, TypeError, refused) as error:
            raise InvalidInput(f"the model refuses the batch: {str(error)[:500]}") from error

    def close(self) -> None:
        """Gives the model back once no call uses it; closing twice does nothing."""
        with self._turn:
            self._loaded = None


def by_name(answer: Any, names: Sequence[str]) -> dict[str, Any]:
    """Returns an answer of a pyfunc model by the names of the outputs.

    A data frame or a mapping has them by name, a list of mappings by row. What has no names is the
    only output, or a matrix with one column for each.

    Example:
        >>> by_name([{"a": 1, "b": 2}, {"a": 3, "b": 4}], ["a", "b"])
        {'a': [1, 3], 'b': [2, 4]}
        >>> by_name([5, 6], ["value"])
        {'value': [5, 6]}
    """
    if hasattr(answer, "columns") and hasattr(answer, "to_numpy"):
        answer = {name: answer[name].to_numpy() for name in answer.columns}
    elif isinstance(answer, list) and answer and all(isinstance(row, Mapping) for row in answer):
        answer = {name: [row.get(name) for row in answer] for name in answer[0]}
    if isinstance(answer, Mapping):
        found = {str(name): values for name, values in answer.items()}
        if len(names) == 1 == len(found):
            return {names[0]: next(iter(found.values()))}
        return found
    if len(names) == 1:
        return {names[0]: answer}
    matrix = np.asarray(answer)
    if matrix.ndim != 2 or matrix.shape[1] != len(names):
        raise InvalidModel(f"the model answers {matrix.shape}, not one column for each of {names}")
    return {name: matrix[:, i] for i, name in enumerate(names)}


def _columns(told: Any, unnamed: str) -> Columns | None:
    if told is None:
        return None
    try:
        specs = json.loads(told) if isinstance(told, str) else told
        nameless = [i for i, spec in enumerate(specs) if spec.get("name") is None]
        called = {i: unnamed if len(specs) == 1 else f"{unnamed}{i}" for i in nameless}
        return tuple(
            _column(called.get(i, str(spec.get("name"))), spec) for i, spec in enumerate(specs)
        )
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InvalidModel(f"the signature in {MLMODEL} cannot be read: {error!r}") from error


def _column(name: str, spec: Mapping[str, Any]) -> Column:
    kind = spec["type"]
    if kind != "tensor":
        if kind in _SCALARS:
            return Column(name, _SCALARS[kind])
        raise InvalidModel(
            f"{name!r} is of MLflow's type {str(kind)[:100]!r}, which no column can hold",
            remedy=SIGNATURE_NEEDED,
        )
    tensor = spec["tensor-spec"]
    sizes, element = list(tensor["shape"]), str(tensor["dtype"])
    if sizes[:1] != [-1] or not all(isinstance(size, int) and size > 0 for size in sizes[1:]):
        raise InvalidModel(
            f"tensor {name!r} has the shape {sizes}, of which the first dimension, and no other, "
            "must be open (-1)",
            remedy=SIGNATURE_NEEDED,
        )
    found = element if element in _TENSORS else "string"
    if found == "string" and not element.startswith(("str", "<U", "object", "unicode")):
        raise InvalidModel(
            f"tensor {name!r} holds {element[:100]!r}, which no column can hold",
            remedy=SIGNATURE_NEEDED,
        )
    return Column(name, found, tuple(sizes[1:]))


def _feeding(loaded: Any, inputs: Sequence[Any]) -> Callable[[Batch], Any]:
    """Returns what makes of a batch the data that a pyfunc model takes."""
    schema = loaded.metadata.get_input_schema()
    if schema is None or len(schema.inputs) != len(inputs):
        if len(inputs) == 1 and inputs[0].shape:
            return lambda batch: batch[inputs[0].name]
        return lambda batch: _frame({column.name: batch[column.name] for column in inputs})
    names = schema.input_names() if schema.has_input_names() else None
    types = schema.numpy_types()
    pairs = list(zip(inputs, types, strict=True))
    if schema.is_tensor_spec():
        if names is None:
            (column, element) = pairs[0]
            return lambda batch: _cast(batch[column.name], element)
        keys = dict(zip(names, pairs, strict=True))
        return lambda batch: {
            key: _cast(batch[column.name], element) for key, (column, element) in keys.items()
        }
    keys = dict(zip(names or range(len(pairs)), pairs, strict=True))
    return lambda batch: _frame(
        {key: _cast(batch[column.name], element) for key, (column, element) in keys.items()}
    )


def _frame(columns: Mapping[Any, Any]) -> Any:
    return importlib.import_module("pandas").DataFrame(dict(columns))


def _cast(array: Any, element: Any) -> Any:
    kind = np.dtype(element)
    if kind.kind == "O":
        return array
    # Of dates only the day or the moment is told, in text.
    return array.astype("datetime64[ns]" if kind.kind == "M" else kind, copy=False)


def _python(folder: Path) -> str:
    """Says with which Python a model was made, if that is not this one."""
    made = read_mlmodel(folder)["flavors"]["python_function"].get("python_version")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not made or str(made).startswith(f"{here}."):
        return ""
    return f" (it is from Python {str(made)[:20]}, and this is {here})"
