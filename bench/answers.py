"""Reads answers in the formats that servers give, and tells right ones from wrong ones.

An answer is a dictionary: ``{"label": …, "probabilities": […]}`` of a classifier, else
``{"y": […]}``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

TOLERANCE = 1e-4
"""Numbers may differ by so much: compiled models compute in 32 bits."""

Answer = dict[str, Any]
Reader = Callable[[bytes, int], Answer]
"""Takes a body and the length of the JSON in front of binary tensors (0: there are none)."""

_UNPACKED = {"FP64": ("d", 8), "FP32": ("f", 4), "INT64": ("q", 8), "INT32": ("i", 4)}


def plain_answer(body: bytes, _: int) -> Answer:
    """Reads ``{"label": …, "probabilities": […]}`` or ``{"y": …}``."""
    return _named(json.loads(body))


def list_answer(body: bytes, _: int) -> Answer:
    """Reads a list with one plain answer."""
    return _named(json.loads(body)[0])


def v1_answer(body: bytes, _: int) -> Answer:
    """Reads the answer to one row in v1, of a model with one output."""
    return _named({"y": json.loads(body)["predictions"][0]})


def v2_answer(body: bytes, header_bytes: int) -> Answer:
    """Reads the answer to one row in the Open Inference Protocol, binary tensors included."""
    head = json.loads(body[:header_bytes] if header_bytes else body)
    found, start = {}, header_bytes
    for output in head["outputs"]:
        if "data" in output:
            found[output["name"]] = output["data"]
            continue
        code, width = _UNPACKED[output["datatype"]]
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = list(
            struct.unpack(f"<{size // width}{code}", body[start : start + size])
        )
        start += size
    return _named(found)


READERS: dict[str, Reader] = {
    "plain": plain_answer,
    "list": list_answer,
    "v1": v1_answer,
    "v2": v2_answer,
}


def right(found: Answer, expected: Answer) -> bool:
    """Tells whether an answer is the expected one; of two classes nearly alike, either is."""
    if found.keys() != expected.keys():
        return False
    for name in expected.keys() - {"label"}:
        if len(found[name]) != len(expected[name]):
            return False
        if any(
            not abs(a - b) <= TOLERANCE for a, b in zip(found[name], expected[name], strict=True)
        ):
            return False
    if "label" not in expected:
        return True
    probabilities = expected["probabilities"]
    return bool(max(probabilities) - probabilities[int(found["label"])] <= 2 * TOLERANCE)


def _named(values: dict[str, Any]) -> Answer:
    if "label" in values:
        label = values["label"]
        found = label[0] if isinstance(label, list) else label
        return {"label": found, "probabilities": values["probabilities"]}
    return {"y": values["y"] if isinstance(values["y"], list) else [values["y"]]}
