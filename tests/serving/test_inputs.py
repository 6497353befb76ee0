"""The ways in which a v2 request brings its inputs: every datatype, a matrix, bare bytes."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor  # type: ignore[import-untyped]

from tidemill.foundation.errors import InvalidInput, TidemillError
from tidemill.models.signature import DTYPES, Array, Batch, Column, Signature
from tidemill.serving import tensors, wire
from tidemill.serving.query import Packed
from tidemill.serving.rpc import tensors as grpc_tensors
from tidemill.serving.templates import InferReader

Y = (Column("y", "int64"),)
FLOATS, INTEGERS = (
    {"float16", "float32", "float64"},
    {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
)

TAKEN: dict[str, set[str]] = {
    "BOOL": {"bool"},
    **{name.upper(): INTEGERS | FLOATS for name in INTEGERS},
    "FP16": FLOATS,
    "BF16": FLOATS,
    "FP32": FLOATS,
    "FP64": FLOATS,
    "BYTES": {"string"},
}
"""By datatype: the columns that take it, as the guide's table says."""

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "BYTES": ["a", "", "ü\0"],
    "BF16": [1.5, -2.0, 96.0],
    **{name: [1.5, -2.0, 96.0] for name in ("FP16", "FP32", "FP64")},
    **{name.upper(): [1, 0, 96] for name in INTEGERS},
}


def packed(datatype: str, values: list[Any]) -> bytes:
    """A binary tensor, as the official client makes it."""
    if datatype == "BF16":
        made: bytes = np.array(values, ml_dtypes.bfloat16).tobytes()
    elif datatype == "BYTES":
        made = serialize_byte_tensor(np.array(values, object)).item()
    else:
        made = np.array(values, tensors.DATATYPES[datatype]).tobytes()
    return made


def by_json(datatype: str, values: list[Any], signature: Signature) -> Batch:
    tensor = {"name": "x", "shape": [len(values)], "datatype": datatype, "data": values}
    return wire.read_infer(json.dumps({"inputs": [tensor]}).encode(), None, signature)[1]


def by_binary(datatype: str, values: list[Any], signature: Signature) -> Batch:
    blob = packed(datatype, values)
    tensor = {"name": "x", "shape": [len(values)], "datatype": datatype}
    tensor["parameters"] = {"binary_data_size": len(blob)}
    head = json.dumps({"inputs": [tensor]}).encode()
    return wire.read_infer(head + blob, len(head), signature)[1]


def by_raw_contents(datatype: str, values: list[Any], signature: Signature) -> Batch:
    message = service_pb2.ModelInferRequest(raw_input_contents=[packed(datatype, values)])
    message.inputs.add(name="x", datatype=datatype, shape=[len(values)])
    return grpc_tensors.read_infer(message, signature)[1]


def by_contents(datatype: str, values: list[Any], signature: Signature) -> Batch:
    message = service_pb2.ModelInferRequest()
    sent = message.inputs.add(name="x", datatype=datatype, shape=[len(values)])
    field = grpc_tensors.CONTENTS.get(datatype, "fp32_contents")
    told = [each.encode() if isinstance(each, str) else each for each in values]
    getattr(sent.contents, field).extend(told)
    return grpc_tensors.read_infer(message, signature)[1]


def test_every_datatype_of_the_protocol_is_known() -> None:
    """Those of the protocol, and Triton's BF16; each holds values of the test."""
    assert {*tensors.DATATYPES, tensors.BF16} == set(TAKEN) == set(VALUES)


