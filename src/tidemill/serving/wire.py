"""The wire formats: Open Inference Protocol v2 with binary tensors, and KServe's simple v1.

Bytes in, checked arrays out, and back. Every size is checked before it is believed.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import msgspec
import orjson

from tidemill.foundation.clock import END_S, FIRST_S
from tidemill.foundation.errors import InvalidInput, TooLarge
from tidemill.models.signature import Batch, Column, Signature
from tidemill.serving.classification import Classified, read_count
from tidemill.serving.inputs import (
    InputTensor,
    cut_tensors,
    raw_input,
    read_tensors,
    refuse_names,
    refuse_regions,
)
from tidemill.serving.query import DEFAULT_PRIORITY, FIRST_PRIORITY, LAST_PRIORITY
from tidemill.serving.tensors import (
    MAX_ROWS,
    check_rows,
    datatype_of,
    from_rows,
    show,
    to_bytes,
    to_json,
)

_PREDICTION_ID = re.compile(r"[0-9a-f]{32}(-[0-9]{1,6})?")
_MAX_NUMBER = sys.float_info.max


class RequestedOutput(msgspec.Struct, gc=False):
    """One output that a v2 request asks for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(msgspec.Struct):
    """A v2 inference request."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[RequestedOutput] | None = None


class Asked:
    """What a v2 request asks for beside its inputs, checked; requests alike may share one.

    ``writer`` is for whoever writes the answers: what was made for one serves the next.

    Args:
        request: what was asked.
        columns: what the model gives.
        n: the rows of the request, and of every other that shares this.
    """

    __slots__ = ("classes", "event_time", "priority", "request", "timeout_s", "wanted", "writer")

    def __init__(self, request: InferRequest, columns: tuple[Column, ...], n: int = 1) -> None:
        self.request = request
        self.wanted = tuple(wanted_outputs(request, columns))
        self.classes: tuple[Classified, ...] = ()
        if request.outputs:
            self.classes = classes_of(request.outputs, columns)
            if self.classes:
                columns_of = {each.of: each.column for each in self.classes}
                self.wanted = tuple(
                    (columns_of.get(column.name, column), binary) for column, binary in self.wanted
                )
            for each in self.classes:
                each.check(n)
        self.timeout_s = self.event_time = None
        self.priority = DEFAULT_PRIORITY
        self.writer: Any = None
        if request.parameters:
            timeout_us = parameter(request, "timeout")
            self.timeout_s = None if timeout_us is None else timeout_us / 1e6
            self.event_time = moment("event_time", parameter(request, "event_time"))
            self.priority = priority(request.parameters)
            refuse_sequences(request.parameters)

    @property
    def plain(self) -> bool:
        """Says whether it asks for no more than any request does, and for no text in binary."""
        return (
            self.timeout_s is None
            and self.event_time is None
            and self.priority == DEFAULT_PRIORITY
            and self.request.id is None
            and not self.classes
            and not any(binary and column.dtype.kind == "O" for column, binary in self.wanted)
        )


class PredictRequest(msgspec.Struct):
    """A v1 prediction request: rows as objects by column name, as lists, or as bare values."""

    instances: list[Any]
    event_time: float | None = None
    timeout_ms: float | None = None


class Feedback(msgspec.Struct, forbid_unknown_fields=True):
    """One label for one served prediction; ``observed_at`` is in seconds since the epoch."""

    prediction_id: str
    label: bool | int | float | str
    observed_at: float | None = None


_infer_decoder = msgspec.json.Decoder(InferRequest)
_predict_decoder = msgspec.json.Decoder(PredictRequest)
_feedback_decoder = msgspec.json.Decoder(list[Feedback] | Feedback)


def read_infer(
    body: bytes, header_length: int | None, signature: Signature
) -> tuple[InferRequest, Batch, int]:
    """Reads a v2 request: the request, its inputs as arrays (n, …), and n.

    Args:
        body: the request's body.
        header_length: the bytes of JSON before the binary tensors; None if all of it is JSON, 0 if
            none is and the body is the one input's only row.
        signature: what the application's model takes and gives.

    Raises:
        InvalidInput: it is not a request for this signature; the tensor and remedy are named.
    """
    if header_length == 0:
        tensor, blob = raw_input(body, signature)
        request = InferRequest(inputs=[tensor], parameters={"binary_data_output": True})
        blobs = {tensor.name: blob}
    else:
        json_bytes, blob = _cut_binary(body, header_length)
        request = decode_infer(json_bytes)
        blobs = cut_tensors(request.inputs, blob)
    inputs, n = read_tensors(request.inputs, blobs, signature)
    return request, inputs, n


def decode_infer(json_bytes: bytes) -> InferRequest:
    """Returns the JSON of a v2 request, checked against nothing but its own form.

    Raises:
        InvalidInput: it is not the JSON of a request.
    """
    request: InferRequest = _decoded(_infer_decoder, json_bytes, "an inference request")
    return request


def read_predict(body: bytes, signature: Signature) -> tuple[PredictRequest, Batch, int]:
    """Reads a v1 request: the request, its rows as arrays (n, …), and n.

    Raises:
        InvalidInput: it is not a request for this signature; the row, column and value are named.
    """
    request = decode_predict(body)
    inputs, n = read_rows(request.instances, signature)
    return request, inputs, n


def decode_predict(body: bytes) -> PredictRequest:
    """Returns a v1 request, checked against nothing but its own form.

    Raises:
        InvalidInput: it is not the JSON of a request.
    """
    request: PredictRequest = _decoded(_predict_decoder, body, "a prediction request")
    if request.event_time is not None:
        moment("event_time", request.event_time)
    return request


def read_rows(instances: list[Any], signature: Signature) -> tuple[Batch, int]:
    """Reads the rows of a v1 request as arrays (n, …), and n.

    Raises:
        InvalidInput: they are not of this signature; the row, column and value are named.
    """
    n = check_rows(len(instances))
    columns = signature.inputs
    names = [column.name for column in columns]
    known = set(names)
    rows = [_row_values(i, row, names, known) for i, row in enumerate(instances)]
    arrays = {
        column.name: from_rows([row[at] for row in rows], column)
        for at, column in enumerate(columns)
    }
    return arrays, n


def read_feedback(body: bytes) -> list[Feedback]:
    """Reads labels: one object or a list of them.

    Raises:
        InvalidInput: it is neither, or a field is missing, of a wrong type or no time.
    """
    labels: list[Feedback] | Feedback = _decoded(
        _feedback_decoder,
        body,
        "feedback",
        remedy='Send [{"prediction_id": "…", "label": …, "observed_at": seconds}].',
    )
    found = labels if isinstance(labels, list) else [labels]
    if len(found) > MAX_ROWS:
        raise TooLarge(f"{len(found)} labels in one request", remedy=f"At most {MAX_ROWS}.")
    for label in found:
        if not _PREDICTION_ID.fullmatch(label.prediction_id):
            raise InvalidInput(
                f"prediction_id {show(label.prediction_id)} was not made by this server",
                remedy="Return the prediction_id that came with the answer.",
            )
        if isinstance(label.label, int) and not -(1 << 63) <= label.label < 1 << 63:
            raise InvalidInput(
                f"prediction {label.prediction_id} has the label {show(label.label)}",
                remedy="Send whole numbers of at most 64 bits, or text.",
            )
        moment("observed_at", label.observed_at)
    return found


def describe(columns: tuple[Column, ...]) -> list[dict[str, Any]]:
    """Returns columns as v2 metadata; -1 stands for the rows."""
    return [
        {"name": column.name, "datatype": datatype_of(column), "shape": [-1, *column.shape]}
        for column in columns
    ]


def parameter(request: InferRequest, name: str) -> float | None:
    """Returns a numeric parameter of the request, if it was sent.

    Raises:
        InvalidInput: it is not a finite number.
    """
    value = None if request.parameters is None else request.parameters.get(name)
    if value is None:
        return None
    if type(value) not in {int, float} or abs(value) > _MAX_NUMBER:
        raise InvalidInput(f"parameter {name!r} is {show(value)}", remedy="Send a finite number.")
    return float(value)


def moment(name: str, seconds: float | None) -> float | None:
    """Returns a time in seconds since the epoch, if it was sent; milliseconds are told by the year.

    Raises:
        InvalidInput: it is in none of the years 1 to 9999.
    """
    if seconds is not None and not FIRST_S <= seconds < END_S:
        raise InvalidInput(
            f"{name!r} is {show(seconds)}, which is in none of the years 1 to 9999",
            remedy="Send seconds since the epoch: divide milliseconds by 1,000.",
        )
    return seconds


def priority(parameters: dict[str, Any]) -> int:
    """Returns the level of priority that a request's parameters ask for.

    1 is served first, 9 last; 0, none and what is above 9 are 5.

    Raises:
        InvalidInput: it is not a whole number, 0 or more.
    """
    level = parameters.get("priority", 0)
    if type(level) is not int or not 0 <= level < 1 << 64:
        raise InvalidInput(
            f"parameter 'priority' is {show(level)}",
            remedy=f"Send a whole number: {FIRST_PRIORITY} is first, {LAST_PRIORITY} last.",
        )
    return level if FIRST_PRIORITY <= level <= LAST_PRIORITY else DEFAULT_PRIORITY


def refuse_sequences(parameters: dict[str, Any]) -> None:
    """Refuses a request that belongs to a sequence: every query stands alone here.

    Raises:
        InvalidInput: it names a sequence; the id 0 is none.
    """
    if parameters.get("sequence_id"):
        raise InvalidInput(
            f"parameter 'sequence_id' is {show(parameters['sequence_id'])}, and models here keep "
            "no state between requests",
            remedy="Leave it out, and send all that the answer depends on.",
        )


def classes_of(
    outputs: list[RequestedOutput], columns: tuple[Column, ...]
) -> tuple[Classified, ...]:
    """Returns the outputs of which a request wants the best classes.

    Raises:
        InvalidInput: it asks for no number of them, or of an output that has none.
    """
    counts = {output.name: read_count(output.parameters) for output in outputs}
    return tuple(
        Classified(column, counts[column.name]) for column in columns if counts.get(column.name)
    )


def wanted_outputs(request: InferRequest, columns: tuple[Column, ...]) -> list[tuple[Column, bool]]:
    """Returns the outputs that a request asks for, in its order, and which of them in binary.

    Raises:
        InvalidInput: an output is asked for that the model does not give, or twice.
    """
    default = _flag(request.parameters, "binary_data_output", default=False)
    if not request.outputs:
        return [(column, default) for column in columns]
    known = {column.name: column for column in columns}
    wanted: dict[str, tuple[Column, bool]] = {}
    for output in request.outputs:
        if output.name not in known:
            raise InvalidInput(
                f"output {show(output.name)} is not known",
                remedy=f"The model gives: {', '.join(known)}.",
            )
        if output.name in wanted:
            raise InvalidInput(
                f"output {output.name!r} already exists in request", remedy="Ask for it once."
            )
        refuse_regions("output", output.name, output.parameters)
        binary = _flag(output.parameters, "binary_data", default=default)
        wanted[output.name] = (known[output.name], binary)
    return list(wanted.values())


def write_infer(
    asked: Asked, *, model: str, version: int, outputs: Batch, parameters: dict[str, Any]
) -> tuple[bytes, int | None]:
    """Writes a v2 answer: the body, and the length of its JSON if binary tensors follow."""
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for column, binary in asked.wanted:
        array = outputs[column.name]
        entry: dict[str, Any] = {
            "name": column.name,
            "datatype": datatype_of(column),
            "shape": list(array.shape),
        }
        if binary:
            blob = to_bytes(array)
            blobs.append(blob)
            entry["parameters"] = {"binary_data_size": len(blob)}
        else:
            entry["data"] = to_json(array)
        described.append(entry)
    answer: dict[str, Any] = {"model_name": model, "model_version": str(version)}
    if asked.request.id is not None:
        answer["id"] = asked.request.id
    answer["parameters"] = parameters
    answer["outputs"] = described
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blobs:
        return head, None
    return b"".join((head, *blobs)), len(head)


def write_predict(
    outputs: Batch, n: int, *, prediction_ids: list[str], version: int, sources: list[str]
) -> bytes:
    """Writes a v1 answer; a single output's values stand alone, several stand under their names."""
    lists = {name: array.tolist() for name, array in outputs.items()}
    if len(lists) == 1:
        predictions = next(iter(lists.values()))
    else:
        predictions = [{name: values[i] for name, values in lists.items()} for i in range(n)]
    return orjson.dumps(
        {
            "predictions": predictions,
            "prediction_ids": prediction_ids,
            "model_version": str(version),
            "sources": sources,
        }
    )


