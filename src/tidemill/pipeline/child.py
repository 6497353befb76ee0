"""Steps in a process of their own, which can be killed: the child's side and the parent's.

The forkserver starts them, which is safe beside threads: it forks from a process that has none.
A child leads its own process group and ends with its parent, however that ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, NoReturn

from tidemill.foundation.errors import DeadlineExceeded, InvalidInput, StepFailed, TidemillError
from tidemill.pipeline.call import call
from tidemill.pipeline.inputs import Argument
from tidemill.pipeline.reference import Reference

_LOADING_LIMIT_S = 120.0  # for the imports of a step's module, which its timeout leaves out
_LEAVING_LIMIT_S = 5.0
_FORKSERVER_LOST = 255  # what multiprocessing says then; the child itself may live on


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call for a child."""

    step: str
    arguments: Mapping[str, Argument]
    out: Path | None


@dataclass(slots=True)
class Children:
    """The children of one run; ``kill`` ends them all, and no new one starts after it.

    Safe to share between threads.
    """

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _alive: set[ForkServerProcess] = field(default_factory=set)
    _closed: bool = False

    def call(self, reference: Reference, request: Request, timeout_s: float) -> bytes | None:
        """Runs the call in a child and returns the encoded value.

        Raises:
            DeadlineExceeded: it took longer, and was killed.
            StepFailed: the child died without an answer.
            InvalidInput: an argument cannot be sent to another process.
            Exception: whatever the function raised, with the child's traceback as a note.
        """
        payload = _pickled(request)
        context = multiprocessing.get_context("forkserver")
        receiver, sender = context.Pipe(duplex=False)
        with receiver:
            with sender:
                process = self._start(context, sender, reference, payload)
            try:
                return _answer(process, receiver, request.step, timeout_s)
            finally:
                self._end(process)

    def kill(self) -> None:
        """Kills every child and its own children."""
        with self._lock:
            self._closed = True
            for process in self._alive:
                _kill(process)

    def _start(
        self,
        context: ForkServerContext,
        sender: Connection,
        reference: Reference,
        payload: bytes,
    ) -> ForkServerProcess:
        with self._lock:
            if self._closed:
                raise StepFailed("the run was stopped")
            process = context.Process(target=child_main, args=(sender, reference, payload))
            process.start()
            self._alive.add(process)
            return process

    def _end(self, process: ForkServerProcess) -> None:
        process.join(_LEAVING_LIMIT_S)
        if process.is_alive():
            _kill(process)
            process.join()
        elif process.exitcode == _FORKSERVER_LOST:
            _kill_group(process)
        with self._lock:
            self._alive.discard(process)
        process.close()


def preload(references: list[Reference]) -> None:
    """Lets the forkserver import the modules once, for all children; before the first child."""
    modules = {one.module for one in references if one.module != "__main__" and one.importable}
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, *sorted(modules)])


def check_not_importing() -> None:
    """Checks that this process is not a child that imports its parent's script.

    Raises:
        InvalidInput: it is; the script starts pipelines when it is imported.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InvalidInput(
            "the script starts a pipeline whenever it is imported, so also in the processes of "
            "its steps",
            remedy="Start it under `if __name__ == '__main__':`.",
        )


def child_main(sender: Connection, reference: Reference, payload: bytes) -> None:
    """Makes the call and sends ``("started", None)``, then its value or its error."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(2, 1)  # what a step prints is a log
    try:
        function = reference.load()
        request: Request = pickle.loads(payload)  # noqa: S301 - from our own parent
        sender.send(("started", None))
        value = call(function, request.arguments, out=request.out, step=request.step)
        answer: tuple[str, Any] = ("value", value)
    except BaseException as error:  # noqa: BLE001 - all of it is the parent's to tell
        answer = ("error", _portable(error))
    sender.send(answer)
    sys.stderr.flush()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # what the step started and left behind


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)


def _portable(error: BaseException) -> tuple[bytes | None, str, str]:
    text = "".join(traceback.format_exception(error))
    try:
        data = pickle.dumps(error)
        pickle.loads(data)  # noqa: S301 - what we just wrote
    except Exception:  # noqa: BLE001 - an exception of any make
        return None, said(error), text
    return data, said(error), text


def said(error: BaseException) -> str:
    """Returns an exception in one line: with its type, unless it is one of ours."""
    if isinstance(error, TidemillError):
        return str(error)
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _pickled(request: Request) -> bytes:
    try:
        return pickle.dumps(request)
    except Exception as error:
        raise InvalidInput(
            f"step {request.step!r} has a timeout, so it runs in a process of its own, but one of "
            f"its handles cannot be sent there: {error}",
            remedy="Give a handle that can be pickled, such as settings, or drop timeout_s.",
        ) from error


def _answer(
    process: ForkServerProcess, receiver: Connection, step: str, timeout_s: float
) -> bytes | None:
    _message(process, receiver, step, _LOADING_LIMIT_S)  # started: its imports are done
    value: bytes | None = _message(process, receiver, step, timeout_s)
    return value


def _message(process: ForkServerProcess, receiver: Connection, step: str, limit_s: float) -> Any:
    """Waits, in real time, for the child's next message, its death or the limit."""
    if not wait([receiver, process.sentinel], limit_s):
        _kill(process)
        raise DeadlineExceeded(
            f"step {step!r} took longer than {limit_s:g} s and was killed",
            remedy="Allow more with timeout_s, or give it less to do.",
        )
    with contextlib.suppress(EOFError):
        if receiver.poll():
            kind, content = receiver.recv()
            if kind == "error":
                _raise(step, *content)
            return content
    process.join(_LEAVING_LIMIT_S)
    raise StepFailed(f"step {step!r} {_death(process.exitcode)}", remedy="See its log.")


def _raise(step: str, data: bytes | None, text: str, trace: str) -> NoReturn:
    error: BaseException
    error = StepFailed(f"step {step!r} failed: {text}") if data is None else pickle.loads(data)  # noqa: S301
    error.add_note(f"In the step's own process:\n{trace}")
    raise error


def _death(code: int | None) -> str:
    if code is None:
        return "closed its connection without an answer"
    if code >= 0:
        return f"ended its process with exit code {code} before it returned"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"lost its process to {name}{hint}"


def _kill(process: ForkServerProcess) -> None:
    """Kills the child with all that it started; before its setsid, it alone."""
    if process.is_alive() and not _kill_group(process):
        process.kill()


def _kill_group(process: ForkServerProcess) -> bool:
    if process.pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
            return True
    return False
