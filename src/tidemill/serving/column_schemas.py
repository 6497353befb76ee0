"""JSON schemas of one application's own requests and answers, made of its signature. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tidemill.foundation.clock import END_S, FIRST_S
from tidemill.models.signature import Column, Signature
from tidemill.serving.classification import has_classes
from tidemill.serving.tensors import (
    DATATYPES,
    MAX_ROWS,
    ONLY_BINARY,
    datatype_of,
    takes_datatype,
)

Schema = dict[str, Any]

_MAX_EXAMPLE_ELEMENTS = 64
_ROWS = {"type": "integer", "minimum": 1, "maximum": MAX_ROWS}
_NULLABLE_NUMBER = {"type": ["number", "null"]}
_MOMENT = {
    **_NULLABLE_NUMBER,
    "minimum": FIRST_S,
    "exclusiveMaximum": END_S,
    "description": "The moment it is about, in seconds since the epoch.",
}
_TIMEOUT = {**_NULLABLE_NUMBER, "exclusiveMinimum": 0}


def infer_request(signature: Signature) -> Schema:
    """Returns the schema of a v2 request whose tensors are JSON.

    The inputs are shown in order, and may come in any. No schema can say that data fills its shape.
    """
    inputs = [_input_tensor(column) for column in signature.inputs]
    matrix = _matrix(signature.inputs)
    outputs = {"enum": [column.name for column in signature.outputs]}
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": ["string", "null"]},
            "parameters": {
                "type": ["object", "null"],
                "properties": {
                    "timeout": {**_TIMEOUT, "description": "Microseconds."},
                    "priority": {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1},
                    "event_time": _MOMENT,
                    "binary_data_output": {"type": "boolean"},
                },
            },
            "inputs": _any_of([_exactly(inputs), *([_exactly([matrix])] if matrix else [])]),
            "outputs": {
                "type": ["array", "null"],
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": outputs,
                        "parameters": {
                            "type": ["object", "null"],
                            "properties": {
                                "binary_data": {"type": "boolean"},
                                "classification": {"type": "integer", "minimum": 0},
                            },
                        },
                    },
                },
            },
        },
        **_with_example(signature, lambda: {"inputs": [*map(_example_tensor, signature.inputs)]}),
    }


def infer_answer(name: str, signature: Signature, general: Schema) -> Schema:
    """Returns the schema of a v2 answer.

    Args:
        name: of the application.
        signature: what it gives.
        general: the schema of any application's answer.
    """
    outputs = [_output_tensor(column) for column in signature.outputs]
    outputs += [_classes(column) for column in signature.outputs if has_classes(column)]
    properties = {
        **general["properties"],
        "model_name": {"const": name},
        "outputs": {"type": "array", "minItems": 1, "items": _any_of(outputs)},
    }
    return {**general, "properties": properties}


def predict_request(signature: Signature) -> Schema:
    """Returns the schema of a v1 request: rows by name, in order, or as bare values."""
    values = [_cell(column) for column in signature.inputs]
    names = [column.name for column in signature.inputs]
    by_name = {
        "type": "object",
        "required": names,
        "properties": dict(zip(names, values, strict=True)),
        "additionalProperties": False,
    }
    in_order = values[0] if len(values) == 1 else _exactly(values)
    return {
        "type": "object",
        "required": ["instances"],
        "properties": {
            "instances": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_ROWS,
                "items": {"anyOf": [by_name, in_order]},
            },
            "event_time": _MOMENT,
            "timeout_ms": _TIMEOUT,
        },
        **_with_example(
            signature,
            lambda: {"instances": [{each.name: _example(each) for each in signature.inputs}]},
        ),
    }


def predict_answer(signature: Signature, general: Schema) -> Schema:
    """Returns the schema of a v1 answer.

    Args:
        signature: what the application gives.
        general: the schema of any application's answer.
    """
    values = {column.name: _cell(column, given=True) for column in signature.outputs}
    row = {
        "type": "object",
        "required": list(values),
        "properties": values,
        "additionalProperties": False,
    }
    properties = dict(general["properties"])
    properties["predictions"] = {
        **properties["predictions"],
        "items": row if len(values) > 1 else next(iter(values.values())),
    }
    return {**general, "properties": properties}


def _input_tensor(column: Column) -> Schema:
    fixed: list[Schema] = [_ROWS, *({"const": size} for size in column.shape)]
    shape = _exactly(fixed)
    if not column.shape:
        shape = {"anyOf": [shape, _exactly([_ROWS, {"const": 1}])]}
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": column.name},
            "shape": shape,
            "datatype": {"enum": _datatypes_for([column])},
            "data": {
                "description": "Row by row, in one list or nested as the shape is.",
                "anyOf": [{"type": "array", "items": _scalar(column)}, _nested(column)],
            },
        },
    }


def _matrix(columns: tuple[Column, ...]) -> Schema | None:
    """All columns side by side, if they are scalars of kinds that go together."""
    datatypes = _datatypes_for(list(columns), whole=True)
    if len(columns) == 1 or not datatypes or any(column.shape for column in columns):
        return None
    row = _exactly([_scalar(column) for column in columns])
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"type": "string", "not": {"enum": [column.name for column in columns]}},
            "shape": _exactly([_ROWS, {"const": len(columns)}]),
            "datatype": {"enum": datatypes},
            "data": {
                "description": "Row by row, in one list or nested as the shape is.",
                "anyOf": [
                    {"type": "array", "items": {"type": ["number", "string", "boolean"]}},
                    {"type": "array", "items": row},
                ],
            },
        },
    }


def _datatypes_for(columns: list[Column], *, whole: bool = False) -> list[str]:
    """Returns the datatypes of the tensors in JSON that each of the columns takes."""
    return [
        name
        for name, dtype in DATATYPES.items()
        if name not in ONLY_BINARY
        and all(takes_datatype(dtype, column, whole=whole) for column in columns)
    ]


def _classes(column: Column) -> Schema:
    """An output of which the best classes were asked for."""
    most = math.prod(column.shape)
    fixed: list[Schema] = [_ROWS, {"type": "integer", "minimum": 1, "maximum": most}]
    schema = _output_tensor(Column(column.name, "string"))
    schema["properties"]["shape"] = _exactly(fixed)
    return schema


def _output_tensor(column: Column) -> Schema:
    fixed: list[Schema] = [_ROWS, *({"const": size} for size in column.shape)]
    return {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"const": column.name},
            "datatype": {"const": datatype_of(column)},
            "shape": _exactly(fixed),
            "data": {"type": "array", "items": _scalar(column, given=True)},
            "parameters": {
                "type": "object",
                "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
            },
        },
    }


def _cell(column: Column, *, given: bool = False) -> Schema:
    """One row's value of a column: a scalar, or lists as its shape is."""
    schema = _scalar(column, given=given)
    for size in reversed(column.shape):
        schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
    return schema


