"""The wire formats: what is sent is what the model gets, or the sender is told what to mend."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tidemill.foundation.errors import InvalidInput, TidemillError, TooLarge
from tidemill.models.signature import Array, Column, Signature
from tidemill.serving import tensors, wire
from tidemill.serving.templates import InferReader

NUMERIC = [name for name in tensors.DATATYPES if name != "BYTES"]
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


def elements(datatype: str) -> st.SearchStrategy[Any]:
    """Values that a datatype can hold."""
    dtype = tensors.DATATYPES[datatype]
    if dtype.kind == "O":
        return st.text(st.characters(codec="utf-8"), max_size=8)
    return hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False)


@st.composite
def sent(draw: st.DrawFn, datatype: str) -> Array:
    """An array (n, …) of a datatype."""
    shape = (draw(st.integers(1, 4)), *draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)))
    return draw(hnp.arrays(tensors.DATATYPES[datatype], shape, elements=elements(datatype)))


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


def same(one: Array, other: Array) -> bool:
    """Says whether two arrays are alike to the last bit."""
    if one.dtype == object:
        return one.dtype == other.dtype and one.shape == other.shape and (one == other).all()
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def one(
    datatype: str = "INT64", shape: object = (1,), data: object = (1,), **more: Any
) -> dict[str, Any]:
    """An input ``x``, right but for what is said."""
    return {"name": "x", "datatype": datatype, "shape": shape, "data": data, **more}


PLAIN = Signature((Column("i", "int8"), Column("s", "uint64")), TABULAR.outputs)
INT, TEXT, PAIR = signature("INT64"), signature("BYTES"), signature("FP32", (2,))


@settings(deadline=None)
@given(st.data(), st.sampled_from([*NUMERIC, "BYTES"]), st.booleans())
def test_a_tensor_in_json_is_what_the_model_gets(
    data: st.DataObject,
    datatype: str,
    nested: bool,  # noqa: FBT001 - drawn
) -> None:
    """Every datatype, flat or nested, comes through JSON as it was; FP16 has no JSON form."""
    array = data.draw(sent(datatype))
    values = array.tolist() if nested else array.ravel().tolist()
    body, _ = body_of(tensor("x", datatype, array, data=values))
    expected = signature(datatype, array.shape[1:])
    if datatype == "FP16":
        with pytest.raises(InvalidInput, match=r"'x' is FP16 in JSON.*binary"):
            wire.read_infer(body, None, expected)
        return
    _, inputs, n = wire.read_infer(body, None, expected)
    assert n == len(array)
    assert same(inputs["x"], array)


@settings(deadline=None)
@given(st.data(), st.sampled_from([*NUMERIC, "BYTES"]))
def test_a_binary_tensor_is_what_the_model_gets(data: st.DataObject, datatype: str) -> None:
    """Every datatype comes through the binary extension as it was."""
    array = data.draw(sent(datatype))
    body, header = body_of(binary("x", datatype, array), blob=blob_of(array))
    _, inputs, n = wire.read_infer(body, header, signature(datatype, array.shape[1:]))
    assert n == len(array)
    assert same(inputs["x"], array)


@settings(deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            hnp.arrays(np.float64, (n, 2), elements=elements("FP64")),
            hnp.arrays(np.int8, n),
            hnp.arrays(object, n, elements=elements("BYTES")),
            hnp.arrays(np.bool_, n),
        )
    ),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.permutations(range(4)),
)
def test_json_and_binary_tensors_mix_in_any_order(
    arrays: tuple[Array, ...], as_binary: list[bool], order: list[int]
) -> None:
    """Binary tensors lie in the order of the request's inputs, whatever stands between them."""
    types = ["FP64", "INT8", "BYTES", "BOOL"]
    inputs, blob = [], b""
    for at in order:
        name, array = TABULAR.inputs[at].name, arrays[at]
        if as_binary[at]:
            inputs.append(binary(name, types[at], array))
            blob += blob_of(array)
        else:
            inputs.append(tensor(name, types[at], array, data=array.tolist()))
    body, header = body_of(*inputs, blob=blob)
    _, read, _ = wire.read_infer(body, header, TABULAR)
    assert list(read) == [column.name for column in TABULAR.inputs]
    for column, array in zip(TABULAR.inputs, arrays, strict=True):
        assert same(read[column.name], array)


