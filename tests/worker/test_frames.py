"""Frames carry batches whole, whatever the pieces they arrive in."""

from __future__ import annotations

import contextlib
import os

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill_worker import frames, memory

BATCHES = [
    {"x": np.arange(10, dtype=np.float32).reshape(2, 5), "n": np.array([1, -2])},
    {"s": np.array(["", "é🙂", "a" * 300], dtype=object), "b": np.array([True, False, True])},
    {"u": np.array([["a", "bc"], ["d", "e"]]), "e": np.empty((2, 0)), "i": np.zeros(2, np.uint8)},
    {"none": np.empty((0, 3), dtype=np.int16), "s": np.empty(0, dtype=object)},
    {"strided": np.arange(40.0).reshape(4, 10)[:, ::3], "t": np.arange(40.0).reshape(10, 4).T},
    {"big": np.arange(5000.0), "s": np.full(5000, "x", dtype=object)},
    {},
]


def sent(outgoing: frames.Outgoing) -> bytes:
    """Returns the bytes of a frame."""
    return b"".join(bytes(part) for part in outgoing.parts)


def fed(reader: frames.FrameReader, data: bytes, piece: int) -> list[frames.Frame]:
    """Gives the reader the bytes piece by piece; returns the frames it found."""
    found: list[frames.Frame] = []
    while data:
        space = reader.space()
        take = min(piece, len(data), len(space))
        space[:take] = data[:take]
        found += reader.received(take)
        data = data[take:]
    return found


def assert_same(left: frames.Batch, right: frames.Batch) -> None:
    """Compares what was sent with what came."""
    assert list(left) == list(right)
    for name, array in left.items():
        assert right[name].shape == array.shape
        assert right[name].dtype == (object if array.dtype.kind == "U" else array.dtype)
        assert right[name].tolist() == array.tolist()
        assert right[name].flags.writeable


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 20])
def test_a_batch_arrives_as_it_was_sent(batch: frames.Batch, piece: int) -> None:
    """Dtypes, shapes, strings and empty columns survive, however the bytes are cut."""
    data = b"".join(sent(frames.encode_batch(frames.PREDICT, i, batch)) for i in range(3))
    if piece == 1:
        data = data[: 20_000 if len(data) < 20_000 else 0]
    found = fed(frames.FrameReader(), data, piece)
    for i, frame in enumerate(found):
        assert (frame.kind, frame.request_id) == (frames.PREDICT, i)
        assert_same(batch, frames.decode_batch(frame))
    assert len(found) == (3 if data else 0)


def test_a_large_batch_goes_through_a_sealed_memory_file() -> None:
    """Above the bound the tensors are in the file, which nobody can change any more."""
    batch: frames.Batch = {"x": np.arange(100_000.0), "s": np.full(9, "é", dtype=object)}
    outgoing = frames.encode_batch(frames.ANSWER, 9, batch)
    assert outgoing.memory_file is not None
    assert len(sent(outgoing)) < 200
    with pytest.raises(PermissionError):
        os.ftruncate(outgoing.memory_file, 1)
    reader = frames.FrameReader()
    data = sent(outgoing)
    reader.space()[: len(data)] = data
    (frame,) = reader.received(len(data), [outgoing.memory_file])
    assert_same(batch, frames.decode_batch(frame))


def test_an_unsealed_memory_file_is_refused() -> None:
    """A file that its writer could cut short is never mapped."""
    file = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(file, b"x" * 4096)
    with pytest.raises(ValueError, match="not sealed"):
        memory.mapped(file, 1 << 20)
    with pytest.raises(OSError):
        os.fstat(file)


def test_files_of_frames_that_never_came_are_closed() -> None:
    """Closing a reader closes what it was given."""
    near, far = os.pipe()
    reader = frames.FrameReader()
    reader.received(0, [near])
    reader.close()
    with pytest.raises(OSError):
        os.fstat(near)
    os.close(far)


@given(data=st.binary(max_size=400), piece=st.integers(1, 50))
def test_junk_is_refused_and_never_anything_else(data: bytes, piece: int) -> None:
    """Bytes that are no frames raise ProtocolError or wait for more; nothing else happens."""
    reader = frames.FrameReader(max_body_bytes=1 << 16)
    with contextlib.suppress(frames.ProtocolError):
        for frame in fed(reader, data, piece):
            frames.decode_batch(frame)


@given(
    columns=st.lists(
        st.tuples(
            st.text(max_size=3),
            st.sampled_from(["<f4", "str", "|O", "<U4", "nonsense", "|b1"]),
            st.lists(st.integers(-2, 9), max_size=3),
            st.integers(-9, 99),
        ),
        max_size=4,
    ),
    payload=st.binary(max_size=96),
)
def test_a_lying_description_is_refused(
    columns: list[tuple[str, str, list[int], int]], payload: bytes
) -> None:
    """A description that does not fit its bytes raises ProtocolError, never reads beyond them."""
    frame = frames.Frame(frames.ANSWER, 1, msgspec.msgpack.encode(columns), bytearray(payload), 0)
    with contextlib.suppress(frames.ProtocolError):
        frames.decode_batch(frame)


def test_objects_cannot_be_sent() -> None:
    """Only numbers and strings cross; anything else is the sender's TypeError."""
    with pytest.raises(TypeError):
        frames.encode_batch(1, 1, {"x": np.array([object()], dtype=object)})
    with pytest.raises(TypeError, match="column 'x'"):
        frames.encode_batch(1, 1, {"x": np.array([b"bytes"])})


def test_an_error_keeps_its_class_and_remedy() -> None:
    """A failure's words are carried apart, so that the other side can raise its like."""
    error = ValueError("it broke")
    (frame,) = fed(frames.FrameReader(), sent(frames.encode_failure(5, error)), 1000)
    assert frame.request_id == 5
    assert frames.decode_failure(frame) == frames.Failure(kind="ValueError", what="it broke")
