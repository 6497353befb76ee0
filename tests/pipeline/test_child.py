from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tidemill.foundation.errors import DeadlineExceeded, InvalidInput, NotFound, StepFailed
from tidemill.pipeline import Handle, Output, Pipeline, Step

if TYPE_CHECKING:
    from conftest import Place

FACTOR = 3


class Report(msgspec.Struct, frozen=True):
    pid: int
    value: float


class TwoArgumentsError(Exception):
    """Cannot be pickled and read back."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def work(n: int, out: Path) -> Report:
    (out / "pid").write_text(str(os.getpid()))
    return Report(pid=os.getpid(), value=float(n * FACTOR))


def look(report: Report, folder: Path, settings: dict[str, int]) -> str:
    return f"{report.value} {(folder / 'pid').read_text() == str(report.pid)} {settings['a']}"


def sleeps(seconds: float, note: str) -> int:
    child = subprocess.Popen(["sleep", "60"])
    Path(note).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(seconds)
    return 1


def dies(name: str) -> int:
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(10)
    return 1


def leaves_hard(code: int) -> int:
    os._exit(code)


def raises(kind: str) -> int:
    if kind == "ours":
        raise NotFound("model 'x' does not exist", remedy="Look.")
    if kind == "odd":
        raise TwoArgumentsError("a", "b")
    return {}[kind]


def lies() -> int:
    return "no"  # type: ignore[return-value]


def big(megabytes: int) -> bytes:
    return b"x" * (megabytes << 20)


def dies_twice(counter: str) -> int:
    with Path(counter).open("a") as file:
        file.write("x")
    if len(Path(counter).read_text()) < 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return 7


def orphan(note: str) -> int:
    Path(note).write_text(str(os.getpid()))
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
    return 1


def gone(pid: int) -> bool:
    """Waits for the end of a process."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def one(function: Any, timeout_s: float = 30, **inputs: Any) -> Pipeline:
    return Pipeline("p", [Step("a", function, inputs, timeout_s=timeout_s)])


def test_a_step_with_a_timeout_runs_in_a_process_of_its_own(place: Place) -> None:
    """Values, files and handles go there and come back as they do in a thread."""
    result = place.run(
        Pipeline(
            "p",
            [
                Step("work", work, {"n": 2}, timeout_s=30),
                Step(
                    "look",
                    look,
                    {
                        "report": Output("work"),
                        "folder": Output("work"),
                        "settings": Handle({"a": 1}),
                    },
                    timeout_s=30,
                ),
            ],
        )
    )
    result.raise_if_failed()
    assert result.value("look") == "6.0 True 1"
    assert result.value("work").pid != os.getpid()


def test_a_step_that_overruns_is_killed_with_all_it_started(place: Place) -> None:
    """Nothing of it lives on, and the error says how long it had."""
    note = place.path / "pids"
    result, events = place.events(one(sleeps, timeout_s=0.5, seconds=60.0, note=str(note)))
    assert isinstance(result.errors["a"], DeadlineExceeded)
    assert "step 'a' took longer than 0.5 s" in str(result.errors["a"])
    assert [e.kind for e in events] == ["started", "timed_out"]
    assert result.steps["a"].duration_s < 20
    assert all(gone(int(pid)) for pid in note.read_text().split())


def test_what_a_step_leaves_behind_ends_with_it(place: Place) -> None:
    """A step that returns takes along what it started."""
    note = place.path / "pids"
    assert place.run(one(sleeps, seconds=0.0, note=str(note))).value("a") == 1
    assert all(gone(int(pid)) for pid in note.read_text().split())


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_a_death_by_signal_is_named(place: Place, name: str) -> None:
    """A crash in native code or an out-of-memory kill is a failed step with its signal."""
    result = place.run(one(dies, name=name))
    assert isinstance(result.errors["a"], StepFailed)
    assert f"step 'a' lost its process to {name}" in str(result.errors["a"])


def test_the_loss_of_the_forkserver_is_survived(place: Place) -> None:
    """A step whose starter died fails and ends; the next one gets a new starter."""
    note = place.path / "pid"
    assert "step 'a'" in str(place.run(one(orphan, note=str(note))).errors["a"])
    assert gone(int(note.read_text()))
    assert place.run(one(big, megabytes=0)).value("a") == b""