@settings(deadline=None)
@given(st.data(), st.sampled_from(NUMERIC), st.sampled_from([*NUMERIC, "BYTES"]))
def test_a_tensor_means_the_same_in_json_and_in_binary(
    data: st.DataObject, datatype: str, of_column: str
) -> None:
    """For a column of any type both forms are taken alike; what is taken loses nothing.

    Integers become other integers or floats, floats the nearest floats, and nothing else.
    """
    if datatype == "FP16":
        return
    array = data.draw(sent(datatype))
    expected = signature(of_column, array.shape[1:])
    body, _ = body_of(tensor("x", datatype, array, data=array.tolist()))
    binary_body, header = body_of(binary("x", datatype, array), blob=blob_of(array))
    try:
        _, inputs, _ = wire.read_infer(body, None, expected)
    except InvalidInput:
        with pytest.raises(InvalidInput, match="'x'"):
            wire.read_infer(binary_body, header, expected)
        return
    _, from_binary, _ = wire.read_infer(binary_body, header, expected)
    taken = inputs["x"]
    assert same(taken, from_binary["x"])
    assert taken.dtype == expected.inputs[0].dtype
    assert (taken.dtype.kind == "b") == (array.dtype.kind == "b")
    assert not (taken.dtype.kind in "iu" and array.dtype.kind == "f")
    if taken.dtype.kind == "f":
        with np.errstate(over="ignore"):
            assert (taken == array.astype(taken.dtype)).all()
    else:
        assert taken.tolist() == array.tolist()


@settings(deadline=None)
@given(st.data(), st.sampled_from([*NUMERIC, "BYTES"]), st.booleans())
def test_an_output_comes_back_as_the_model_gave_it(
    data: st.DataObject,
    datatype: str,
    as_binary: bool,  # noqa: FBT001 - drawn
) -> None:
    """Every datatype is written so that the client reads what the model said, in both forms."""
    array = data.draw(sent(datatype))
    columns = signature(datatype, array.shape[1:]).inputs
    request = wire.InferRequest(inputs=[], id="7", parameters={"binary_data_output": as_binary})
    body, header = wire.write_infer(
        wire.Asked(request, columns),
        model="m",
        version=3,
        outputs={"x": array},
        parameters={"k": 1},
    )
    head = json.loads(body[:header])
    (output,) = head.pop("outputs")
    assert head == {"model_name": "m", "model_version": "3", "id": "7", "parameters": {"k": 1}}
    assert (output["name"], output["datatype"]) == ("x", datatype)
    assert output["shape"] == list(array.shape)
    if as_binary:
        assert header is not None
        assert output["parameters"] == {"binary_data_size": len(body) - header}
        assert body[header:] == blob_of(array)
    else:
        assert header is None
        read = np.array(output["data"], array.dtype).reshape(array.shape)
        assert same(read, array)


def test_each_output_has_its_own_form() -> None:
    """``binary_data`` of an output overrules ``binary_data_output``; the order is the request's."""
    outputs = {
        "label": np.array(["é", ""], object),
        "p": np.array([[0.5, 0.25], [1, 0]], np.float32),
    }
    request = wire.InferRequest(
        inputs=[],
        parameters={"binary_data_output": True},
        outputs=[wire.RequestedOutput("p", {"binary_data": False}), wire.RequestedOutput("label")],
    )
    body, header = wire.write_infer(
        wire.Asked(request, TABULAR.outputs),
        model="m",
        version=1,
        outputs=outputs,
        parameters={},
    )
    p, label = json.loads(body[:header])["outputs"]
    assert (p["name"], p["data"]) == ("p", [0.5, 0.25, 1.0, 0.0])
    assert (label["name"], body[header:]) == ("label", b"\x02\0\0\0\xc3\xa9\0\0\0\0")


