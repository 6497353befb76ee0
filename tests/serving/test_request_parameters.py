"""Parameters of a v2 request: which place it asks for, and what no parameter can ask for."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tidemill.foundation.errors import InvalidInput
from tidemill.serving import wire
from tidemill.serving.query import DEFAULT_PRIORITY

ADD = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}]}


@pytest.mark.parametrize(
    ("sent", "level"),
    [
        ({}, DEFAULT_PRIORITY),
        ({"priority": 0}, DEFAULT_PRIORITY),
        ({"priority": 1}, 1),
        ({"priority": 9}, 9),
        ({"priority": 10}, DEFAULT_PRIORITY),
        ({"priority": (1 << 64) - 1}, DEFAULT_PRIORITY),
    ],
)
def test_a_priority_is_a_level(sent: dict[str, Any], level: int) -> None:
    """1 is first and 9 is last; 0, none and levels that are unknown are the one in the middle."""
    assert wire.priority(sent) == level


@pytest.mark.parametrize("sent", [-1, 1.0, "1", True, None, [1], 1 << 64])
def test_what_is_no_level_is_refused(sent: Any) -> None:
    """A priority that is no whole number of 64 bits is refused by name."""
    with pytest.raises(InvalidInput, match="'priority' is"):
        wire.priority({"priority": sent})


def test_parameters_over_the_wire(client: httpx.Client) -> None:
    """Levels are taken, unknown parameters ignored, sequences refused with their reason."""
    for parameters in ({"priority": 1}, {"binary": "yes", "words": "x"}, {"sequence_id": 0}):
        answer = client.post("/v2/models/add/infer", json=ADD | {"parameters": parameters})
        assert answer.json()["outputs"][0]["data"] == [1001], answer.text
    for wrong, said in (
        ({"priority": -1}, "'priority' is -1"),
        ({"sequence_id": 7, "sequence_start": True}, "keep no state between requests"),
        ({"sequence_id": "c0ffee"}, "keep no state between requests"),
    ):
        answer = client.post("/v2/models/add/infer", json=ADD | {"parameters": wrong})
        assert answer.status_code == 400
        assert said in answer.json()["error"]
