"""Models tried in another process, by the interpreter that will serve them; nothing is loaded here.

What that process is asked, and how it answers, is ``tidemill_worker.trial``'s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from tidemill.foundation.environment import child_environment
from tidemill.foundation.errors import ModelFailed
from tidemill.models.format import Latency
from tidemill.models.runtimes.portable import refusal
from tidemill.models.signature import Batch

THIS_PYTHON = Path(sys.executable)
"""The interpreter that runs Tidemill, for models that run among Tidemill's own libraries."""

_WITHIN_S = 180.0
_MAX_SAID_BYTES = 1 << 20


def try_in(python: Path, verb: str, *arguments: str, rows: Batch | None = None) -> dict[str, Any]:
    """Runs ``tidemill_worker.trial`` with an interpreter and returns what it found.

    Args:
        python: the interpreter of the model's environment.
        verb: what to do.
        arguments: of the verb.
        rows: its last argument, if it takes rows.

    Raises:
        TidemillError: what the model or its function came to there.
        ModelFailed: the process ended, or did not end in time.
    """
    if rows is None:
        return _said(python, verb, *arguments)
    with TemporaryDirectory(prefix="tidemill-trial-") as folder:
        stored = Path(folder) / "rows.npz"
        _store(rows, stored)
        return _said(python, verb, *arguments, str(stored))


def measure_in(python: Path, folder: Path, rows: Batch | None) -> Latency:
    """Has a model folder opened and asked, and returns what a call takes there.

    Args:
        python: the interpreter of the model's environment.
        folder: the model's.
        rows: rows that it must answer; one made-up row if None.

    Raises:
        TidemillError: it does not answer.
    """
    return msgspec.convert(try_in(python, "measure", str(folder), rows=rows), Latency)


def try_apart(folder: Path) -> None:
    """Has a process of its own open a model folder with ``open_runtime``, and ask it a row.

    Raises:
        TidemillError: what the model came to there.
        ModelFailed: the process ended, or did not end in time.
    """
    _said(THIS_PYTHON, "ask", "tidemill.models.runtime:open_runtime", str(folder))


def _store(rows: Batch, path: Path) -> None:
    plain = {
        name: array.astype("U") if array.dtype.kind == "O" else array
        for name, array in rows.items()
    }
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **plain)


def _said(python: Path, *arguments: str) -> dict[str, Any]:
    alone = "-P" if python == THIS_PYTHON else "-I"
    command = [str(python), alone, "-m", "tidemill_worker.trial", str(os.getpid()), *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - our own words, no shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**child_environment(), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            timeout=_WITHIN_S,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelFailed(f"the model did not answer within {_WITHIN_S:.0f} s") from error
    try:
        said: dict[str, Any] = json.loads(done.stdout[:_MAX_SAID_BYTES])
    except ValueError:
        words = done.stderr[-1000:].decode("utf-8", "replace").strip()
        raise ModelFailed(f"the model's process ended with {done.returncode}: {words}") from None
    if "error" in said:
        raise refusal(**said["error"])
    return said
