"""The wire formats refuse what is wrong: by name, with its place and a remedy, and soon."""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Array, Column, Signature
from tidemill.serving import tensors, wire
from tidemill.serving.templates import InferReader

Y = (Column("y", "int64"),)
TABULAR = Signature(
    (
        Column("x", "float64", (2,)),
        Column("i", "int8"),
        Column("s", "string"),
        Column("b", "bool"),
    ),
    (Column("label", "string"), Column("p", "float32", (2,))),
)


def signature(datatype: str, shape: tuple[int, ...] = ()) -> Signature:
    """A model with one input ``x``."""
    dtype = tensors.DATATYPES[datatype]
    return Signature((Column("x", "string" if dtype.kind == "O" else dtype.name, shape),), Y)


def blob_of(array: Array) -> bytes:
    """The array as a binary tensor, written by other means than the server's."""
    if array.dtype == object:
        texts = [text.encode() for text in array.ravel()]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())


def tensor(name: str, datatype: str, array: Array, **more: Any) -> dict[str, Any]:
    """An input of a request."""
    return {"name": name, "datatype": datatype, "shape": list(array.shape), **more}


def binary(name: str, datatype: str, array: Array) -> dict[str, Any]:
    """An input whose bytes follow the JSON."""
    size = len(blob_of(array))
    return tensor(name, datatype, array, parameters={"binary_data_size": size})


def body_of(*inputs: dict[str, Any], blob: bytes = b"", **more: Any) -> tuple[bytes, int]:
    """A request's body and the length of its JSON."""
    head = json.dumps({"inputs": list(inputs), **more}).encode()
    return head + blob, len(head)


def one(
    datatype: str = "INT64", shape: object = (1,), data: object = (1,), **more: Any
) -> dict[str, Any]:
    """An input ``x``, right but for what is said."""
    return {"name": "x", "datatype": datatype, "shape": shape, "data": data, **more}


def sized(
    size: object, datatype: str = "INT64", shape: object = (1,), **more: Any
) -> dict[str, Any]:
    """A binary input ``x``."""
    parameters = {"binary_data_size": size}
    return {"name": "x", "datatype": datatype, "shape": shape, "parameters": parameters, **more}


INT, FLOAT, TEXT, BOOL, PAIR = (
    signature("INT64"),
    signature("FP64"),
    signature("BYTES"),
    signature("BOOL"),
    signature("FP32", (2,)),
)

