"""The call of a step's function: the same in a thread and in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from tidemill.foundation.errors import InvalidInput
from tidemill.pipeline.contract import OUT, element, hints_of
from tidemill.pipeline.inputs import Argument, Encoded, Live, Located, Many
from tidemill.pipeline.values import decode_value, describe, encode_value


def call(
    function: Callable[..., Any],
    arguments: Mapping[str, Argument],
    *,
    out: Path | None,
    step: str,
) -> bytes | None:
    """Calls the function and returns its value as bytes; None where it returns none.

    Raises:
        InvalidInput: an argument or the value does not match its annotation.
        Exception: whatever the function raises.
    """
    hints = hints_of(function, f"step {step!r}")
    given = {
        name: _value(argument, hints[name], f"input {name!r} of step {step!r}")
        for name, argument in arguments.items()
    }
    if out is not None:
        given[OUT] = out
    value = function(**given)
    subject = f"what step {step!r} returned"
    if hints["return"] is not NoneType:
        return encode_value(value, hints["return"], subject)
    if value is not None:
        raise InvalidInput(
            f"{subject} does not match its annotation None: it is of type {describe(type(value))}",
            remedy="Annotate what the function returns.",
        )
    return None


def _value(argument: Argument, wanted: Any, subject: str) -> Any:
    match argument:
        case Encoded(data):
            return decode_value(data, wanted, subject)
        case Located(path):
            return path
        case Live(value):
            return value
        case Many(parts):
            return [_value(one, element(wanted), subject) for one in parts]
