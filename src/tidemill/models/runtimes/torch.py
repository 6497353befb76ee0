"""PyTorch models: TorchScript and exported programs, as they are, on the CPU or a GPU.

Neither is ever unpickled to find out what it is: the names in the archive tell. A pickled module
or a state dictionary is no model, since both need code that is not in the file.
"""

from __future__ import annotations

import io
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tidemill.foundation.errors import (
    InvalidInput,
    InvalidModel,
    ModelFailed,
    NotReady,
    Unavailable,
)
from tidemill.models.format import ModelManifest, read_verified
from tidemill.models.signature import Array, Batch, Column, Signature

Form = Literal["script", "exported"]
"""How PyTorch saved a model."""

FORM = "form"
"""The runtime option that says which it is."""

MAX_ROWS = "max_rows"
"""The runtime option that says how many rows a program takes at once, if it has such a bound."""

_EXPORT = (
    "Save it as an exported program: torch.export.save(torch.export.export(model.eval(), (x,), "
    'dynamic_shapes=({0: torch.export.Dim("batch")},)), "model.pt2"); '
    "or as TorchScript: torch.jit.script(model.eval()).save('model.pt')."
)
_MAX_ENTRIES = 100_000


def form_of(data: bytes, where: str) -> Form:
    """Says how a model was saved, by the names in its archive; nothing in it is loaded.

    Raises:
        InvalidModel: it is a pickle, damaged, or of some other kind; how to export one is said.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        if data.startswith(b"PK"):
            raise InvalidModel(
                f"{where} is a damaged archive: {error}", remedy="Copy or save it again, whole."
            ) from error
        what = "a pickle" if data[:1] == b"\x80" else "no archive of PyTorch's"
        raise InvalidModel(f"{where} is {what}, and is not loaded", remedy=_EXPORT) from error
    if len(names) > _MAX_ENTRIES:
        raise InvalidModel(f"{where} has {len(names)} entries, over {_MAX_ENTRIES}")
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside and any(name.startswith("code/") for name in inside):
        return "script"
    if "archive_format" in inside or "serialized_exported_program.json" in {*names, *inside}:
        return "exported"
    if "data.pkl" in inside:
        raise InvalidModel(
            f"{where} is a pickled module or its weights (torch.save): "
            "the code that makes a model of them is not in it, and it is not loaded",
            remedy=_EXPORT,
        )
    raise InvalidModel(f"{where} is no model that PyTorch saved", remedy=_EXPORT)


def open_torch(
    folder: Path, manifest: ModelManifest, threads: int, device: str = "cpu"
) -> TorchRuntime:
    """Loads the entry of a verified and trusted model folder; sets the threads of this process.

    Raises:
        InvalidModel: it is none that PyTorch can load.
        Corrupted: the entry is not what was written.
        Unavailable: PyTorch is not installed, or cannot use the device.
    """
    data = read_verified(folder, manifest, manifest.entry)
    torch = import_torch()
    torch.set_num_threads(threads if threads > 0 else torch.get_num_threads())
    module = load_module(data, form_of(data, repr(manifest.entry)), device=device)
    most = manifest.runtime_options.get(MAX_ROWS)
    if most is not None and (type(most) is not int or most < 1):
        raise InvalidModel(f"model {manifest.name!r} says that it takes {most!r} rows at most")
    return TorchRuntime(module, manifest.signature, device=device, max_rows=most)


def check_torch(folder: Path, manifest: ModelManifest) -> None:
    """Does nothing for a verified model folder whose entry may be loaded, were its code trusted.

    Raises:
        InvalidModel: it is a pickle, damaged, or of some other kind.
        Corrupted: the entry is not what was written.
    """
    form_of(read_verified(folder, manifest, manifest.entry), repr(manifest.entry))


def import_torch() -> Any:
    """Returns PyTorch.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        import torch  # noqa: PLC0415
        import torch.export  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise Unavailable(
            "PyTorch models need PyTorch", remedy="pip install 'tidemill[torch]'."
        ) from error
    return torch


