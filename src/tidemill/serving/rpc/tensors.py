"""Inference requests and answers of the protocol's gRPC form: messages to arrays, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Array, Batch, Signature
from tidemill.serving import wire
from tidemill.serving.classification import classified
from tidemill.serving.inputs import InputTensor, read_tensors, refuse_regions
from tidemill.serving.query import Query
from tidemill.serving.rpc.schema import messages
from tidemill.serving.tensors import DATATYPES, ONLY_BINARY, datatype_of, show, to_bytes

_MESSAGES = messages("inference.proto")
_Request, _Response = _MESSAGES["ModelInferRequest"], _MESSAGES["ModelInferResponse"]
_StreamResponse = _MESSAGES["ModelStreamInferResponse"]

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where the elements of each datatype stand that are not sent raw; FP16 and BF16 always are."""

FINAL = "triton_enable_empty_final_response"
"""A client of a stream wants to be told which answer to a request is the last one."""


class Asked:
    """What a request asks for beside its inputs, and in which form it gets it."""

    __slots__ = ("asked", "final", "raw")

    def __init__(self, asked: wire.Asked) -> None:
        self.asked = asked
        parameters = asked.request.parameters
        self.raw = not parameters or parameters.get("binary_data_output") is not False
        self.final = bool(parameters and parameters.get(FINAL))


def decode_infer(body: bytes) -> Any:
    """Returns the message of an inference request.

    Raises:
        InvalidInput: the bytes are no such message.
    """
    try:
        return _Request.FromString(body)
    except Exception as error:  # DecodeError, of whichever implementation
        raise InvalidInput(
            f"the message is not a ModelInferRequest: {error}", remedy="See inference.proto."
        ) from error


def read_infer(message: Any, signature: Signature) -> tuple[Asked, Batch, int]:
    """Reads a request: what it asks for, its inputs as arrays (n, …), and n.

    Raises:
        InvalidInput: it is not a request for this signature; the tensor and remedy are named.
    """
    request = wire.InferRequest(inputs=[], id=message.id or None)
    if message.parameters:
        request.parameters = _parameters(message.parameters)
    if message.outputs:
        request.outputs = [
            wire.RequestedOutput(name=each.name, parameters=_parameters(each.parameters))
            for each in message.outputs
        ]
    for each in message.inputs:
        if each.parameters:
            refuse_regions("input", each.name, _parameters(each.parameters))
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} tensors, the request {len(message.inputs)} inputs",
            remedy="Send all inputs raw, in their order, or each in its contents.",
        )
    sent: list[InputTensor] = []
    blobs: dict[str, bytes] = {}
    for at, each in enumerate(message.inputs):
        tensor = InputTensor(name=each.name, shape=list(each.shape), datatype=each.datatype)
        sent.append(tensor)
        if not raw:
            _take_contents(each, tensor, blobs)
        elif each.HasField("contents"):
            raise InvalidInput(
                f"input {show(each.name)} has contents, and the request raw_input_contents",
                remedy="Send one of them.",
            )
        else:
            blobs[each.name] = raw[at]
    arrays, n = read_tensors(sent, blobs, signature)
    return Asked(wire.Asked(request, signature.outputs, n)), arrays, n


def write_infer(query: Query, *, stream: bool) -> bytes:
    """Writes the answer to a query as a message, of a stream if it came by one."""
    form: Asked = query.request
    application = query.state
    if form.asked.classes:
        query = classified(query, form.asked.classes, application.classes_of(query.version))
    whole = _StreamResponse() if stream else _Response()
    response = whole.infer_response if stream else whole
    response.model_name = application.name
    response.model_version = str(query.version)
    response.id = form.asked.request.id or ""
    said = response.parameters
    said["prediction_id"].string_param = query.request_id
    said["source"].string_param = query.source if query.row_sources is None else "mixed"
    said["version"].int64_param = query.version
    if query.row_sources is not None:
        said["sources"].string_param = ",".join(query.row_sources)
    if form.final:
        said["triton_final_response"].bool_param = True
    outputs = query.outputs
    wanted = form.asked.wanted
    raw = form.raw or any(datatype_of(column) not in CONTENTS for column, _ in wanted)
    for column, _ in wanted:
        array, datatype = outputs[column.name], datatype_of(column)
        output = response.outputs.add(name=column.name, datatype=datatype, shape=array.shape)
        if raw:
            response.raw_output_contents.append(to_bytes(array))
        else:
            getattr(output.contents, CONTENTS[datatype]).extend(_elements(array))
    encoded: bytes = whole.SerializeToString()
    return encoded


def write_error(identity: str, said: str) -> bytes:
    """Writes the answer to a request of a stream that failed."""
    whole = _StreamResponse(error_message=said)
    whole.infer_response.id = identity
    encoded: bytes = whole.SerializeToString()
    return encoded


def _parameters(sent: Any) -> dict[str, Any] | None:
    if not sent:
        return None
    found: dict[str, Any] = {}
    for name, value in sent.items():
        choice = value.WhichOneof("parameter_choice")
        found[name] = None if choice is None else getattr(value, choice)
    return found


def _take_contents(sent: Any, tensor: InputTensor, blobs: dict[str, bytes]) -> None:
    """Takes a tensor's elements from the one field that its datatype has."""
    name, datatype = tensor.name, tensor.datatype
    field = CONTENTS.get(datatype)
    filled = [each.name for each, _ in sent.contents.ListFields()]
    if field is None:
        if datatype in ONLY_BINARY:
            raise InvalidInput(
                f"input {show(name)} is {datatype}, which has no contents",
                remedy="Send it in raw_input_contents.",
            )
        tensor.data = []
        return  # whoever compares it with the signature says what is expected
    if any(each != field for each in filled):
        raise InvalidInput(
            f"input {show(name)} is {datatype} and has {', '.join(filled)}",
            remedy=f"Send {datatype} in {field}.",
        )
    elements = getattr(sent.contents, field)
    if datatype in {"FP32", "FP64"}:  # unlike JSON, these may be infinite: as raw ones are judged
        blobs[name] = np.array(elements, DATATYPES[datatype]).tobytes()
    elif datatype == "BYTES":
        tensor.data = [_text(each, at, name) for at, each in enumerate(elements)]
    else:
        tensor.data = list(elements)


def _text(element: bytes, at: int, name: str) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"input {show(name)} has a BYTES element that is not UTF-8: number {at}",
            remedy="Send UTF-8 text.",
        ) from error


def _elements(array: Array) -> list[Any]:
    values: list[Any] = array.ravel().tolist()
    return [str(each).encode() for each in values] if array.dtype.kind in "OUS" else values
