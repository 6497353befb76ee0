"""A real server, in processes of its own and on a free port, for whoever wants to try things."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tidemill.foundation.errors import NotBlessed, WorkerLost
from tidemill.serving.live import CandidateFile

START_WITHIN_S = 60.0
_STOPS_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateServer:
    """Where it answers, and the id of its first process, which started all others."""

    port: int
    pid: int


@contextmanager
def private_server(document: CandidateFile) -> Iterator[PrivateServer]:
    """Runs a server on these deployments and folders while the block runs.

    It is a server as ``tidemill serve`` starts it, with a ledger of its own, all of which is gone
    afterwards.

    Args:
        document: its whole world.

    Raises:
        NotBlessed: it ends, or is not ready within a minute; its last words are told.
        WorkerLost: somebody killed it.
    """
    with tempfile.TemporaryDirectory(prefix="tidemill-candidate-") as folder:
        path = Path(folder) / "candidate.json"
        path.write_bytes(msgspec.json.encode(document))
        words = Path(folder) / "log"
        command = [sys.executable, "-m", "tidemill.recipes.candidate", str(path)]
        with words.open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                command,
                stdin=subprocess.PIPE,  # never written: its end is ours
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield PrivateServer(port=_await_port(process, words), pid=process.pid)
        finally:
            _stop(process)


def _await_port(process: subprocess.Popen[bytes], words: Path) -> int:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_WITHIN_S)
    line = process.stdout.readline() if ready else b""
    try:
        return int(json.loads(line)["port"])
    except (ValueError, KeyError, TypeError):
        if ready and process.wait(_STOPS_WITHIN_S) < 0:
            raise WorkerLost(
                f"a server on the candidate lost its process to signal {-process.returncode}",
                remedy="See what else the machine runs, and how much memory it has left.",
            ) from None
        lines = words.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = lines[-1][:2000] if lines else "it said nothing"
        raise NotBlessed(
            f"a server on the candidate did not become ready: {said}",
            remedy="Serve the model by hand and read its log.",
        ) from None


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOPS_WITHIN_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
