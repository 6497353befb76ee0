"""Hears what a child process says on its standard error, line by line, without ever waiting."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

Heard = Callable[[str], None]
"""Told each line, without its end, on the event loop's thread."""

_AT_ONCE = 64 << 10
_LINE_BYTES = 8 << 10
_TURNS_AT_END = 64


class Hearing:
    """The reading end of a pipe whose other end is a child's standard error.

    Args:
        heard: told each line; what is too long is cut into several.
    """

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._rest = b""
        self._reading: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> int:
        """Returns the end that the child writes to; close it here once the child has it."""
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reading, self._readable)
        return writing

    def close(self) -> None:
        """Takes what is there still, and hears no more; for when the child has ended."""
        for _ in range(_TURNS_AT_END):
            if not self._readable():
                break
        self._stop()

    def _readable(self) -> bool:
        """Takes what can be read at once; says whether there may be more."""
        if self._reading is None:
            return False
        try:
            data = os.read(self._reading, _AT_ONCE)
        except BlockingIOError:
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE_BYTES or not data:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            if line:
                self._heard(line[:_LINE_BYTES].decode(errors="backslashreplace"))
        if not data:
            self._stop()
        return bool(data)

    def _stop(self) -> None:
        if self._reading is None or self._loop is None:
            return
        self._loop.remove_reader(self._reading)
        os.close(self._reading)
        self._reading = None
