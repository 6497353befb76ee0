"""Models in ONNX format, on ONNX Runtime: microseconds a call, and no code of their maker's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.foundation.errors import InvalidInput, InvalidModel, NotReady, Unavailable
from tidemill.models.format import ModelManifest, read_verified
from tidemill.models.signature import Array, Batch, Column, Signature

TYPES = {
    **{f"tensor({name})": name for name in ("bool", "int8", "int16", "int32", "int64", "string")},
    **{f"tensor({name})": name for name in ("uint8", "uint16", "uint32", "uint64", "float16")},
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}
"""Column types by the names that ONNX Runtime gives them."""

_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
_CUDA = "CUDAExecutionProvider"
_MISSING, _REMEDY = "ONNX models need ONNX Runtime", "pip install 'tidemill[onnx]'."
_EXTERNAL = 1  # TensorProto.EXTERNAL


def open_onnx(
    folder: Path, manifest: ModelManifest, threads: int, device: str = "cpu"
) -> OnnxRuntime:
    """Loads the entry of a verified model folder; what the GPU cannot do is done on the CPU.

    Raises:
        InvalidModel: it is not ONNX, or does not fit the signature.
        Corrupted: the entry is not what was written.
        Unavailable: ONNX Runtime is not installed, or cannot use the device.
    """
    data = read_verified(folder, manifest, manifest.entry)
    return OnnxRuntime(open_session(data, threads=threads, device=device), manifest.signature)


class OnnxRuntime:
    """One ONNX Runtime session; safe to share between threads.

    Args:
        session: an ``onnxruntime.InferenceSession``.
        signature: columns named as the graph's inputs and outputs; scalars may be ``(n, 1)``
            tensors there, and numbers of another width.

    Raises:
        InvalidModel: the signature and the graph do not fit together.
    """

    def __init__(self, session: Any, signature: Signature) -> None:
        self._session: Any = session
        self._signature = signature
        self._feeds = _match_inputs(session, signature)
        self._first = self._feeds[0][0]
        self._names, self._outputs = _match_outputs(session, signature)

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        return self._signature

    def predict(self, batch: Batch) -> Batch:
        """Returns the outputs, (n, *shape) each.

        Raises:
            InvalidInput: the graph's own type cannot hold a number, or the graph refuses a value.
        """
        session = self._session
        if session is None:
            raise NotReady("the model is closed", remedy="Open it again.")
        n = batch[self._first].shape[0]
        if n == 0:
            return self._signature.empty_outputs()
        feed = {}
        try:
            for name, dtype, as_matrix in self._feeds:
                array = batch[name]
                if array.dtype != dtype:
                    array = _cast(name, array, dtype)
                feed[name] = array.reshape(n, 1) if as_matrix else array
            answers = session.run(self._names, feed)
        except InvalidInput:
            raise
        except Exception as error:
            raise InvalidInput(f"the model refuses the batch: {str(error)[:500]}") from error
        return {
            name: answer
            if answer.dtype == dtype and answer.shape == (n, *shape)
            else _conform(answer, dtype, (n, *shape))
            for answer, (name, dtype, shape) in zip(answers, self._outputs, strict=True)
        }

    def close(self) -> None:
        """Gives the session back once no call uses it."""
        self._session = None


def open_session(data: bytes, *, threads: int = 1, device: str = "cpu") -> Any:
    """Returns a session on a graph that was found to stand by itself.

    Args:
        data: the graph.
        threads: of one call.
        device: "cpu", or the GPU that is the only one this process sees.

    Raises:
        InvalidModel: ONNX Runtime cannot load it.
        Unavailable: ONNX Runtime is not installed, or cannot use the device.
    """
    try:
        import onnxruntime as ort  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise Unavailable(_MISSING, remedy=_REMEDY) from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Spinning threads would take the processor from the gateway that shares it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if device != "cpu":
        providers.insert(0, _CUDA)
        _check_provider(ort.get_available_providers(), device)
    try:
        session = ort.InferenceSession(data, options, providers=providers)
    except Exception as error:
        raise InvalidModel(
            f"ONNX Runtime {ort.__version__} cannot load the model: {str(error)[:500]}"
        ) from error
    session.disable_fallback()
    session._model_bytes = None  # noqa: SLF001 - kept for a fallback only, and as large as the model
    if device != "cpu":
        # A provider that cannot start is left out with a warning, and the CPU does its work.
        _check_provider(session.get_providers(), device)
    return session


def _check_provider(providers: list[str], device: str) -> None:
    if _CUDA not in providers:
        raise Unavailable(
            f"ONNX Runtime cannot use {device!r} here: it offers {', '.join(providers)}",
            remedy="Install onnxruntime-gpu in place of onnxruntime, with the CUDA that it needs; "
            "or push a PyTorch model with --no-compile.",
        )


def check_onnx(folder: Path, manifest: ModelManifest) -> None:
    """Does nothing if the entry of a model folder stands by itself; see ``check_stands_alone``."""
    check_stands_alone(read_verified(folder, manifest, manifest.entry))


def check_stands_alone(data: bytes) -> None:
    """Does nothing for a graph that refers to no other file and to no operator but ONNX's own.

    What is served was found so when it was registered: a gateway need not parse it again.

    Raises:
        InvalidModel: it does, or the bytes are not ONNX.
        Unavailable: ONNX is not installed.
    """
    try:
        import onnx  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise Unavailable(_MISSING, remedy=_REMEDY) from error
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise InvalidModel(f"the file is not an ONNX model: {str(error)[:200]}") from error
    graphs = [model.graph, *model.functions]
    own = {function.domain for function in model.functions}
    while graphs:
        graph = graphs.pop()
        for node in graph.node:
            if node.domain not in _DOMAINS | own or node.op_type == "EPContext":
                raise InvalidModel(
                    f"the model uses the foreign operator {node.domain[:80]}:{node.op_type[:80]}",
                    remedy="Export it with ONNX's own operators only.",
                )
            for attribute in node.attribute:
                graphs += [attribute.g, *attribute.graphs]
        if any(tensor.data_location == _EXTERNAL for tensor in _tensors(graph)):
            raise InvalidModel(
                "the model keeps weights in another file",
                remedy="Save it as one file (onnx.save with save_as_external_data=False).",
            )


def _tensors(graph: Any) -> Iterator[Any]:
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def column_type(node: Any) -> str:
    """Returns the column type of a graph's input or output.

    Raises:
        InvalidModel: it is no tensor of a known type.
    """
    kind = TYPES.get(node.type)
    if kind is None:
        raise InvalidModel(
            f"the model's {node.name!r} is a {node.type}, which no column can hold",
            remedy="Export tensors only (skl2onnx: options={'zipmap': False}).",
        )
    return kind


def _match_inputs(session: Any, signature: Signature) -> list[tuple[str, np.dtype[Any], bool]]:
    """Returns per input: its name, the type to feed, and whether a scalar is an (n, 1) tensor."""
    nodes = {node.name: node for node in session.get_inputs()}
    names = [column.name for column in signature.inputs]
    if set(nodes) != set(names):
        raise InvalidModel(
            f"the signature's inputs are {sorted(names)}, the model's are {sorted(nodes)}"
        )
    feeds = []
    for column in signature.inputs:
        node = nodes[column.name]
        kind = column_type(node)
        sizes = list(node.shape)
        as_matrix = column.shape == () and len(sizes) == 2
        shape = [1] if as_matrix else list(column.shape)
        fits = len(sizes) == len(shape) + 1 and all(
            not isinstance(size, int) or size == want
            for size, want in zip(sizes[1:], shape, strict=True)
        )
        if not fits or not _castable(column, kind):
            raise InvalidModel(
                f"input {column.name!r} is {column.type} {column.shape} in the signature and "
                f"{kind} {tuple(sizes)} in the model"
            )
        feeds.append((column.name, Column(column.name, kind).dtype, as_matrix))
    return feeds


def _match_outputs(
    session: Any, signature: Signature
) -> tuple[list[str], list[tuple[str, np.dtype[Any], tuple[int, ...]]]]:
    nodes = {node.name: node for node in session.get_outputs()}
    for column in signature.outputs:
        if column.name not in nodes:
            raise InvalidModel(
                f"the signature's output {column.name!r} is none of the model's: {sorted(nodes)}"
            )
        kind = column_type(nodes[column.name])
        if not _castable(column, kind):
            raise InvalidModel(
                f"output {column.name!r} is {column.type} in the signature, {kind} in the model"
            )
    outputs = [(column.name, column.dtype, column.shape) for column in signature.outputs]
    return [column.name for column in signature.outputs], outputs


def _cast(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Returns an input in the graph's own type.

    Raises:
        InvalidInput: a number would become infinite there, or wrap around.
    """
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if np.can_cast(array.dtype, dtype):
        return cast
    if dtype.kind == "f":
        finite = np.isfinite(cast)
        lost = np.zeros(0, bool) if finite.all() else ~finite & np.isfinite(array)
    else:
        whole = dtype.kind in "iu" and array.dtype.kind in "iu"
        lost = cast != array if whole else np.zeros(0, bool)
    if lost.any():
        raise InvalidInput(
            f"input {name!r} has {array[lost][0]!s}, which the model's {dtype} cannot hold",
            remedy="Send numbers that fit, or push a model that takes larger ones.",
        )
    return cast


def _castable(column: Column, kind: str) -> bool:
    return (column.type == "string") == (kind == "string")


def _conform(answer: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    try:
        return np.asarray(answer).astype(dtype, copy=False).reshape(shape)
    except (ValueError, TypeError) as error:
        raise InvalidModel(f"the model answers {np.shape(answer)}, not {shape}") from error
