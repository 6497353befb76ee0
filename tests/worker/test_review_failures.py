"""Whatever a model raises becomes an error frame."""

from __future__ import annotations

import pytest

from tidemill_worker import frames


class Mute(Exception):  # noqa: N818 - it says nothing
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("error", [ValueError("no \ud800 UTF-8"), Mute()])
def test_an_exception_that_cannot_be_sent_as_it_is(error: Exception) -> None:
    """Text without UTF-8, or none at all, does not end the worker."""
    frame = b"".join(frames.encode_failure(7, error).parts)
    reader = frames.FrameReader()
    reader.space()[: len(frame)] = frame
    (received,) = reader.received(len(frame))
    failure = frames.decode_failure(received)
    assert failure.kind == type(error).__name__
    assert failure.what
