"""PyTorch models as model folders: their columns found out, compiled where that is equal."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidemill.foundation.clock import iso
from tidemill.foundation.errors import InvalidModel
from tidemill.foundation.names import check_name
from tidemill.models.format import NOT_COMPILED, ModelManifest
from tidemill.models.packaging import (
    Given,
    answering,
    blank_rows,
    made_with,
    new_folder,
    read_file,
    signature_needed,
    write_served,
)
from tidemill.models.runtimes.torch import (
    FORM,
    MAX_ROWS,
    Form,
    TorchRuntime,
    form_of,
    load_module,
    load_program,
    named,
    to_numpy,
)
from tidemill.models.signature import DTYPES, Array, Batch, Column, Signature, check_batch
from tidemill.models.torch_compilation import compile_torch

_ENTRIES: dict[Form, str] = {"script": "model.pt", "exported": "model.pt2"}
_PROBE_ROWS = 256
_PROBE_BYTES = 16 << 20
_COMPARED_ROWS = 4096
_ALIKE = 1e-3


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says of itself: its inputs, rows that it was exported with, how many it takes."""

    inputs: tuple[Column, ...]
    examples: Batch = {}
    max_rows: int | None = None


def package_torch(path: Path, name: str, folder: Path, given: Given) -> ModelManifest:
    """Makes a model folder of TorchScript or an exported program that somebody vouched for.

    Compiled, the folder's runtime is "onnx" and its trust "data", and the model is kept in
    ``original/``. Else the runtime is "torch". Either way ``compiled_from`` says how it went.

    Raises:
        InvalidModel: it is a pickle or damaged, has no open batch, does not answer, answers a row
            differently among others, or does not say its inputs and nobody else did.
        InvalidInput: the rows given do not fit the signature.
        Unavailable: PyTorch is not installed.
    """
    check_name("model", name)
    data = read_file(path)
    form = form_of(data, str(path))
    module = load_module(data, form)
    told = _told(data, form, module, given)
    with answering(path, given):
        signature = _signature(module, told, given.signature)
        rows = _rows(signature, told, given)
        runtime = TorchRuntime(module, signature, max_rows=told.max_rows)
        _check_rows_alike(runtime, rows)
    new_folder(folder)
    report = NOT_COMPILED
    if given.compiles:
        report = compile_torch(data, form, signature, runtime, rows, folder=folder)
    options = {FORM: form} if told.max_rows is None else {FORM: form, MAX_ROWS: told.max_rows}
    plain = ModelManifest(
        name=name,
        runtime="torch",
        signature=signature,
        entry=_ENTRIES[form],
        trust="code",
        runtime_options=options,
        requirements=made_with("torch", "numpy"),
        created_at=iso(given.clock.now()),
    )
    return write_served(
        folder,
        plain,
        msgspec.structs.replace(report, rows_from=given.rows_from),
        rows,
        write_original=lambda place: _write(place / plain.entry, data),
        compiled_with=("torch", "onnxscript"),
        clock=given.clock,
    )


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _told(data: bytes, form: Form, module: Any, given: Given) -> _Told:
    if form == "exported":
        with warnings.catch_warnings():
            # PyTorch warns of its own use of what its next release replaces.
            warnings.simplefilter("ignore")
            return _told_by_program(load_program(data))
    names = [each.name for each in module.forward.schema.arguments[1:]]
    if given.signature is not None:
        return _Told(inputs=given.signature.inputs)
    if given.rows is None or len(names) != 1:
        raise signature_needed(
            f"TorchScript does not say the types and shapes of its inputs ({', '.join(names)})"
        )
    return _Told(inputs=(_from_sample(names[0], module, given),))


def _from_sample(name: str, module: Any, given: Given) -> Column:
    """Returns the input as the sample has it, with real numbers as the model's weights are."""
    assert given.rows is not None
    array = given.rows(Signature((Column(name, "float32", (1,)),), (Column("value", "float32"),)))
    kind = array[name].dtype.name
    weights = next((_type_name(each.dtype) for each in module.parameters()), "float32")
    if array[name].dtype.kind == "f" and weights.startswith("float"):
        kind = weights
    return Column(name, kind, array[name].shape[1:])


def _told_by_program(program: Any) -> _Told:
    by_order, by_name = program.call_spec.in_spec.children_specs
    parts = [*by_order.children_specs, *by_name.children_specs]
    wanted = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    if any(part.num_children for part in parts) or len(parts) != len(wanted):
        raise InvalidModel(
            "the program takes lists or dictionaries of tensors",
            remedy="Export a module whose forward takes tensors only.",
        )
    values: dict[str, Any] = {}
    for each in wanted:
        value = nodes[each].meta.get("val") if each in nodes else None
        if not hasattr(value, "dtype"):
            raise InvalidModel(
                f"the program's input {each!r} is no tensor",
                remedy="Export a module whose forward takes tensors only.",
            )
        values[str(each)] = value
    inputs = tuple(_input(name, value) for name, value in values.items())
    most = [_most(program, value.shape[0]) for value in values.values()]
    return _Told(
        inputs=inputs,
        examples=_examples(program, list(values)),
        max_rows=min((rows for rows in most if rows is not None), default=None),
    )


