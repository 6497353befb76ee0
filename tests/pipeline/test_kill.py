from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from tidemill.foundation.store import Store
from tidemill.pipeline.lineage import STEP_RUN, TABLES, ancestors, list_runs

SCRIPT = """
import json, multiprocessing, os, signal, sys, time
from pathlib import Path
from tidemill.foundation.files import open_files
from tidemill.foundation.store import Store
from tidemill.pipeline import Output, Pipeline, Step
from tidemill.pipeline import runner

# What differs between runs is read at run time: a constant would be a part of the code.
def point():
    return sys.argv[2] if len(sys.argv) > 2 else ""

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def called(name):
    with Path("calls").open("a") as file:
        file.write(name + "\\n")
    time.sleep(0.01)
    if point() == f"in {name}":
        parent = multiprocessing.parent_process()  # of step d, which has a process of its own
        os.kill(parent.pid if parent else os.getpid(), signal.SIGKILL)
        time.sleep(5)

def a(out: Path) -> int:
    called("a")
    for n in range(5):
        (out / f"{n}.txt").write_text(str(n) * 1000)
    return 1

def b(folder: Path) -> int:
    called("b")
    return sum(len(p.read_text()) for p in folder.iterdir())

def c(n: int, out: Path) -> None:
    called("c")
    (out / "c").write_text(str(n))

def d(n: int) -> list[int]:
    called("d")
    return [n] * 3

def e(c: Path, d: list[int]) -> dict[str, object]:
    called("e")
    return {"c": (c / "c").read_text(), "d": d}

def on_event(event):
    if point() == f"after {event.step}" and event.kind == "finished":
        die()

def committing(conn, record, add_step=runner.add_step):
    if point() == f"before {record.step}":
        die()
    add_step(conn, record)
    if point() == f"during {record.step}":
        die()

def storing(files, *, step, put_artifact=runner.put_artifact, **more):
    if point() == f"storing {step}":
        put_bytes, put = files.put_bytes, files.put
        files.put = lambda key, source: (put(key, source), die())
        files.put_bytes = lambda key, data: (put_bytes(key, data), die())
    return put_artifact(files, step=step, **more)

def main():
    runner.add_step = committing
    runner.put_artifact = storing
    steps = [
        Step("a", a),
        Step("b", b, {"folder": Output("a")}),
        Step("c", c, {"n": Output("b")}),
        Step("d", d, {"n": Output("b")}, timeout_s=60),
        Step("e", e, {"c": Output("c"), "d": Output("d")}),
    ]
    with Store("sqlite:///store.db") as store:
        result = runner.run(
            Pipeline("five", steps),
            store=store,
            files=open_files("files", Path("cache")),
            work=Path("work"),
            on_event=on_event,
            run_id=sys.argv[1] or None,
        )
    result.raise_if_failed()
    artifacts = {name: result.artifact(name).id for name in result.steps}
    print(json.dumps([result.value("e"), artifacts]))

# Forks a fresh process for each line: that spares the imports, not the kill.
def serve():
    for line in sys.stdin:
        sys.argv[1:] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            main()
            break
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
"""
POINTS = [
    "in a",
    "storing a",
    "before a",
    "during a",
    "after a",
    "in b",
    "after b",
    "in c",
    "storing c",
    "in d",
    "before d",
    "after d",
    "in e",
    "during e",
    "after e",
]
VALUE = {"c": "5000", "d": [5000, 5000, 5000]}


def launch(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    script = folder / "five.py"
    if not script.exists():  # written anew, it would be empty to one that is just starting
        script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, "five.py", *arguments],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def calls(folder: Path) -> Counter[str]:
    path = folder / "calls"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def committed(folder: Path) -> set[str]:
    with Store(f"sqlite:///{folder}/store.db") as store, store.read(TABLES) as conn:
        query = sa.select(STEP_RUN.c.step).where(STEP_RUN.c.status == "finished")
        return set(conn.execute(query).scalars())


def finish(folder: Path, run_id: str) -> list[object]:
    out, err = launch(folder, run_id).communicate(timeout=60)
    assert out, err
    found: list[object] = json.loads(out)
    return found


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """What a run gives that nobody kills."""
    return finish(tmp_path_factory.mktemp("unharmed"), "calm")


@pytest.mark.parametrize(("run_id", "points"), [("same", POINTS), ("", POINTS[1::3])])
def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, unharmed: list[object], run_id: str, points: list[str]
) -> None:
    """Killed at every point, one after the other, no committed step runs again.

    Neither when the run is gone on with under its own id, nor when a new one is started; and the
    results are those of a run that nobody killed.
    """
    server = launch(tmp_path, "serve")
    assert server.stdin is not None
    assert server.stdout is not None
    for point in points:
        done, before = committed(tmp_path), calls(tmp_path)
        server.stdin.write(json.dumps([run_id, point]) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        assert code == -signal.SIGKILL or point.split()[1] in done, (point, code)
        assert all(calls(tmp_path)[step] == before[step] for step in done), point
    server.communicate(timeout=60)
    done, before = committed(tmp_path), calls(tmp_path)
    assert finish(tmp_path, run_id) == unharmed
    assert unharmed[0] == VALUE
    assert all(calls(tmp_path)[step] == before[step] for step in done)

    with Store(f"sqlite:///{tmp_path}/store.db") as store:
        runs = list_runs(store)
        assert runs[0].status == "finished"
        assert len(runs) == (1 if run_id else len(points) + 1)
        artifacts = unharmed[1]
        assert isinstance(artifacts, dict)
        assert {one.step for one in ancestors(store, artifacts["e"])} == set("abcde")
    assert [path.name for path in (tmp_path / "work").iterdir()] == [".lock"]


def test_kills_at_any_moment_are_harmless(tmp_path: Path, unharmed: list[object]) -> None:
    """Killed from outside at random moments, it still comes to the same end."""
    dice = random.Random(time.time_ns())
    for _ in range(4):
        done, before = committed(tmp_path), calls(tmp_path)
        process = launch(tmp_path, "one")
        time.sleep(dice.uniform(0.1, 0.5))
        process.kill()
        process.communicate(timeout=60)
        assert all(calls(tmp_path)[step] == before[step] for step in done)
    assert finish(tmp_path, "one") == unharmed


def test_two_processes_may_run_the_same_at_once(tmp_path: Path, unharmed: list[object]) -> None:
    """Concurrent runs of one pipeline, under one id or two, come to the same results."""
    processes = [launch(tmp_path, run_id) for run_id in ("one", "two", "two")]
    answers = [process.communicate(timeout=60) for process in processes]
    assert all(out for out, _ in answers), answers  # one that failed says why, and no result
    assert [json.loads(out) for out, _ in answers] == [unharmed] * 3, answers
    assert finish(tmp_path, "three") == unharmed
    assert set(calls(tmp_path).values()) <= {1, 2, 3}