@pytest.mark.parametrize("read", [by_json, by_binary, by_raw_contents, by_contents])
@pytest.mark.parametrize("datatype", TAKEN)
def test_what_takes_which_datatype(read: Any, datatype: str) -> None:
    """Each column takes the datatypes of the guide's table with their values, and no other."""
    for kind in DTYPES:
        signature = Signature((Column("x", kind),), Y)
        values = VALUES[datatype]
        if datatype in tensors.ONLY_BINARY and read in {by_json, by_contents}:
            with pytest.raises(InvalidInput, match=f"{datatype}|expects"):
                read(datatype, values, signature)
        elif kind in TAKEN[datatype]:
            array = read(datatype, values, signature)["x"]
            assert array.dtype == DTYPES[kind]
            assert array.tolist() == values
        else:
            with pytest.raises(InvalidInput, match=f"'x' has datatype '{datatype}'"):
                read(datatype, values, signature)


@settings(deadline=None)
@given(hnp.arrays(np.uint16, st.integers(1, 5)))
def test_bf16_is_the_upper_half_of_a_float(halves: Array) -> None:
    """Every BF16 is the FP32 whose upper bytes it is; what is not finite is refused."""
    blob = halves.astype("<u2").tobytes()
    floats = (halves.astype(np.uint32) << 16).view(np.float32)
    tensor = {"name": "x", "shape": [len(halves)], "datatype": "BF16"}
    tensor["parameters"] = {"binary_data_size": len(blob)}
    head = json.dumps({"inputs": [tensor]}).encode()
    signature = Signature((Column("x", "float32"),), Y)
    if np.isfinite(floats).all():
        read = wire.read_infer(head + blob, len(head), signature)[1]["x"]
        assert read.tobytes() == floats.tobytes()
    else:
        with pytest.raises(InvalidInput, match=r"'x' holds (nan|-?inf)"):
            wire.read_infer(head + blob, len(head), signature)


def test_bf16_of_another_size_is_refused() -> None:
    """Two bytes for each value, and what does not fit a narrow column is named."""
    blob = packed("BF16", [1e30])
    tensor = {"name": "x", "shape": [1], "datatype": "BF16"}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 2}}]}).encode()
    with pytest.raises(InvalidInput, match=r"1\.0.*e\+30, too large for FP16"):
        wire.read_infer(head + blob, len(head), Signature((Column("x", "float16"),), Y))
    head = head.replace(b'size": 2', b'size": 3')
    with pytest.raises(InvalidInput, match=r"has 3 bytes, its shape .1. holds 2\. Send BF16"):
        wire.read_infer(head + blob + b"a", len(head), Signature((Column("x", "float32"),), Y))


# A table as one matrix

TABLE = Signature((Column("age", "int64"), Column("fare", "float64"), Column("size", "uint8")), Y)