def test_an_early_exit_is_named(place: Place) -> None:
    """A process that ends without an answer is a failed step with its exit code."""
    assert "exit code 3" in str(place.run(one(leaves_hard, code=3)).errors["a"])


def test_a_crash_can_be_retried(place: Place) -> None:
    """A step that died is tried again like one that raised."""
    inputs = {"counter": str(place.path / "n")}
    step = Step("a", dies_twice, inputs, timeout_s=30, retries=2, retry_delay_s=0)
    result = place.run(Pipeline("p", [step]))
    assert (result.value("a"), result.steps["a"].attempt) == (7, 3)


def test_errors_come_back_whole(place: Place) -> None:
    """Our errors stay themselves; others are the cause, with the child's traceback."""
    ours = place.run(one(raises, kind="ours")).errors["a"]
    assert type(ours) is NotFound
    assert ours.remedy == "Look."
    assert "in raises" in "".join(ours.__notes__)
    assert isinstance(place.run(one(raises, kind="k")).errors["a"].__cause__, KeyError)
    assert "TwoArgumentsError: ab" in str(place.run(one(raises, kind="odd")).errors["a"])
    assert isinstance(place.run(one(lies)).errors["a"], InvalidInput)


def test_large_values_come_back(place: Place) -> None:
    """An answer larger than a pipe's buffer is read to its end."""
    assert len(place.run(one(big, megabytes=8)).value("a")) == 8 << 20


def test_what_another_process_cannot_find_is_refused_first(place: Place) -> None:
    """Functions made at run time cannot run elsewhere; said before anything runs."""

    def inner() -> int:
        return 1

    anonymous = lambda: 1  # noqa: E731
    anonymous.__annotations__["return"] = int
    for function in (inner, anonymous):
        with pytest.raises(InvalidInput, match="cannot be found"):
            place.run(one(function))
    result = place.run(one(sleeps, seconds=0.0, note=Handle(threading.Lock())))
    assert "one of its handles cannot be sent" in str(result.errors["a"])


SCRIPT = """
import os, sys, time
from pathlib import Path
from tidemill.foundation.files import open_files
from tidemill.foundation.store import Store
from tidemill.pipeline import Pipeline, Step
from tidemill.pipeline.runner import run

def step(n: int) -> int:
    print("said", n)
    Path("pid").write_text(str(os.getpid()))
    time.sleep(n)
    return n

def main(n):
    pipeline = Pipeline("p", [Step("a", step, {"n": n}, timeout_s=50)])
    files = open_files("files", Path("cache"))
    with Store("sqlite:///store.db") as store:
        result = run(pipeline, store=store, files=files, work=Path("work"))
    result.raise_if_failed()
    print("value", result.value("a"))
"""
GUARD = "if __name__ == '__main__':\n    main(int(sys.argv[1]))\n"


# Where a shell runs the tests in the background, Ctrl-C is ignored, and that is inherited.
HEEDS = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"


def script(folder: Path, text: str, *arguments: str) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(HEEDS + text)
    return subprocess.Popen(
        [sys.executable, "script.py", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def started(folder: Path) -> int:
    """Waits for the script's child, and returns its id."""
    for _ in range(1500):
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int((folder / "pid").read_text())
        time.sleep(0.01)
    raise AssertionError("the step did not start")


def test_a_scripts_own_function_works_and_prints_to_stderr(tmp_path: Path) -> None:
    """A function in ``__main__`` runs in a child; what it prints is a log, not the output."""
    out, err = script(tmp_path, SCRIPT + GUARD, "0").communicate(timeout=60)
    assert (out, "said 0" in err) == ("value 0\n", True)


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    """The classic mistake ends with the remedy, not in a storm of processes."""
    process = script(tmp_path, SCRIPT + "main(0)\n")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Start it under `if __name__ == '__main__':`" in err


def test_an_interactive_function_is_refused(tmp_path: Path) -> None:
    """A function without a file cannot run in another process, which is said."""
    code = SCRIPT + "main(0)\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "the module '__main__' of its function has no file" in done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_children_end_with_the_run(tmp_path: Path, name: str) -> None:
    """Ctrl-C and even kill -9 leave no step behind."""
    process = script(tmp_path, SCRIPT + GUARD, "60")
    child = started(tmp_path)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=30)
    assert gone(child)
    assert process.returncode != 0
    if name == "SIGINT":
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert not list((tmp_path / "work").glob("*/"))
