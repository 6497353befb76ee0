"""The worker's wire: one frame per batch on a Unix stream socket.

A frame is a header, a description of the columns and the tensors' bytes:

    header   body length u32, description length u32, request id u64, kind u8, flags u8, 2 spare,
             microseconds u32 that the model took; 0 where that is not known
    body     description (msgpack), padded to 16 bytes; then each column, padded to 16 bytes

A description lists ``[name, dtype, shape, bytes]`` per column. Numbers travel as they lie in
memory (C order), strings as one msgpack list. With the flag ``IN_MEMORY`` the columns are not in
the body but in a sealed memory file, passed along with the frame's first byte.
"""

from __future__ import annotations

import math
import os
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill_worker import memory

PROTOCOL = 1
"""Grows when the frames change; both ends compare it before the first batch."""

PREDICT, ANSWER, ERROR, HELLO = 1, 2, 3, 4
IN_MEMORY = 1
MAX_BODY_BYTES = 256 << 20
IN_MEMORY_ABOVE_BYTES = 256 << 10
"""Batches larger than this go through a memory file, where the system has them."""

Batch = dict[str, npt.NDArray[Any]]
Buffer = bytes | bytearray | memoryview
_Words = TypeVar("_Words")

_HEADER = struct.Struct("<IIQBB2xI")
_ALIGN = 16
_STRINGS = "str"
_NUMBERS = "biufmM"
_COPY_BELOW_BYTES = 16 << 10
_RECEIVE_BYTES = 64 << 10
_MOST_US = 0xFFFFFFFF

_Columns = list[tuple[str, str, tuple[int, ...], int]]
_encode = msgspec.msgpack.Encoder().encode
_decode_columns = msgspec.msgpack.Decoder(_Columns).decode
_decode_strings = msgspec.msgpack.Decoder(list[str]).decode
_dtypes: dict[str, np.dtype[Any]] = {}


class ProtocolError(Exception):
    """The other end sent something that is not a frame: the connection cannot go on."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a batch has no answers: the exception's class, and what it says."""

    kind: str
    what: str
    remedy: str = ""


