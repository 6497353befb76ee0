"""The usual request and the usual answer: made from known pieces, and the same to the last bit."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.foundation.errors import InvalidInput, TidemillError
from tidemill.models.signature import Batch, Column, Signature
from tidemill.serving import templates, tensors, wire
from tidemill.serving.answer_writer import AnswerWriter
from tidemill.serving.query import Answers, Packed, Query
from tidemill.serving.templates import LEARN_EVERY, InferReader

Y = (Column("y", "int64"),)
TYPES = {"FP32": "float32", "FP64": "float64", "INT8": "int8", "INT64": "int64", "UINT64": "uint64"}


def body_of(data: str, *, shape: str = "[1,3]", datatype: str = "FP64", more: str = "") -> bytes:
    tensor = f'{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}'
    return f'{{{more}"inputs":[{tensor}]}}'.encode()


def outcome(read: Any) -> Any:
    """What a reader made of a body, or what it said of it."""
    try:
        asked, inputs, n = read()
    except TidemillError as error:
        return type(error).__name__, str(error)
    if isinstance(inputs, Packed):
        inputs = inputs.arrays()
    described = {name: (a.dtype, a.shape, a.tobytes()) for name, a in inputs.items()}
    said = asked.request.id, asked.timeout_s, asked.event_time, asked.priority, asked.wanted
    return said, described, n


def in_full(signature: Signature, body: bytes, header: int | None) -> Any:
    request, inputs, n = wire.read_infer(body, header, signature)
    return wire.Asked(request, signature.outputs), inputs, n


def both(
    reader: InferReader, signature: Signature, body: bytes, header: int | None = None
) -> tuple[Any, Any]:
    return outcome(lambda: reader.read(body, header)), outcome(
        lambda: in_full(signature, body, header)
    )


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(1 << 70), 1 << 70).map(str),
    st.sampled_from(
        ["true", "false", "null", '"1"', "[1]", "{}", "1e400", "3.5e38", "01", "", " 7"]
    ),
)
TEXTS = ("[%s]", "[[%s]]", "[ %s ]", '[%s],"data":[1,2,3]', '["]",%s]', "[%s", "%s]")
AROUND = (
    "",
    '"id":"a",',
    '"parameters":{"timeout":7,"data":[1,2]},',
    '"id":"\\"data\\":[",',
    '"a\\"data":[9],',
)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(sorted(TYPES)),
    st.sampled_from(sorted(set(TYPES.values()))),
    st.lists(
        st.tuples(st.lists(NUMBERS, max_size=4), st.sampled_from(TEXTS), st.sampled_from(AROUND)),
        min_size=1,
        max_size=6,
    ),
)
def test_a_known_request_is_read_as_an_unknown_one(
    datatype: str, column: str, asked: list[tuple[list[str], str, str]]
) -> None:
    """Whatever was learned before, each body is read, or refused, as it is in full."""
    signature = Signature((Column("x", column, (3,)),), Y)
    reader = InferReader(signature)
    for numbers, text, more in asked:
        for plain in ("1,2,3", ",".join(numbers)):
            reader._unknown = 0  # it learns from every one
            body = body_of(text % plain, datatype=datatype, more=more)
            ours, full = both(reader, signature, body)
            assert ours == full


def test_numbers_are_parsed_alone_once_the_text_around_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second request of a kind is read without the decoder; of another kind, with it."""
    signature = Signature((Column("x", "float32", (3,)),), Y)
    reader = InferReader(signature)
    reader.read(body_of("[1,2,3]", datatype="FP32"), None)
    monkeypatch.setattr(wire, "read_infer", lambda *_: pytest.fail("read in full"))
    asked, inputs, n = reader.read(body_of("[-1e3, 0.5,\n7]", datatype="FP32"), None)
    assert (asked.request.inputs, n) == ([], 1)
    assert isinstance(inputs, Packed)
    inputs = inputs.arrays()
    assert inputs["x"].dtype == np.float32
    assert inputs["x"].tolist() == [[-1000.0, 0.5, 7.0]]
    with pytest.raises(pytest.fail.Exception):
        reader.read(body_of("[1,2,3]", more='"id":"other",'), None)


def test_what_is_learned_is_bounded() -> None:
    """Ids that never repeat, long texts and several tensors fill no memory."""
    signature = Signature((Column("x", "float64", (3,)),), Y)
    reader = InferReader(signature)
    for number in range(LEARN_EVERY * (templates.MAX_TEMPLATES + 5)):
        reader.read(body_of("[1,2,3]", more=f'"id":"{number}",'), None)
    assert 0 < len(reader._templates) <= templates.MAX_TEMPLATES
    reader = InferReader(signature)
    reader.read(body_of("[1,2,3]", more=f'"id":"{"x" * templates.MAX_TEXT_BYTES}",'), None)
    assert not reader._templates


def test_a_value_that_narrows_to_infinity_is_refused_by_name() -> None:
    """A known request's numbers are checked against the column like any other's."""
    signature = Signature((Column("x", "float32", (3,)),), Y)
    reader = InferReader(signature)
    reader.read(body_of("[1,2,3]"), None)
    with pytest.raises(InvalidInput, match=r"'x' holds 1e\+300, too large for FP32"):
        reader.read(body_of("[1,2,1e300]"), None)