def test_a_scalar_column_also_takes_one_value_a_row() -> None:
    """(n, 1) is (n,) for a column of scalars: clients that send matrices need no special case."""
    _, inputs, _ = wire.read_infer(body_of(one(shape=[2, 1], data=[[1], [2]]))[0], None, INT)
    assert same(inputs["x"], np.array([1, 2]))


def test_unknown_fields_are_ignored_and_parameters_read() -> None:
    """Other servers' extensions do no harm; a numeric parameter is a finite number."""
    body, _ = body_of(one(more=1), id="a", parameters={"timeout": 5, "x": {}}, extra=[1])
    request, _, _ = wire.read_infer(body, None, INT)
    assert request.id == "a"
    assert wire.parameter(request, "timeout") == 5.0
    assert wire.parameter(request, "priority") is None
    for wrong in (True, "5", [5], 10**400):
        request.parameters = {"timeout": wrong}
        with pytest.raises(InvalidInput, match=r"'timeout' is .*finite"):
            wire.parameter(request, "timeout")


def test_milliseconds_are_not_taken_for_seconds() -> None:
    """Of a query in both protocols, and of a label; any second of the years 1 to 9999 is taken."""
    made = "0" * 32
    for seconds, fits in ((-62135596800, True), (253402300799.5, True), (1.7672868e12, False)):
        reads: tuple[Callable[[], object], ...] = (
            lambda at=seconds: wire.decode_predict(b'{"instances":[1],"event_time":%r}' % at),
            lambda at=seconds: wire.read_feedback(
                b'{"prediction_id":"%b","label":1,"observed_at":%r}' % (made.encode(), at)
            ),
            lambda at=seconds: wire.moment("event_time", at),
        )
        for read in reads:
            if fits:
                read()
                continue
            with pytest.raises(InvalidInput, match=r"is 1767286800000\.0.*1 to 9999.*divide milli"):
                read()


# v1


def test_instances_are_objects_lists_or_bare_values() -> None:
    """The three forms of KServe's v1 give the same arrays, and may be mixed."""
    rows = [
        {"b": True, "s": "é", "i": -128, "x": [1, 2.5]},
        [[3, 4], 127, "", False],
    ]
    request, inputs, n = wire.read_predict(
        json.dumps({"instances": rows, "event_time": 12, "timeout_ms": 3.5}).encode(), TABULAR
    )
    assert (n, request.event_time, request.timeout_ms) == (2, 12.0, 3.5)
    assert same(inputs["x"], np.array([[1, 2.5], [3, 4]]))
    assert same(inputs["i"], np.array([-128, 127], np.int8))
    assert same(inputs["s"], np.array(["é", ""], object))
    assert same(inputs["b"], np.array([True, False]))
    for bare in ([[1, 2], [3, 4]], [{"x": [1, 2]}, {"x": [3, 4]}]):
        _, inputs, _ = wire.read_predict(json.dumps({"instances": bare}).encode(), PAIR)
        assert same(inputs["x"], np.array([[1, 2], [3, 4]], np.float32))
    for scalars in ([1, 2], [[1], [2]], [{"x": 1}, {"x": 2}]):
        _, inputs, _ = wire.read_predict(json.dumps({"instances": scalars}).encode(), INT)
        assert same(inputs["x"], np.array([1, 2]))