REFUSED: dict[str, tuple[Signature, dict[str, Any], str, str]] = {
    "a negative size": (INT, one(shape=[-1]), r"'x' has shape \[-1\]", "expects"),
    "two negative sizes": (PAIR, one("FP32", [-1, -2], [1, 2]), r"'x' has shape", "expects"),
    "no size at all": (INT, one(shape=[]), r"'x' has shape \[\]", "expects"),
    "one dimension too many": (INT, one(shape=[1, 1, 1]), r"'x' has shape", "rows"),
    "another width": (PAIR, one("FP32", [1, 3], [1, 2, 3]), r"\[1, 3\]", r"\[-1, 2\]"),
    "a product that overflows": (PAIR, one("FP32", [2**62, 2**62], []), "'x' has shape", "expects"),
    "too many rows": (INT, one(shape=[65_537]), "65537 rows", "at most 65536"),
    "a shape beyond 64 bits": (INT, one(shape=[10**30]), "rows", "at most 65536"),
    "more values than the shape": (INT, one(data=[1, 2]), "'x' has 2 values", "as many"),
    "fewer values than the shape": (INT, one(shape=[3]), "'x' has 1 values", "as many"),
    "the transposed shape": (PAIR, one("FP32", [3, 2], [[1] * 3] * 2), "'x' has 2 values", "shape"),
    "no rows": (INT, one(shape=[0], data=[]), "no rows", "at least one"),
    "ragged rows": (PAIR, one("FP32", [2, 2], [[1, 2], [3]]), r"\[3\] in row 1", "shape"),
    "a row that is none": (PAIR, one("FP32", [2, 2], [[1, 2], 3]), "3 in row 1", "shape"),
    "too deep a list": (PAIR, one("FP32", [1, 2], [[[1], [2]]]), r"\[1\] in row 0", "FP32"),
    "an object for data": (INT, one(data={"a": 1}), r"'x' holds \{'a': 1\}", "INT64"),
    "text for data": (INT, one(data="1"), "'x' holds '1'", "INT64"),
    "no data": (INT, one(data=None), "'x' has neither", "one of them"),
    "a float for an integer": (INT, one(shape=[2], data=[1, 1.0]), "1.0 in row 1", "INT64"),
    "true for an integer": (INT, one(shape=[2], data=[1, True]), "True in row 1", "INT64"),
    "true for a float": (FLOAT, one("FP64", [2], [0.5, True]), "True in row 1", "FP64"),
    "1 for a boolean": (BOOL, one("BOOL", [2], [True, 1]), "1 in row 1", "BOOL"),
    "null": (FLOAT, one("FP64", [2], [0.5, None]), "None in row 1", "FP64"),
    "text for a number": (FLOAT, one("FP64", [1], ["1.5"]), "'1.5' in row 0", "FP64"),
    "a number for text": (TEXT, one("BYTES", [2], ["a", 1]), "1 in row 1", "BYTES"),
    "an integer of 65 bits": (INT, one(data=[2**63]), "9223372036854775808.*row 0", "INT64"),
    "a huge integer": (INT, one(data=[10**300]), r"1000.*\.\.\..* in row 0", "INT64"),
    "a huge integer for a float": (FLOAT, one("FP64", [1], [10**400]), "row 0", "FP64"),
    "too large for its datatype": (INT, one("UINT8", [2], [1, 256]), "256, .*UINT8.*row 1", "I"),
    "negative for unsigned": (INT, one("UINT64", [2], [1, -1]), "-1, .*UINT64.*row 1", "INT64"),
    "too large for the column": (
        signature("INT8"),
        one("INT64", [2], [1, 128]),
        "128, .*INT8.*row 1",
        "INT8",
    ),
    "too large for a narrow float": (PAIR, one("FP64", [1, 2], [0, 1e39]), "1e.39.*row 0", "FP32"),
    "a float tensor for integers": (INT, one("FP64"), "datatype 'FP64'", "expects INT64"),
    "an integer tensor for text": (TEXT, one("INT64"), "datatype 'INT64'", "expects BYTES"),
    "a boolean tensor for text": (TEXT, one("BOOL", [1], [True]), "datatype 'BOOL'", "BYTES"),
    "text for integers": (INT, one("BYTES", [1], ["1"]), "datatype 'BYTES'", "expects INT64"),
    "an integer tensor for booleans": (BOOL, one("UINT8"), "datatype 'UINT8'", "expects BOOL"),
    "an unknown datatype": (INT, one("BF16"), "datatype 'BF16'", "expects INT64"),
    "FP16 in JSON": (signature("FP16"), one("FP16"), "FP16 in JSON", "binary"),
    "data and binary data": (INT, sized(8, data=[1]), "both", "one of them"),
    "a size that is no number": (INT, sized("8"), "binary_data_size '8'", "number of bytes"),
    "a size that is true": (INT, sized(True), "binary_data_size True", "number of bytes"),
    "a negative size of bytes": (INT, sized(-8), "binary_data_size -8", "number of bytes"),
    "more bytes than there are": (INT, sized(8), "claims 8 bytes, 0 are left", "as many"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_tensor_is_refused_with_its_place_and_a_remedy(case: str) -> None:
    """Each wrong tensor is refused; the message names it, shows the value and says what to do."""
    expected, tensor_, what, remedy = REFUSED[case]
    with pytest.raises(InvalidInput) as refused:
        wire.read_infer(body_of(tensor_)[0], None, expected)
    assert refused.match(f"(?s){what}.*{remedy}")
    assert refused.value.remedy
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_not_finite_is_not_json(literal: str) -> None:
    """NaN and Infinity in a body are refused by name, as is a number that no float holds."""
    tensor_ = json.dumps(one("FP64", [1], ["?"])).replace('"?"', literal)
    with pytest.raises(InvalidInput, match=r"not JSON.*NaN and Infinity|out of range"):
        wire.read_infer(f'{{"inputs":[{tensor_}]}}'.encode(), None, FLOAT)
    with pytest.raises(InvalidInput, match=r"not JSON.*NaN and Infinity|out of range"):
        wire.read_predict(f'{{"instances":[{literal}]}}'.encode(), FLOAT)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_what_is_not_finite_is_refused_in_binary(datatype: str, value: float) -> None:
    """The row of a NaN or infinity is named."""
    array = np.array([[1, 2], [3, value]], tensors.DATATYPES[datatype])
    body, header = body_of(binary("x", datatype, array), blob=blob_of(array))
    with pytest.raises(InvalidInput, match=rf"'x' holds {value} in row 1.*finite"):
        wire.read_infer(body, header, signature("FP32", (2,)))


@pytest.mark.parametrize(
    ("datatype", "shape", "blob", "what"),
    [
        ("INT64", [1], b"\0" * 7, "7 bytes, its shape .* holds 8"),
        ("INT64", [2], b"\0" * 8, "8 bytes, its shape .* holds 16"),
        ("BOOL", [2], b"\1\2", "the byte 2 in row 1"),
        ("BYTES", [1], b"\5\0\0\0abc", "BYTES element of 5 bytes, 3 are left"),
        ("BYTES", [1], b"\0\0", "BYTES element of 0 bytes, 0 are left"),
        ("BYTES", [1], b"\xff\xff\xff\xff", "BYTES element of 4294967295 bytes"),
        ("BYTES", [2], b"\1\0\0\0a", "1 BYTES elements, its shape holds 2"),
        ("BYTES", [1], b"\0\0\0\0\0\0\0\0", "more BYTES elements, its shape holds 1"),
        ("BYTES", [1], b"\1\0\0\0\xff", "not UTF-8: number 0"),
        ("BYTES", [1], b"\3\0\0\0\xed\xa0\x80", "not UTF-8: number 0"),
    ],
)
def test_wrong_bytes_are_refused(datatype: str, shape: list[int], blob: bytes, what: str) -> None:
    """Bytes that are not what the shape and datatype say are refused, with the tensor's name."""
    body, header = body_of(sized(len(blob), datatype, shape), blob=blob)
    with pytest.raises(InvalidInput, match=f"'x'.*{what}") as refused:
        wire.read_infer(body, header, signature(datatype))
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("body", "header", "what"),
    [
        (b'{"inputs":[]}', 0, "13 bytes, its shape .1. holds 8"),
        (b'{"inputs":[]}', 14, "Content-Length is 14, the body has 13"),
        (b'{"inputs":[]}', 1 << 40, "Content-Length is 1099511627776"),
        (b'{"inputs":[]}', 5, "not JSON"),
        (b"", None, "not JSON"),
        (b"\xff\xfe", None, "not JSON"),
        (b'{"inputs":[{"name":"\xff"}]}', None, "not JSON"),
        (b'{"inputs":[],"parameters":{"a":' + b"[" * 100_000, None, "nested too deeply"),
        (b'{"inputs":' + b'{"a":' * 50_000, None, "not an inference request"),
        (b"null", None, "not an inference request"),
        (b"{}", None, "missing required field `inputs`"),
        (b'{"inputs":[]}', None, "input 'x' is missing"),
        (b'{"inputs":[{"name":"x"}]}', None, r"`datatype|`shape"),
        (b'{"inputs":[],"id":7}', None, r"\$\.id"),
        (b'{"inputs":[]} {}', None, "not JSON"),
    ],
)
def test_a_body_that_is_no_request_is_refused(body: bytes, header: int | None, what: str) -> None:
    """Wrong lengths, wrong JSON and wrong fields are told apart."""
    with pytest.raises(InvalidInput, match=what) as refused:
        wire.read_infer(body, header, INT)
    assert refused.value.remedy


def test_bytes_after_the_last_tensor_are_refused() -> None:
    """Nothing that was sent is ignored: bytes that belong to no tensor are counted."""
    array = np.array([1])
    body, header = body_of(binary("x", "INT64", array), blob=blob_of(array) + b"123")
    with pytest.raises(InvalidInput, match="3 bytes follow"):
        wire.read_infer(body, header, INT)


def test_inputs_are_those_of_the_model() -> None:
    """Missing, unknown and repeated inputs are named, with what the model expects."""
    x = one()
    other = {**one(), "name": "z" * 500}
    with pytest.raises(InvalidInput, match=r"'x' already exists in request"):
        wire.read_infer(body_of(x, x)[0], None, INT)
    with pytest.raises(InvalidInput, match=r"'zzz.*zzz' is not known. .*expects: x\.") as refused:
        wire.read_infer(body_of(x, other)[0], None, INT)
    assert len(str(refused.value)) < 300
    with pytest.raises(InvalidInput, match="'x' is missing and input 'zzz"):
        wire.read_infer(body_of(other)[0], None, INT)


def test_all_inputs_have_the_same_rows() -> None:
    """The first input with another number of rows is named."""
    inputs = [
        {"name": "x", "datatype": "FP64", "shape": [2, 2], "data": [1, 2, 3, 4]},
        {"name": "i", "datatype": "INT8", "shape": [2], "data": [1, 2]},
        {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["a"]},
        {"name": "b", "datatype": "BOOL", "shape": [2], "data": [True, False]},
    ]
    with pytest.raises(InvalidInput, match="'s' has 1 rows, the ones before it 2"):
        wire.read_infer(body_of(*inputs)[0], None, TABULAR)


def test_outputs_are_checked_before_the_model_is_asked() -> None:
    """Unknown and repeated outputs, and flags that are none, are refused with the request."""
    sent_outputs: list[tuple[list[dict[str, Any]], str]] = [
        ([{"name": "z"}], r"output 'z' is not known. The model gives: y"),
        ([{"name": "y"}, {"name": "y"}], "'y' already exists in request"),
        ([{"name": "y", "parameters": {"binary_data": 1}}], "'binary_data' is 1.*true or false"),
    ]
    for outputs, what in sent_outputs:
        with pytest.raises(InvalidInput, match=what):
            InferReader(INT).read(body_of(one(), outputs=outputs)[0], None)
    body, _ = body_of(one(), parameters={"binary_data_output": "yes"})
    with pytest.raises(InvalidInput, match="'binary_data_output' is 'yes'"):
        InferReader(INT).read(body, None)


@pytest.mark.parametrize(
    "body",
    [
        lambda: body_of(*[{**one(), "name": str(n)} for n in range(50_000)])[0],
        lambda: body_of(*[{**one(), "name": str(n)} for n in range(50_000)], one(), one())[0],
        lambda: body_of(one(shape=[2**62] * 200_000))[0],
        lambda: body_of(one(shape=[10**300] * 5_000))[0],
        lambda: body_of(one(shape=[65_536], data=["a" * 1_000_000, *([1] * 65_535)]))[0],
        lambda: body_of(one(data=[[[]] * 1_000_000]))[0],
        lambda: body_of(one(data=json.loads("[" * 900 + "]" * 900)))[0],
        lambda: b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT64","data":' + b"[" * 8_000_000,
        lambda: (
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT64","data":['
            + b"9" * 8_000_000
            + b"]}]}"
        ),
        lambda: body_of(sized(4_000_000, "BYTES", [1]), blob=bytes(4_000_000))[0],
    ],
    ids=range(10),
)
def test_a_bomb_is_refused_soon(body: Callable[[], bytes]) -> None:
    """Bodies made to cost much more than their size are refused in the time that they deserve."""
    made = body()
    gc.collect()
    gc.freeze()  # as in a gateway: else the collector walks all that other tests have left
    try:
        before = time.process_time()
        with pytest.raises(InvalidInput) as refused:
            wire.read_infer(made, None, INT)
        assert time.process_time() - before < 2.0
    finally:
        gc.unfreeze()
    assert len(str(refused.value)) < 1000