def matrix(data: Any, datatype: str = "FP64", *, name: str = "rows", shape: Any = None) -> bytes:
    """A request of one tensor."""
    shape = shape if shape is not None else list(np.shape(data))
    tensor = {"name": name, "shape": shape, "datatype": datatype, "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


@settings(deadline=None)
@given(
    st.sampled_from(["INT8", "UINT8", "INT64", "FP32", "FP64"]),
    st.data(),
    st.sampled_from(["json", "nested", "binary", "grpc"]),
)
def test_a_matrix_is_its_columns(datatype: str, data: st.DataObject, how: str) -> None:
    """A matrix gives, or is refused for, just what one tensor for each of its columns would."""
    whole = st.integers(-3, 260).map(float)
    element = whole | st.sampled_from([0.5, -1e300, 2.0**63]) if datatype == "FP64" else whole
    bounds = None if datatype.startswith("FP") else np.iinfo(datatype.lower())
    fits = st.integers(int(bounds.min), min(int(bounds.max), 300)) if bounds else element
    rows = data.draw(st.lists(st.tuples(fits, fits, fits), min_size=1, max_size=4))
    array = np.array(rows, tensors.DATATYPES[datatype])
    expected = _one_by_one(array)
    if expected is None:
        with pytest.raises(InvalidInput, match="holds"):
            _as_matrix(array, datatype, how)
        return
    read = _as_matrix(array, datatype, how)
    assert [(read[name].dtype, read[name].tolist()) for name in read] == [
        (expected[name].dtype, expected[name].tolist()) for name in expected
    ]
    assert all(each.flags.c_contiguous for each in read.values())


def _one_by_one(array: Array) -> Batch | None:
    """Each column on its own, where whole numbers go to integers as integers."""
    found: Batch = {}
    for column, values in zip(TABLE.inputs, array.T, strict=True):
        numbers: list[Any] = values.tolist()
        if column.dtype.kind in "iu":
            if any(float(number) != int(number) for number in numbers):
                return None
            numbers = [int(number) for number in numbers]
        datatype = "INT64" if all(isinstance(each, int) for each in numbers) else "FP64"
        if any(abs(each) >= 2**63 for each in numbers) and datatype == "INT64":
            return None
        signature = Signature((Column("x", column.type),), Y)
        try:
            found[column.name] = by_json(datatype, numbers, signature)["x"]
        except TidemillError:
            return None
    return found


def _as_matrix(array: Array, datatype: str, how: str) -> Batch:
    if how in {"json", "nested"}:
        data = array.tolist() if how == "nested" else array.ravel().tolist()
        body = matrix(data, datatype, shape=list(array.shape))
        return wire.read_infer(body, None, TABLE)[1]
    if how == "grpc":
        message = service_pb2.ModelInferRequest(raw_input_contents=[array.tobytes()])
        message.inputs.add(name="rows", datatype=datatype, shape=array.shape)
        return grpc_tensors.read_infer(message, TABLE)[1]
    tensor = {"name": "rows", "shape": list(array.shape), "datatype": datatype}
    tensor["parameters"] = {"binary_data_size": array.nbytes}
    head = json.dumps({"inputs": [tensor]}).encode()
    return wire.read_infer(head + array.tobytes(), len(head), TABLE)[1]


@pytest.mark.parametrize("name", ["x", "", "ages", "z" * 2000])
def test_a_matrix_may_have_any_name_that_no_column_has(name: str) -> None:
    """There is one, so there is nothing to mistake it for."""
    _, inputs, n = wire.read_infer(matrix([[1, 2, 3], [4, 5.5, 6]], name=name), None, TABLE)
    assert n == 2
    assert {name: each.tolist() for name, each in inputs.items()} == {
        "age": [1, 4],
        "fare": [2.0, 5.5],
        "size": [3, 6],
    }


def test_a_matrix_of_text_and_of_booleans() -> None:
    """Where all columns are of one kind, so may the matrix be."""
    texts = Signature((Column("a", "string"), Column("b", "string")), Y)
    read = wire.read_infer(matrix([["p", "q"], ["r", "s"]], "BYTES"), None, texts)[1]
    assert {name: each.tolist() for name, each in read.items()} == {
        "a": ["p", "r"],
        "b": ["q", "s"],
    }
    flags = Signature((Column("a", "bool"), Column("b", "bool")), Y)
    read = wire.read_infer(matrix([[True, False]], "BOOL"), None, flags)[1]
    assert {name: each.tolist() for name, each in read.items()} == {"a": [True], "b": [False]}


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (matrix([[1, 2, 3]], name="age"), "'fare', 'size' is missing"),
        (matrix([[1, 2]]), r"'rows' has shape \[1, 2\].*matrix \[-1, 3\].*age, fare, size"),
        (matrix([1, 2, 3]), "'age', 'fare', 'size' is missing and input 'rows' is not known"),
        (matrix([[1, 2, 3]], "BYTES"), "datatype 'BYTES', and column 'age' is INT64"),
        (matrix([[True, True, True]], "BOOL"), "datatype 'BOOL', and column 'age' is INT64"),
        (matrix([[1, 2, 3]], "FP99"), "datatype 'FP99'"),
        (matrix([[1, 2, 3]], "FP16"), "'rows' is FP16 in JSON"),
        (matrix([[1, 2, 3], [4, 5.5, 6.5]]), "'size' holds 6.5 in row 1.*UINT8"),
        (matrix([[1, 2, 256]]), "'size' holds 256.0 in row 0"),
        (matrix([[2.0**63, 2, 3]]), "'age' holds 9.2.* in row 0"),
        (matrix([[-1, 2, -1]], "INT8"), "'size' holds -1, which UINT8 cannot hold, in row 0"),
        (matrix([[1, 2, "3"]]), "'rows' holds '3' in row 0"),
        (matrix([], shape=[0, 3]), "no rows"),
        (matrix([], shape=[-1, 3]), r"'rows' has shape \[-1, 3\]"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(body: bytes, what: str) -> None:
    """A column's name is that column's; the width, the datatype and each value must fit."""
    with pytest.raises(InvalidInput, match=what):
        wire.read_infer(body, None, TABLE)


def test_a_model_of_vectors_takes_no_matrix_for_its_columns() -> None:
    """Only scalar columns stand side by side."""
    signature = Signature((Column("v", "float64", (2,)), Column("w", "float64")), Y)
    with pytest.raises(InvalidInput, match="'v', 'w' is missing"):
        wire.read_infer(matrix([[1.0, 2.0]]), None, signature)
    single = Signature((Column("w", "float64"),), Y)
    with pytest.raises(InvalidInput, match="'w' is missing and input 'rows' is not known"):
        wire.read_infer(matrix([[1.0]]), None, single)


# Bare bytes


@settings(deadline=None)
@given(
    st.sampled_from([*tensors.DATATYPES]),
    st.sampled_from([(), (1,), (3,), (2, 2)]),
    st.lists(st.binary(max_size=40), min_size=1, max_size=4),
)
def test_a_bare_row_is_the_row_with_its_json(
    datatype: str, shape: tuple[int, ...], bodies: list[bytes]
) -> None:
    """Known or not, bytes without JSON are read, or refused, as the one tensor of one row."""
    dtype = tensors.DATATYPES[datatype]
    kind = "string" if datatype == "BYTES" else dtype.name
    signature = Signature((Column("x", kind, shape),), Y)
    reader = InferReader(signature)
    size = int(np.prod((1, *shape))) * (dtype.itemsize if datatype != "BYTES" else 1)
    for body in (*bodies, bodies[0].ljust(size, b"\0")[:size]):
        blob = len(body).to_bytes(4, "little") + body if datatype == "BYTES" else body
        tensor = {"name": "x", "shape": [1, *shape], "datatype": datatype}
        tensor["parameters"] = {"binary_data_size": len(blob)}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        for _ in range(2):
            reader._unknown = 0
            assert _outcome(reader, body, 0) == _outcome(
                InferReader(signature), head + blob, len(head)
            )


def _outcome(reader: InferReader, body: bytes, header: int) -> Any:
    try:
        asked, inputs, n = reader.read(body, header)
    except InvalidInput as error:
        return "refused" if "BYTES" in str(error) else str(error)
    if isinstance(inputs, Packed):
        inputs = inputs.arrays()
    return [(each.dtype, each.tolist()) for each in inputs.values()], n, asked.wanted


def test_bare_bytes_need_one_input_and_one_text() -> None:
    """Several inputs, several texts in a row and a wrong size are refused; JSON stays JSON."""
    with pytest.raises(InvalidInput, match="must only have 1 input to be deduced but got 3"):
        wire.read_infer(b"\0" * 24, 0, TABLE)
    texts = Signature((Column("t", "string", (2,)),), Y)
    with pytest.raises(InvalidInput, match=r"'t', the model must have input shape \[1\], .*\[2\]"):
        wire.read_infer(b"ab", 0, texts)
    pair = Signature((Column("x", "float32", (2,)),), Y)
    with pytest.raises(InvalidInput, match=r"'x' has 12 bytes, its shape \[1, 2\] holds 8"):
        wire.read_infer(bytes(12), 0, pair)
    reader = InferReader(pair)
    assert reader.read(bytes(8), 0)[2] == 1
    with pytest.raises(InvalidInput, match="not JSON"):
        reader.read(b"", None)