GOOD_ROW = {"x": [1, 2], "i": 1, "s": "a", "b": True}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({**GOOD_ROW, "z": 1}, r"column \(row 1\) 'z' is not known"),
        ({"x": [1, 2]}, r"column \(row 1\) 'b', 'i', 's' is missing"),
        ([[1, 2], 1, "a"], "row 1 has 3 values.*x, i, s, b"),
        (5, "row 1 is 5.*x, i, s, b"),
        (None, "row 1 is None"),
        ({**GOOD_ROW, "x": [1, 2, 3]}, r"'x' holds \[1, 2, 3\] in row 1.*\[-1, 2\]"),
        ({**GOOD_ROW, "x": 1}, "'x' holds 1 in row 1"),
        ({**GOOD_ROW, "x": [1, True]}, "'x' holds True in row 1"),
        ({**GOOD_ROW, "i": 1.0}, "'i' holds 1.0 in row 1"),
        ({**GOOD_ROW, "i": 128}, "'i' holds 128, which INT8 cannot hold, in row 1"),
        ({**GOOD_ROW, "i": None}, "'i' holds None in row 1"),
        ({**GOOD_ROW, "i": [1]}, r"'i' holds \[1\] in row 1"),
        ({**GOOD_ROW, "s": 1}, "'s' holds 1 in row 1"),
        ({**GOOD_ROW, "s": ["a"]}, r"'s' holds \['a'\] in row 1"),
        ({**GOOD_ROW, "b": 0}, "'b' holds 0 in row 1"),
    ],
)
def test_a_wrong_instance_is_refused_with_its_row_and_column(row: object, what: str) -> None:
    """The row, the column and the value are named, with what the model expects."""
    with pytest.raises(InvalidInput, match=what) as refused:
        wire.read_predict(json.dumps({"instances": [GOOD_ROW, row]}).encode(), TABULAR)
    assert refused.value.remedy


def test_rows_are_not_poured_together() -> None:
    """Rows of wrong lengths are refused even where their values would fill the batch."""
    texts = Signature((Column("x", "string", (2,)),), Y)
    for expected, rows in ((PAIR, [[1], [2, 3, 4]]), (texts, [["a"], ["b", "c", "d"]])):
        with pytest.raises(InvalidInput, match="in row 0"):
            wire.read_predict(json.dumps({"instances": rows}).encode(), expected)
    for expected, row in ((INT, [1, 2]), (TEXT, ["a", "b"])):
        with pytest.raises(InvalidInput, match="in row 1"):
            wire.read_predict(json.dumps({"instances": [row[:1], row]}).encode(), expected)
    with pytest.raises(InvalidInput, match="'x' holds 1 in row 0"):
        wire.read_predict(b'{"instances": [1, 2]}', signature("FP64", (1,)))


def test_the_number_of_instances_is_bounded() -> None:
    """No rows and too many rows are refused."""
    with pytest.raises(InvalidInput, match="no rows"):
        wire.read_predict(b'{"instances": []}', INT)
    with pytest.raises(TooLarge, match="65537 rows"):
        wire.read_predict(json.dumps({"instances": [1] * 65_537}).encode(), INT)


# Feedback

ID = "0123456789abcdef" * 2


def test_feedback_is_read() -> None:
    """One label or many; their types stay what they were."""
    (label,) = wire.read_feedback(json.dumps({"prediction_id": ID, "label": 1.0}).encode())
    assert (label.prediction_id, label.label, label.observed_at) == (ID, 1.0, None)
    values = [True, 1, 1.5, "late", 2**63 - 1]
    rows = [
        {"prediction_id": f"{ID}-{n}", "label": v, "observed_at": n} for n, v in enumerate(values)
    ]
    read = wire.read_feedback(json.dumps(rows).encode())
    assert [label.label for label in read] == values
    assert [type(label.label) for label in read] == [bool, int, float, str, int]
    assert [label.observed_at for label in read] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert wire.read_feedback(b"[]") == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"prediction_id": "\xff", "label": 1}',
        json.dumps({"prediction_id": ID}).encode(),
        json.dumps({"prediction_id": ID, "label": None}).encode(),
        json.dumps({"prediction_id": ID, "label": [1]}).encode(),
        json.dumps({"prediction_id": ID, "label": 2**63}).encode(),
        json.dumps({"prediction_id": ID, "label": 1, "more": 1}).encode(),
        json.dumps({"prediction_id": ID, "label": 1, "observed_at": "now"}).encode(),
        json.dumps({"prediction_id": ID[:-1], "label": 1}).encode(),
        json.dumps({"prediction_id": ID.upper(), "label": 1}).encode(),
        json.dumps({"prediction_id": f"{ID}-", "label": 1}).encode(),
        json.dumps({"prediction_id": f"{ID}-²", "label": 1}).encode(),
        json.dumps({"prediction_id": f"{ID}\n", "label": 1}).encode(),
    ],
)
def test_wrong_feedback_is_refused(body: bytes) -> None:
    """What is no label for a prediction of ours is refused, with what to send."""
    with pytest.raises(InvalidInput) as refused:
        wire.read_feedback(body)
    assert refused.value.remedy