def _decoded(
    decoder: msgspec.json.Decoder[Any],
    body: bytes,
    what: str,
    remedy: str = "See /v2 for the format.",
) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the body is not {what}: {error}", remedy=remedy) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"the body is not JSON: {error}",
            remedy="Send one JSON object in UTF-8; NaN and Infinity are not JSON.",
        ) from error
    except RecursionError as error:
        raise InvalidInput(
            "the body's JSON is nested too deeply", remedy="Nest data no deeper than its shape."
        ) from error


def _cut_binary(body: bytes, header_length: int | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not 0 < header_length <= len(body):
        raise InvalidInput(
            f"Inference-Header-Content-Length is {header_length}, the body has {len(body)} bytes",
            remedy="Send the length of the JSON that precedes the binary tensors.",
        )
    return body[:header_length], body[header_length:]


def _row_values(index: int, row: Any, names: list[str], known: set[str]) -> list[Any]:
    if isinstance(row, dict):
        if row.keys() != known:
            refuse_names(f"column (row {index})", set(row), known)
        return [row[name] for name in names]
    if len(names) == 1:
        return [row]
    if isinstance(row, list):
        if len(row) != len(names):
            raise InvalidInput(
                f"row {index} has {len(row)} values",
                remedy=f"Send {len(names)}, in this order: {', '.join(names[:50])}.",
            )
        return row
    raise InvalidInput(
        f"row {index} is {show(row)}",
        remedy=f"Send an object or a list with: {', '.join(names[:50])}.",
    )


def _flag(parameters: dict[str, Any] | None, name: str, *, default: bool) -> bool:
    value = default if parameters is None else parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"parameter {name!r} is {show(value)}", remedy="Send true or false.")
    return value