def _input(name: str, value: Any) -> Column:
    sizes = list(value.shape)
    if not sizes or isinstance(sizes[0], int):
        raise InvalidModel(
            f"input {name!r} has the fixed shape {tuple(sizes)}",
            remedy="Export it with an open first dimension, the batch: "
            f"dynamic_shapes={{{name!r}: {{0: torch.export.Dim('batch')}}}}.",
        )
    if not all(isinstance(size, int) for size in sizes[1:]):
        raise InvalidModel(
            f"input {name!r} has the shape {tuple(map(str, sizes))}, of which only the first "
            "dimension may be open",
            remedy="Export the model with fixed sizes.",
        )
    return Column(name, _column_type(name, value.dtype), tuple(sizes[1:]))


def _most(program: Any, size: Any) -> int | None:
    """Returns the most rows that an open dimension may have; None if it has no bound."""
    bounds = program.range_constraints.get(size.node.expr)
    return int(bounds.upper) if bounds is not None and bounds.upper < 1 << 31 else None


def _examples(program: Any, names: list[str]) -> Batch:
    """Returns the inputs that the program was exported with, if they lie in the file."""
    if program.example_inputs is None:
        return {}
    by_order, by_name = program.example_inputs
    values = [*by_order, *by_name.values()]
    if len(values) != len(names):
        return {}
    return {name: to_numpy(value) for name, value in zip(names, values, strict=True)}


def _type_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _column_type(name: str, dtype: Any) -> str:
    kind = _type_name(dtype)
    if kind not in DTYPES:
        raise InvalidModel(
            f"input {name!r} is of type {kind}, which no column can be",
            remedy="Export the model with float32 inputs, and cast inside.",
        )
    return kind


def _signature(module: Any, told: _Told, given: Signature | None) -> Signature:
    """Returns the columns; outputs are what the model answers two rows with."""
    if given is not None:
        _check_given(given, told.inputs)
        return given
    unknown = Signature(told.inputs, (Column("value", "float32"),))
    asked = _example_rows(told, 2) or blank_rows(unknown, 2)
    answer = named(TorchRuntime(module, unknown).answer(asked))
    outputs = []
    for name, tensor in answer.items():
        array = to_numpy(tensor)
        if not array.shape or array.shape[0] != 2:
            raise InvalidModel(
                f"output {name!r} has the shape {array.shape} for two rows",
                remedy="Export the model so that every output has one entry per row.",
            )
        outputs.append(Column(name, array.dtype.name, array.shape[1:]))
    return Signature(told.inputs, tuple(outputs))


def _check_given(given: Signature, inputs: tuple[Column, ...]) -> None:
    """Makes sure that a signature is that of the file, which it may give other names."""
    said = [(column.type, column.shape) for column in given.inputs]
    if said != [(column.type, column.shape) for column in inputs]:
        shown = ", ".join(f"{c.name} {c.type} {list(c.shape)}" for c in inputs)
        raise InvalidModel(
            "the signature has other inputs than the program", remedy=f"It takes: {shown}."
        )
    for column in (*given.inputs, *given.outputs):
        if column.type == "string":
            raise InvalidModel(
                f"column {column.name!r} is text, which PyTorch has no tensors of",
                remedy="Encode it before the model.",
            )


def _rows(signature: Signature, told: _Told, given: Given) -> Batch:
    if given.rows is None:
        return _made_up(signature, told)
    rows = check_batch(signature, given.rows(signature))
    return {name: array[:_COMPARED_ROWS] for name, array in rows.items()}


def _example_rows(told: _Told, n: int) -> Batch:
    """Returns n rows of those that the program was exported with; none if it came without."""
    return {name: np.resize(array, (n, *array.shape[1:])) for name, array in told.examples.items()}


def _made_up(signature: Signature, told: _Told) -> Batch:
    """Returns rows as a network takes them: small numbers; whole ones as in its examples."""
    rng = np.random.default_rng(0)
    width = sum(int(np.prod(c.shape, dtype=int)) * c.dtype.itemsize for c in signature.inputs)
    n = max(2, min(_PROBE_ROWS, _PROBE_BYTES // max(1, width)))
    examples = list(told.examples.values())
    return {
        column.name: _drawn(rng, column, n, examples[at] if examples else None)
        for at, column in enumerate(signature.inputs)
    }


def _drawn(rng: np.random.Generator, column: Column, n: int, example: Array | None) -> Array:
    shape = (n, *column.shape)
    if column.dtype.kind == "f":
        drawn: Array = rng.standard_normal(shape) * rng.choice([1.0, 1.0, 10.0], shape)
        return drawn.astype(column.dtype)
    if example is not None and example.size:
        return rng.choice(example.ravel(), shape).astype(column.dtype)
    # An index of a row in some table of the model's: of the first two, which there will be.
    return rng.integers(0, 2, shape).astype(column.dtype)


def _check_rows_alike(runtime: TorchRuntime, rows: Batch) -> None:
    """Makes sure that a row's answer is its own: the same alone, among others, and once more."""
    some = {name: array[:3] for name, array in rows.items()}
    together, again = runtime.predict(some), runtime.predict(some)
    n = len(next(iter(some.values())))
    single = [
        runtime.predict({name: array[row : row + 1] for name, array in some.items()})
        for row in range(n)
    ]
    for column in runtime.signature.outputs:
        alone = np.concatenate([answer[column.name] for answer in single])
        for other in (again[column.name], alone):
            if not np.allclose(
                together[column.name].astype(np.float64),
                other.astype(np.float64),
                rtol=_ALIKE,
                atol=_ALIKE,
                equal_nan=True,
            ):
                raise InvalidModel(
                    f"the model's {column.name!r} for one row is another one each time, or "
                    "depends on the rows beside it",
                    remedy="Call model.eval() before it is exported.",
                )