def test_the_number_of_labels_is_bounded() -> None:
    """Too many labels in one request are refused."""
    with pytest.raises(TooLarge, match="65537 labels"):
        wire.read_feedback(json.dumps([{"prediction_id": ID, "label": 1}] * 65_537).encode())


# Whatever comes


def readers(body: bytes, header: int | None) -> None:
    """Has every reader read a body; they may raise errors of ours only."""
    for read in (
        lambda: wire.read_infer(body, header, TABULAR),
        lambda: wire.read_infer(body, header, INT),
        lambda: InferReader(TABULAR).read(body, header),
        lambda: InferReader(PLAIN).read(body, header),
        lambda: wire.read_infer(body, header, TEXT),
        lambda: wire.read_predict(body, TABULAR),
        lambda: wire.read_predict(body, PAIR),
        lambda: wire.read_feedback(body),
    ):
        with contextlib.suppress(TidemillError):
            read()


@settings(deadline=None)
@given(st.binary(max_size=200), st.none() | st.integers(0, 300))
def test_any_bytes_are_read_or_refused(body: bytes, header: int | None) -> None:
    """No bytes make a reader raise anything but an error of ours."""
    readers(body, header)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "i", "s", "b", "z"]), inner, max_size=4)
    ),
    max_leaves=12,
)
TENSOR = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "i", "s", "b", "z"]),
        "shape": st.lists(st.integers(-1, 3) | st.just(2**70), max_size=3) | JSON,
        "datatype": st.sampled_from([*tensors.DATATYPES, "BF16", "?"]),
    },
    optional={
        "data": JSON,
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "shared_memory_region"]),
            JSON | st.integers(0, 20),
        ),
    },
)
REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.lists(TENSOR, max_size=4),
        "outputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["y", "p", "z"])},
                optional={
                    "parameters": st.dictionaries(
                        st.sampled_from(["classification", "binary_data"]), JSON
                    )
                },
            )
        ),
        "parameters": JSON,
        "instances": JSON,
        "prediction_id": st.just(ID),
        "label": JSON,
    },
)


@settings(max_examples=300, deadline=None)
@given(REQUEST, st.binary(max_size=24), st.sampled_from(["json", "binary", "bare"]))
def test_any_request_is_read_or_refused(
    request_: dict[str, Any],
    blob: bytes,
    how: str,
) -> None:
    """No JSON of a request's form makes a reader raise anything but an error of ours."""
    head = json.dumps(request_).encode()
    readers(head + blob, {"json": None, "binary": len(head), "bare": 0}[how])


@settings(deadline=None)
@given(st.data())
def test_a_damaged_request_is_read_or_refused(data: st.DataObject) -> None:
    """Cut, changed and doubled bytes of a good request raise nothing but errors of ours."""
    array = np.array([[1.0, 2.0]])
    inputs = [
        binary("x", "FP64", array),
        {"name": "i", "datatype": "INT8", "shape": [1], "data": [1]},
        binary("s", "BYTES", np.array(["ab"], object)),
        {"name": "b", "datatype": "BOOL", "shape": [1], "data": [True]},
    ]
    body, header = body_of(*inputs, blob=blob_of(array) + blob_of(np.array(["ab"], object)))
    assert wire.read_infer(body, header, TABULAR)[2] == 1
    at = data.draw(st.integers(0, len(body)))
    until = data.draw(st.integers(at, min(len(body), at + 9)))
    damaged = body[:at] + data.draw(st.binary(max_size=9)) + body[until:]
    readers(damaged, data.draw(st.sampled_from([header, None, header + 1, len(damaged)])))