class Greeting(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's first words on a connection."""

    protocol: int
    pid: int


class Frame(NamedTuple):
    """One whole frame, as received; ``columns`` starts at byte ``start`` of ``body``."""

    kind: int
    request_id: int
    description: bytes
    columns: Buffer | memory.Mapped
    start: int
    took_us: int = 0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One whole frame to send: its bytes in order, and the memory file that goes with them.

    The file is open until ``Output`` has sent it.
    """

    parts: list[Buffer]
    memory_file: int | None = None


def encode_batch(
    kind: int,
    request_id: int,
    batch: Batch,
    *,
    took_us: int = 0,
    in_memory_above_bytes: int = IN_MEMORY_ABOVE_BYTES,
) -> Outgoing:
    """Makes a frame of arrays (n, …); numbers keep their dtype, everything textual becomes str.

    Raises:
        TypeError: a column is neither numbers nor strings.
        ValueError: the batch is larger than a frame may be.
    """
    columns: _Columns = []
    parts: list[Buffer] = []
    size = 0
    for name, array in batch.items():
        dtype, data = _tensor(name, array)
        length = len(data)
        columns.append((name, dtype, array.shape, length))
        parts.append(data)
        size += length
        if padding := -length % _ALIGN:
            parts.append(bytes(padding))
            size += padding
    if size > MAX_BODY_BYTES:
        raise ValueError(f"a batch of {size} bytes is over the limit of {MAX_BODY_BYTES}")
    description = _encode(columns)
    if size > in_memory_above_bytes and memory.AVAILABLE:
        head = _head(kind, request_id, description, size=0, flags=IN_MEMORY, took_us=took_us)
        return Outgoing([head], memory.share(parts))
    parts.insert(0, _head(kind, request_id, description, size=size, flags=0, took_us=took_us))
    return Outgoing(parts)


def decode_batch(frame: Frame) -> Batch:
    """Returns the frame's arrays; they own or share the received bytes, and may be written to.

    Raises:
        ProtocolError: the description does not fit the bytes.
    """
    batch: Batch = {}
    offset = frame.start
    try:
        for name, dtype, shape, length in _decode_columns(frame.description):
            end = offset + length
            if length < 0 or end > len(frame.columns):
                raise ProtocolError(f"column {name!r} ends at byte {end} of {len(frame.columns)}")
            if dtype == _STRINGS:
                strings = _decode_strings(memoryview(frame.columns)[offset:end])
                batch[name] = _object_array(strings, shape)
            else:
                kind = _dtypes.get(dtype) or _number_type(dtype)
                if math.prod(shape) * kind.itemsize != length:
                    raise ProtocolError(f"column {name!r}: {length} bytes for {shape} of {dtype}")
                array = np.frombuffer(frame.columns, kind, length // kind.itemsize, offset)
                batch[name] = array.reshape(shape)
            offset = end + (-end % _ALIGN)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise ProtocolError(f"a frame cannot be read: {error}") from error
    return batch


def encode_failure(request_id: int, error: BaseException) -> Outgoing:
    """Makes an error frame; an exception that has ``what`` and ``remedy`` keeps them apart."""
    failure = Failure(
        kind=type(error).__name__,
        what=_said(getattr(error, "what", error)),
        remedy=_said(getattr(error, "remedy", "")),
    )
    return Outgoing([_head(ERROR, request_id, _encode(failure), size=0, flags=0)])


def _said(value: object) -> str:
    """Returns what an exception says; it may hold text without UTF-8, or fail to say it."""
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - a model's exceptions may do anything
        text = f"it cannot be shown: {type(error).__name__}"
    return text[:4096].encode(errors="replace").decode()


def decode_failure(frame: Frame) -> Failure:
    """Returns what an error frame says."""
    return _words(frame, Failure)


def encode_greeting() -> Outgoing:
    """Makes the frame that a worker sends first."""
    greeting = _encode(Greeting(protocol=PROTOCOL, pid=os.getpid()))
    return Outgoing([_head(HELLO, 0, greeting, size=0, flags=0)])


def decode_greeting(frame: Frame) -> Greeting:
    """Returns a worker's first words.

    Raises:
        ProtocolError: it said something else, or speaks another version.
    """
    if frame.kind != HELLO:
        raise ProtocolError(f"frame of kind {frame.kind} where a greeting was due")
    greeting = _words(frame, Greeting)
    if greeting.protocol != PROTOCOL:
        raise ProtocolError(f"the worker speaks protocol {greeting.protocol}, not {PROTOCOL}")
    return greeting


class FrameReader:
    """Cuts received bytes into frames; does no input of its own.

    Receive into ``space()``, then tell ``received`` how much came, and with which files.

    Example:
        >>> reader = FrameReader()
        >>> sent = b"".join(encode_batch(PREDICT, 7, {"x": np.arange(3)}).parts)
        >>> reader.space()[: len(sent)] = sent
        >>> [(frame.request_id, decode_batch(frame)) for frame in reader.received(len(sent))]
        [(7, {'x': array([0, 1, 2])})]
    """

    def __init__(self, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_body_bytes = max_body_bytes
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._body: bytearray | None = None  # of the one frame that is only partly here
        self._body_filled = 0
        self._header = (0, 0, 0, 0, 0, 0)
        self._files: deque[int] = deque()

    def space(self) -> memoryview:
        """Returns where the next bytes belong; never empty."""
        if self._body is not None:
            return memoryview(self._body)[self._body_filled :]
        return self._view[self._filled :]

    def received(self, count: int, files: Sequence[int] = ()) -> list[Frame]:
        """Takes ``count`` bytes that were put into ``space()``; returns the frames now whole.

        Raises:
            ProtocolError: the bytes are no frames, or a frame is over the limit.
        """
        self._files.extend(files)
        if self._body is not None:
            self._body_filled += count
            if self._body_filled < len(self._body):
                return []
            body, self._body = self._body, None
            return [self._frame(body)]
        return self._cut(self._filled + count)

    def close(self) -> None:
        """Closes files whose frames never came."""
        while self._files:
            os.close(self._files.popleft())

    def _cut(self, end: int) -> list[Frame]:
        frames: list[Frame] = []
        start = 0
        while end - start >= _HEADER.size:
            self._header = header = _HEADER.unpack_from(self._buffer, start)
            size = self._check(header)
            start += _HEADER.size
            if size > end - start:
                self._body = bytearray(size)
                self._body_filled = end - start
                self._body[: end - start] = self._view[start:end]
                start = end
                break
            frames.append(self._frame(bytearray(self._view[start : start + size])))
            start += size
        self._filled = end - start
        if start and self._filled:
            self._buffer[: self._filled] = self._buffer[start:end]
        return frames

    def _check(self, header: tuple[int, int, int, int, int, int]) -> int:
        size, described, _, kind, flags, _ = header
        if not PREDICT <= kind <= HELLO or flags & ~IN_MEMORY or described > size:
            raise ProtocolError(f"the bytes are no frame: kind {kind}, flags {flags}")
        if size > self._max_body_bytes:
            raise ProtocolError(f"a frame of {size} bytes is over {self._max_body_bytes}")
        return size

    def _frame(self, body: bytearray) -> Frame:
        _, described, request_id, kind, flags, took_us = self._header
        description = bytes(memoryview(body)[:described])
        if flags & IN_MEMORY:
            if not self._files:
                raise ProtocolError("a frame came without its memory file")
            try:
                mapped = memory.mapped(self._files.popleft(), self._max_body_bytes)
            except (OSError, ValueError) as error:
                raise ProtocolError(f"a memory file cannot be used: {error}") from error
            return Frame(kind, request_id, description, mapped, 0, took_us)
        return Frame(kind, request_id, description, body, _aligned(described), took_us)


def _head(
    kind: int, request_id: int, description: bytes, *, size: int, flags: int, took_us: int = 0
) -> bytes:
    described = len(description)
    padded = _aligned(described)
    header = _HEADER.pack(padded + size, described, request_id, kind, flags, min(took_us, _MOST_US))
    return header + description + bytes(padded - described)


def _aligned(size: int) -> int:
    return size + (-size % _ALIGN)


def _tensor(name: str, array: npt.NDArray[Any]) -> tuple[str, Buffer]:
    kind = array.dtype.kind
    if kind in _NUMBERS:
        if array.nbytes <= _COPY_BELOW_BYTES:
            return array.dtype.str, array.tobytes()
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return array.dtype.str, flat.data
    if kind in "OU":
        return _STRINGS, _encode(array.reshape(-1).tolist())
    raise TypeError(f"column {name!r} of dtype {array.dtype} cannot be sent")


def _number_type(text: str) -> np.dtype[Any]:
    dtype = np.dtype(text)
    if dtype.kind not in _NUMBERS:
        raise ProtocolError(f"dtype {text!r} is not of numbers")
    if len(_dtypes) < 64:
        _dtypes[text] = dtype
    return dtype


def _object_array(strings: list[str], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.empty(len(strings), dtype=object)
    array[:] = strings
    return array.reshape(shape)


def _words(frame: Frame, kind: type[_Words]) -> _Words:
    try:
        return msgspec.msgpack.decode(frame.description, type=kind)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"a frame cannot be read: {error}") from error
