"""A worker process answers batches, survives bad ones and dies when it should."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from tidemill_worker import frames, sockets

MODEL = """
import os, time
from types import SimpleNamespace
import numpy as np

class Strange(Exception):
    what, remedy = "a strange thing", "Look away."

class Runtime:
    signature = SimpleNamespace(inputs=[SimpleNamespace(name="x", type="float64", shape=())])
    def predict(self, batch):
        x = batch["x"]
        print("predicting", len(x))
        if len(x) and x[0] == -1: raise Strange
        if len(x) and x[0] == -2: return {"y": np.array([object()], dtype=object)}
        if len(x) and x[0] == -3:
            while True: pass
        x += 1
        return {"y": x, "threads": np.full(len(x), os.environ["OMP_NUM_THREADS"], dtype=object)}
    def close(self): pass

def open_model(folder, *, trust_code, threads, device):
    if not trust_code: raise ValueError("not trusted")
    return Runtime()
"""

Start = Callable[..., tuple["subprocess.Popen[bytes]", Path]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers of the model above; ends them after the test."""
    (tmp_path / "some_model.py").write_text(MODEL)
    processes: list[subprocess.Popen[bytes]] = []

    def _start(*extra: str, folder: Path = tmp_path) -> tuple[subprocess.Popen[bytes], Path]:
        path = folder / f"{len(processes)}.sock"
        command = [sys.executable, "-m", "tidemill_worker", "--socket", str(path), *extra]
        command += ["--loader", "some_model:open_model", "--folder", str(tmp_path)]
        process = subprocess.Popen(
            [*command, "--threads", "3"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        processes.append(process)
        return process, path

    yield _start
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def said(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Returns the worker's one line."""
    assert process.stdout
    words: dict[str, Any] = json.loads(process.stdout.readline())
    return words


class Caller:
    """A plain blocking client of a worker."""

    def __init__(self, path: Path) -> None:
        self.socket = sockets.connect(path, timeout_s=5)
        self.socket.settimeout(10)
        self.reader = frames.FrameReader()
        self.greeting = frames.decode_greeting(self.receive())

    def receive(self) -> frames.Frame:
        while True:
            found = sockets.receive(self.socket, self.reader)
            assert found is not None, "the worker closed the connection"
            if found:
                return found[0]

    def ask(self, x: np.ndarray[Any, Any], request_id: int = 1) -> frames.Frame:
        batch = {"x": x}
        assert sockets.Output(self.socket).send(frames.encode_batch(1, request_id, batch))
        return self.receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_answers_several_connections(start: Start) -> None:
    """Each gateway gets its own answers; the model sees the thread bound; prints do no harm."""
    process, path = start("--trust-code")
    assert said(process) == {"ready": True, "pid": process.pid}
    assert path.stat().st_mode & 0o777 == 0o600
    with Caller(path) as one, Caller(path) as two:
        assert one.greeting.pid == process.pid
        for caller in (one, two, one):
            frame = caller.ask(np.array([1.0, 2.0]), request_id=77)
            answers = frames.decode_batch(frame)
            assert frame.request_id == 77
            assert answers["y"].tolist() == [2.0, 3.0]
            assert answers["threads"].tolist() == ["3", "3"]


def test_large_batches_pass_both_ways(start: Start) -> None:
    """A batch above the bound goes and comes by memory file."""
    process, path = start("--trust-code")
    said(process)
    with Caller(path) as caller:
        for size in (40_000, 3, 400_000):
            frame = caller.ask(np.arange(float(size)))
            assert np.array_equal(frames.decode_batch(frame)["y"], np.arange(float(size)) + 1)


def test_bad_batches_are_errors_and_nothing_more(start: Start) -> None:
    """An exception, an unsendable answer and a wrong batch get error frames; the next is served."""
    process, path = start("--trust-code")
    said(process)
    with Caller(path) as caller:
        failure = frames.decode_failure(caller.ask(np.array([-1.0])))
        assert failure == frames.Failure(
            kind="Strange", what="a strange thing", remedy="Look away."
        )
        assert frames.decode_failure(caller.ask(np.array([-2.0]))).kind == "TypeError"
        assert frames.decode_failure(caller.ask(np.array(["a"]))).kind
        assert frames.decode_batch(caller.ask(np.array([1.0])))["y"].tolist() == [2.0]


def test_junk_costs_only_its_connection(start: Start) -> None:
    """A connection that sends no frames is closed; others go on."""
    process, path = start("--trust-code")
    said(process)
    with Caller(path) as bad, Caller(path) as good:
        bad.socket.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
        with pytest.raises(AssertionError, match="closed"):
            bad.receive()
        assert frames.decode_batch(good.ask(np.array([1.0])))["y"].tolist() == [2.0]


def test_a_batch_that_overruns_ends_the_worker(start: Start) -> None:
    """A model that never comes back is killed, and its caller sees the connection drop."""
    process, path = start("--trust-code", "--overrun-s", "0.2")
    said(process)
    with Caller(path) as caller, pytest.raises(AssertionError, match="closed"):
        caller.ask(np.array([-3.0]))
    assert process.wait(5) == -signal.SIGALRM


def test_a_model_that_cannot_load_is_told(start: Start) -> None:
    """The reason is on standard output, and the exit status is 1."""
    process, _ = start()
    words = said(process)
    assert words["ready"] is False
    assert words["what"] == "ValueError: not trusted"
    assert process.wait(5) == 1


def test_asked_to_stop_it_finishes_its_connections(start: Start) -> None:
    """SIGTERM closes the door; who is inside is served until they leave."""
    process, path = start("--trust-code")
    said(process)
    with Caller(path) as caller:
        process.terminate()
        time.sleep(0.2)
        assert frames.decode_batch(caller.ask(np.array([1.0])))["y"].tolist() == [2.0]
        with pytest.raises(OSError):
            sockets.connect(path, timeout_s=1)
    assert process.wait(5) == 0
    assert not path.exists()


def test_dies_with_its_parent(start: Start, tmp_path: Path) -> None:
    """When the process that started it is killed, the worker is gone at once."""
    script = (
        "import subprocess, sys, os, time\n"
        "p = subprocess.Popen(sys.argv[1:] + ['--parent', str(os.getpid())])\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    path = tmp_path / "child.sock"
    command = [sys.executable, "-m", "tidemill_worker", "--socket", str(path), "--trust-code"]
    command += ["--loader", "some_model:open_model", "--folder", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-c", script, *command],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    ) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert json.loads(parent.stdout.readline())["ready"]
        parent.kill()
        parent.wait()
    until = time.monotonic() + 2
    while _runs(child):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_wrong_parent_is_noticed(start: Start) -> None:
    """A worker whose parent died before it could bind itself to it exits."""
    process, _ = start("--trust-code", "--parent", "1")
    assert process.wait(5) == 1


def test_deep_folders_do_not_matter(start: Start, tmp_path: Path) -> None:
    """A socket's folder may be deeper than the system's addresses are long."""
    deep = tmp_path.joinpath(*["a-long-folder-name"] * 8)
    deep.mkdir(parents=True)
    process, path = start("--trust-code", folder=deep)
    assert said(process)["ready"]
    with Caller(path) as caller:
        assert frames.decode_batch(caller.ask(np.array([1.0])))["y"].tolist() == [2.0]


def test_a_slow_reader_does_not_hold_up_others(start: Start) -> None:
    """Answers that are not taken wait on their own connection only."""
    process, path = start("--trust-code")
    said(process)
    with Caller(path) as slow, Caller(path) as quick:
        slow.socket.setblocking(False)
        output = sockets.Output(slow.socket)
        for i in range(40):
            output.send(frames.encode_batch(1, i, {"x": np.arange(20_000.0)}))
        for _ in range(20):
            assert frames.decode_batch(quick.ask(np.array([1.0])))["y"].tolist() == [2.0]
        assert not output.empty
        found: list[frames.Frame] = []
        while len(found) < 40:
            output.flush()
            with contextlib.suppress(BlockingIOError):
                found += sockets.receive(slow.socket, slow.reader) or ()
        assert [frame.request_id for frame in found] == list(range(40))
        assert len(frames.decode_batch(found[-1])["y"]) == 20_000


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_worker_knows_nothing_of_tidemill() -> None:
    """Importing all of the worker imports nothing of the house, nor any framework."""
    code = (
        "import sys, tidemill_worker.server, tidemill_worker.warmup, tidemill_worker.__main__\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('tidemill', 'sklearn', 'pyarrow')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_connect_to_nobody_is_an_error(tmp_path: Path) -> None:
    """A socket that is not there is an OSError, and leaks nothing."""
    with pytest.raises(OSError):
        sockets.connect(tmp_path / "none.sock", timeout_s=1)