def load_program(data: bytes) -> Any:
    """Returns a ``torch.export.ExportedProgram``.

    Raises:
        InvalidModel: PyTorch cannot load it.
    """
    torch = import_torch()
    with _loading("an exported program"):
        return torch.export.load(io.BytesIO(data))


def load_module(data: bytes, form: Form, *, device: str = "cpu") -> Callable[..., Any]:
    """Returns the model as a module on a device, which is called with its inputs in order.

    Args:
        data: what PyTorch saved; somebody vouched for it.
        form: how.
        device: "cpu", or the GPU that is the only one this process sees.

    Raises:
        InvalidModel: PyTorch cannot load it.
        Unavailable: PyTorch cannot use the device.
    """
    torch = import_torch()
    place = _place(torch, device)
    if form == "exported":
        program = load_program(data)
        with _loading("an exported program"):
            return _exported_module(program, place)
    with _loading("TorchScript"):
        module: Callable[..., Any] = torch.jit.load(io.BytesIO(data), map_location=place).eval()
        return module


class TorchRuntime:
    """A PyTorch module; safe to share between threads.

    A module may give one tensor, several, or a dictionary of them; those are matched with the
    signature's outputs by name, the others by their order.

    Args:
        module: takes one tensor (n, *shape) per input of the signature, in order.
        signature: what it takes and gives.
        device: where the module is; the only GPU that this process sees, if it is one.
        max_rows: how many rows the module takes at once, if it has such a bound.
    """

    def __init__(
        self,
        module: Callable[..., Any],
        signature: Signature,
        *,
        device: str = "cpu",
        max_rows: int | None = None,
    ) -> None:
        self._torch = import_torch()
        self._module: Callable[..., Any] | None = module
        self._max_rows = max_rows
        self._signature = signature
        self._place = _place(self._torch, device)

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        return self._signature

    def predict(self, batch: Batch) -> Batch:
        """Returns the outputs, (n, *shape) each."""
        n = batch[self._signature.inputs[0].name].shape[0]
        if self._module is None:
            raise NotReady("the model is closed", remedy="Open it again.")
        if n == 0:
            return self._signature.empty_outputs()
        most = self._max_rows
        if most is None or n <= most:
            return self._predict(batch)
        parts = [
            self._predict({name: array[at : at + most] for name, array in batch.items()})
            for at in range(0, n, most)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def answer(self, batch: Batch) -> Any:
        """Returns what the module gives, as it gives it.

        Raises:
            InvalidInput: the module refuses the batch.
            ModelFailed: there is not enough memory for it.
            SystemExit: the GPU failed, and answers nothing in this process any more.
        """
        torch, module = self._torch, self.module
        try:
            # What is received may not be written to, and PyTorch would warn of that.
            tensors = [
                torch.tensor(
                    np.ascontiguousarray(batch[column.name], column.dtype), device=self._place
                )
                for column in self._signature.inputs
            ]
            with torch.inference_mode():
                return module(*tensors)
        except torch.OutOfMemoryError as error:
            raise ModelFailed(
                f"the device has not enough memory for the batch: {_one_line(error)}",
                remedy="Lower max_batch in the plan, or use fewer replicas on one device.",
            ) from error
        except torch.AcceleratorError as error:
            sys.exit(f"the device failed, and this process can use it no more: {_one_line(error)}")
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            raise InvalidInput(f"the model refuses the batch: {_one_line(error)}") from error

    @property
    def module(self) -> Callable[..., Any]:
        """The module.

        Raises:
            NotReady: it was closed.
        """
        if self._module is None:
            raise NotReady("the model is closed", remedy="Open it again.")
        return self._module

    def close(self) -> None:
        """Gives the module back once no call uses it."""
        self._module = None

    def _predict(self, batch: Batch) -> Batch:
        n = batch[self._signature.inputs[0].name].shape[0]
        outputs = self._signature.outputs
        found = named(self.answer(batch), [column.name for column in outputs])
        return {column.name: _conform(found, column, n) for column in outputs}


def named(answer: Any, names: list[str] | None = None) -> dict[str, Any]:
    """Returns what a module gives by name: its own names in a dictionary or a named tuple.

    Args:
        answer: a tensor, several, or a dictionary of them.
        names: of what has none; "value", or "value_0" and so on, if left out.

    Raises:
        InvalidModel: it is none of these, or there are not as many as names.
    """
    if isinstance(answer, Mapping):
        found = {str(name): tensor for name, tensor in answer.items()}
    elif isinstance(answer, tuple | list):
        own = getattr(answer, "_fields", None) or [f"value_{at}" for at in range(len(answer))]
        wanted = names if names is not None and not set(names) <= set(own) else own
        if len(wanted) != len(answer):
            raise InvalidModel(f"the model gives {len(answer)} outputs, not {len(wanted)}")
        found = dict(zip(wanted, answer, strict=True))
    else:
        found = {names[0] if names else "value": answer}
    for name, tensor in found.items():
        if not hasattr(tensor, "detach"):
            raise InvalidModel(f"the model's output {name!r} is a {type(tensor).__name__}")
    return found


def to_numpy(tensor: Any) -> Array:
    """Returns a tensor's numbers as a contiguous array; what NumPy has no type for, as float32."""
    torch = import_torch()
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array: Array = tensor.cpu().contiguous().numpy()
    return array


def _conform(found: Mapping[str, Any], column: Column, n: int) -> Array:
    if column.name not in found:
        raise InvalidModel(f"the model gives {', '.join(found)[:300]}, and no {column.name!r}")
    array = to_numpy(found[column.name])
    wanted = (n, *column.shape)
    if array.shape != wanted and not (column.shape == () and array.shape == (n, 1)):
        raise InvalidModel(f"the model answers {column.name!r} as {array.shape}, not {wanted}")
    return array.astype(column.dtype, copy=False).reshape(wanted)


def _exported_module(program: Any, place: Any) -> Callable[..., Any]:
    if place.type != "cpu":
        from torch.export.passes import move_to_device_pass  # noqa: PLC0415

        program = move_to_device_pass(program, place)
    module = program.module()
    names = keyword_inputs(program)
    if not names:
        return module  # type: ignore[no-any-return]
    first = len(program.graph_signature.user_inputs) - len(names)
    return lambda *tensors: module(
        *tensors[:first], **dict(zip(names, tensors[first:], strict=True))
    )


def keyword_inputs(program: Any) -> list[str]:
    """Returns the names of the inputs that an exported program takes by name, its last ones."""
    _, by_name = program.call_spec.in_spec.children_specs
    return [str(name) for name in by_name.context or ()]


@contextmanager
def _loading(what: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # PyTorch warns of what its own next release will do.
            warnings.simplefilter("ignore")
            yield
    except Unavailable:
        raise
    except Exception as error:
        raise InvalidModel(
            f"PyTorch {import_torch().__version__} cannot load the file as {what}: "
            f"{type(error).__name__}: {_one_line(error)}",
            remedy="Save it again with a version of PyTorch that is no newer than this one.",
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _place(torch: Any, device: str) -> Any:
    """Returns the device as PyTorch names it: a GPU is the only one that is seen here.

    Raises:
        Unavailable: PyTorch cannot use it.
    """
    if device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    built = torch.version.cuda
    why = f"it was built for CUDA {built}, and finds no GPU" if built else "it has no CUDA in it"
    raise Unavailable(
        f"PyTorch {torch.__version__} cannot use {device!r} here: {why}",
        remedy="Install a build of PyTorch with CUDA that this machine's driver supports.",
    )