def answered(outputs: Batch, n: int, version: int) -> Query:
    """A query that was answered by a model."""
    query = Query(inputs={}, n=n, arrived=0.0, deadline=1.0, done=lambda _: None)
    query.request_id, query.version, query.outputs = "0" * 32, version, outputs
    return query


def outputs_of(n: int) -> Batch:
    texts = np.empty(n, object)
    texts[:] = [f'a"{row},]' for row in range(n)]
    return {
        "label": texts,
        "p": np.array([[0.1 * row, math.nan] for row in range(n)], np.float32),
        "k": np.arange(n),
        "m": np.arange(n * 4, dtype=np.float64).reshape(n, 2, 2)[:, ::-1],
        "b": np.arange(n) % 2 == 0,
        "t": np.array([[f"{row}", "é"] for row in range(n)], object),
    }


COLUMNS = (
    Column("label", "string"),
    Column("p", "float32", (2,)),
    Column("k", "int64"),
    Column("m", "float64", (2, 2)),
    Column("b", "bool"),
    Column("t", "string", (2,)),
)


@given(
    start=st.integers(0, 3),
    n=st.integers(1, 3),
    version=st.integers(0, 99),
    client_id=st.none() | st.text(max_size=8),
    model=st.text(min_size=1, max_size=8),
    wanted=st.lists(
        st.tuples(st.sampled_from(COLUMNS), st.booleans()),
        min_size=1,
        unique_by=lambda w: w[0].name,
    ),
)
def test_the_usual_answer_is_the_answer(
    *,
    start: int,
    n: int,
    version: int,
    client_id: str | None,
    model: str,
    wanted: list[tuple[Column, bool]],
) -> None:
    """From a query's own outputs or from its batch's, the bytes are those of the long way."""
    whole = outputs_of(6)
    rows = {name: array[start : start + n] for name, array in whole.items()}
    asked = wire.Asked(wire.InferRequest(inputs=[], id=client_id), COLUMNS)
    asked.wanted = tuple(wanted)
    long = wire.write_infer(
        asked,
        model=model,
        version=version,
        outputs=rows,
        parameters={"prediction_id": "0" * 32, "source": "model", "version": version},
    )
    writer = AnswerWriter(model, asked.wanted)
    query = answered(rows, n, version)
    assert writer.write(query, client_id) == long
    query = answered({}, n, version)
    query._outputs, query.answers, query.start = None, Answers({}, whole), start
    assert writer.write(query, client_id) == long
    assert writer.write(query, client_id) == long
    assert all(np.shares_memory(query.outputs[name], whole[name]) for name in ("p", "k"))


@settings(deadline=None)
@given(
    st.sampled_from(sorted({*TYPES, "FP16", "BF16"})),
    st.sampled_from(sorted(set(TYPES.values()))),
    st.lists(st.tuples(st.binary(max_size=24), st.booleans()), min_size=1, max_size=5),
)
def test_a_known_binary_request_is_read_as_an_unknown_one(
    datatype: str, column: str, asked: list[tuple[bytes, bool]]
) -> None:
    """Bytes too few or too many, infinities and numbers that are none: each as it is in full."""
    signature = Signature((Column("x", column, (3,)),), Y)
    reader = InferReader(signature)
    size = 3 * (2 if datatype == "BF16" else tensors.DATATYPES[datatype].itemsize)
    tensor = {"name": "x", "shape": [1, 3], "datatype": datatype}
    tensor["parameters"] = {"binary_data_size": size}
    head = json.dumps({"inputs": [tensor]}).encode()
    for blob, whole in asked:
        for sent in (bytes(size), blob.ljust(size, b"\xff")[:size] if whole else blob):
            reader._unknown = 0
            ours, full = both(reader, signature, head + sent, len(head))
            assert ours == full


def test_binary_tensors_are_taken_as_they_are_once_their_head_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second request with the same JSON is read without the decoder."""
    signature = Signature((Column("x", "float32", (3,)),), Y)
    reader = InferReader(signature)
    head = (
        b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32",'
        b'"parameters":{"binary_data_size":12}}],"parameters":{"binary_data_output":true}}'
    )
    reader.read(head + bytes(12), len(head))
    monkeypatch.setattr(wire, "read_infer", lambda *_: pytest.fail("read in full"))
    rows = np.array([1.5, -2.0, 3e38], np.float32)
    asked, inputs, n = reader.read(head + rows.tobytes(), len(head))
    assert (asked.wanted, n) == (((Y[0], True),), 1)
    assert isinstance(inputs, Packed)
    inputs = inputs.arrays()
    assert inputs["x"].tolist() == [rows.tolist()]
    assert inputs["x"].flags.aligned


@pytest.mark.parametrize("datatype", ["FP32", "INT8", "UINT64"])
def test_a_number_that_the_datatype_cannot_hold_is_refused(datatype: str) -> None:
    """Neither wrapped nor made infinite, whether or not the text around was known."""
    signature = Signature((Column("x", TYPES[datatype], (3,)),), Y)
    reader = InferReader(signature)
    too_large = {"FP32": "1e39", "INT8": "200", "UINT64": "18446744073709551616"}[datatype]
    body = body_of(f"[1,2,{too_large}]", datatype=datatype)
    for _ in range(2):
        with pytest.raises(InvalidInput, match=rf"'x' holds .*{datatype}"):
            reader.read(body, None)
        reader.read(body_of("[1,2,3]", datatype=datatype), None)
    assert reader._templates