def _nested(column: Column) -> Schema:
    row = _cell(column) if column.shape else _exactly([_scalar(column)])
    return {"type": "array", "items": row}


def _scalar(column: Column, *, given: bool = False) -> Schema:
    """One element; a model may give what JSON has no number for, and null stands for that."""
    kind = column.dtype.kind
    if kind == "f":
        return {"type": ["number", "null"]} if given else {"type": "number"}
    if kind == "b":
        return {"type": "boolean"}
    if kind == "O":
        return {"type": "string"}
    bounds = np.iinfo(column.dtype)
    return {"type": "integer", "minimum": int(bounds.min), "maximum": int(bounds.max)}


def _exactly(schemas: list[Schema]) -> Schema:
    size = len(schemas)
    return {"type": "array", "prefixItems": schemas, "minItems": size, "maxItems": size}


def _any_of(schemas: list[Schema]) -> Schema:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _with_example(signature: Signature, make: Callable[[], Any]) -> Schema:
    """An example, if one row is short enough to be read."""
    elements = sum(math.prod(column.shape) for column in signature.inputs)
    return {"examples": [make()]} if elements <= _MAX_EXAMPLE_ELEMENTS else {}


def _example(column: Column) -> Any:
    value: Any = {"f": 0.5, "b": True, "O": "text"}.get(column.dtype.kind, 1)
    for size in reversed(column.shape):
        value = [value] * size
    return value


def _example_tensor(column: Column) -> Schema:
    datatype = datatype_of(column)
    return {
        "name": column.name,
        "shape": [1, *column.shape],
        "datatype": "FP32" if datatype == "FP16" else datatype,
        "data": [_example(column)],
    }
