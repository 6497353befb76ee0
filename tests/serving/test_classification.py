"""The classification extension: the best classes of an output, written as Triton writes them."""

from __future__ import annotations

import ctypes
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import service_pb2

from tidemill.foundation.errors import InvalidInput, TooLarge
from tidemill.models.signature import Array, Column, Signature
from tidemill.serving.classification import MAX_CLASSES, MAX_ELEMENTS, Classified, classified
from tidemill.serving.query import Answers, Query
from tidemill.serving.rpc import tensors as grpc_tensors
from tidemill.serving.templates import InferReader

KINDS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
MODEL = Signature(
    (Column("x", "int64"),),
    (
        Column("p", "float32", (3,)),
        Column("d", "float64"),
        Column("k", "int64", (2, 2)),
        Column("s", "string"),
        Column("b", "bool"),
        Column("h", "float16", (2,)),
    ),
)


def printed(value: float) -> str:
    """A number as C++'s std::to_string writes it: by the C library's own printf."""
    text = ctypes.create_string_buffer(400)
    ctypes.CDLL(None).snprintf(text, 400, b"%f", ctypes.c_double(value))
    return text.value.decode()


def expected(row: list[Any], count: int, labels: tuple[str, ...] = ()) -> list[str]:
    best = sorted(range(len(row)), key=lambda at: (-row[at], at))[:count]
    texts = [printed(row[at]) if isinstance(row[at], float) else str(row[at]) for at in best]
    said = [f"{text}:{at}" for text, at in zip(texts, best, strict=True)]
    return [f"{text}:{labels[at]}" if labels else text for text, at in zip(said, best, strict=True)]


@settings(deadline=None)
@given(
    st.sampled_from(["float32", "float64", *KINDS]).flatmap(
        lambda kind: hnp.arrays(
            kind,
            st.tuples(st.integers(1, 4), st.integers(1, 7)),
            elements=hnp.from_dtype(np.dtype(kind), allow_nan=False)
            if kind in KINDS
            else st.sampled_from([0.0, 1.5, -2.25, 3.3000001, 1e-9, 1e30, 0.1, 7.0])
            | st.floats(-1e6, 1e6, width=32),
        )
    ),
    st.integers(1, 9),
    st.booleans(),
)
def test_the_best_classes_in_their_order(
    array: Array,
    count: int,
    labelled: bool,  # noqa: FBT001 - drawn
) -> None:
    """Highest first, of equals the first; six digits; the index; the label where it is known."""
    width = array.shape[1]
    labels = tuple(f"c{at}" for at in range(width)) if labelled else ()
    wanted = Classified(Column("p", array.dtype.name, (width,)), count)
    texts = wanted.texts(array, labels)
    assert texts.shape == (len(array), min(count, width))
    assert texts.tolist() == [expected(row, count, labels) for row in array.tolist()]


def test_what_is_no_number_comes_last() -> None:
    """NaN is under everything, infinity above; a scalar is its own one class."""
    wanted = Classified(Column("p", "float64", (4,)), 4)
    row = np.array([[np.nan, -np.inf, np.inf, 2.0]])
    assert wanted.texts(row, ()).tolist() == [["inf:2", "2.000000:3", "nan:0", "-inf:1"]]
    scalar = Classified(Column("d", "float64"), 5)
    assert scalar.texts(np.array([0.25, 1.0]), ("only",)).tolist() == [
        ["0.250000:0:only"],
        ["1.000000:0:only"],
    ]


def request(*outputs: dict[str, Any], n: int = 1) -> bytes:
    tensor = {"name": "x", "shape": [n], "datatype": "INT64", "data": list(range(n))}
    return json.dumps({"inputs": [tensor], "outputs": list(outputs)}).encode()


def wants(name: str, count: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "parameters": {"classification": count, **more}}


@pytest.mark.parametrize(
    ("outputs", "what"),
    [
        ([wants("s", 1)], "class result not available .* unsupported type 'BYTES'"),
        ([wants("b", 1)], "unsupported type 'BOOL'"),
        ([wants("h", 1)], "unsupported type 'FP16'"),
        ([wants("p", -1)], "unable to set 'classification' to -1"),
        ([wants("p", 1.0)], "unable to set 'classification' to 1.0"),
        ([wants("p", True)], "unable to set 'classification' to True"),
        ([wants("p", "2")], "unable to set 'classification' to '2'"),
        ([wants("z", 1)], "output 'z' is not known"),
        ([wants("p", 1), wants("p", 1)], "already exists in request"),
        ([wants("p", 1, shared_memory_region="r")], "output 'p' is in shared memory"),
    ],
)
def test_classes_of_what_has_none_are_refused(outputs: list[dict[str, Any]], what: str) -> None:
    """Text, flags and half floats have no classes; a count is a whole number."""
    with pytest.raises(InvalidInput, match=what):
        InferReader(MODEL).read(request(*outputs), None)


def test_the_answer_is_bounded_before_the_model_is_asked() -> None:
    """Too many values to sort or texts to write are refused with the request, by their number."""
    wide = Signature(MODEL.inputs, (Column("p", "float32", (1000,)),))
    reader = InferReader(wide)
    assert reader.read(request(wants("p", 1), n=MAX_ELEMENTS // 1000), None)[2] == 1000
    for count, n in ((1, MAX_ELEMENTS // 1000 + 1), (1 << 40, MAX_CLASSES // 1000 + 1)):
        with pytest.raises(TooLarge, match="classification output 'p' is too large"):
            reader.read(request(wants("p", count), n=n), None)
    with pytest.raises(TooLarge, match="too large"):
        Classified(Column("p", "float32", (MAX_ELEMENTS + 1,)), 1)


def test_classes_and_outputs_as_they_are() -> None:
    """Each output in its own form and order; 0 asks for it as it is; gRPC asks alike."""
    outputs = [wants("k", 9, binary_data=True), wants("d", 0), wants("p", 2)]
    asked, _, _ = InferReader(MODEL).read(request(*outputs), None)
    assert asked.wanted == (
        (Column("k", "string", (4,)), True),
        (Column("d", "float64"), False),
        (Column("p", "string", (2,)), False),
    )
    message = service_pb2.ModelInferRequest()
    message.inputs.add(name="x", datatype="INT64", shape=[1]).contents.int64_contents.append(1)
    for name, count in (("k", 9), ("d", 0), ("p", 2)):
        output = message.outputs.add(name=name)
        output.parameters["classification"].int64_param = count
    form, _, _ = grpc_tensors.read_infer(message, MODEL)
    assert [column for column, _ in form.asked.wanted] == [column for column, _ in asked.wanted]
    message.outputs[0].parameters["classification"].string_param = "2"
    with pytest.raises(InvalidInput, match="unable to set 'classification' to '2'"):
        grpc_tensors.read_infer(message, MODEL)


def test_whoever_shares_the_answer_keeps_it_as_it_is() -> None:
    """The query that asked for classes leaves the batch's answer alone."""
    query = Query(inputs={}, n=1, arrived=0.0, deadline=1.0, done=lambda _: None)
    arrays = {"p": np.array([[0.5, 0.25, 0.25]], np.float32), "d": np.array([1.0])}
    query.answers = Answers({}, arrays)
    found = classified(query, (Classified(MODEL.outputs[0], 2),), ("a", "b", "c"))
    assert found.outputs["p"].tolist() == [["0.500000:0:a", "0.250000:1:b"]]
    assert found.outputs["d"] is query.outputs["d"]
    assert query.outputs["p"].dtype == np.float32
    assert query.answers is not None
