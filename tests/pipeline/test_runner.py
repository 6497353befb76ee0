from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from tidemill.foundation.errors import Conflict, InvalidInput, NotFound, Refused, StepFailed
from tidemill.foundation.store import Store
from tidemill.pipeline import Handle, Output, Pipeline, SourceFile, Step
from tidemill.pipeline.runner import run

if TYPE_CHECKING:
    from conftest import Place


class Report(msgspec.Struct, frozen=True):
    loss: float
    note: str = ""


class Calls(list[str]):
    """What was called, in order; given to steps as a handle."""


def add(n: int, more: int, calls: Calls) -> int:
    calls.append(f"add {n} {more}")
    return n + more


def report(n: int, calls: Calls) -> Report:
    calls.append("report")
    return Report(loss=n / 2, note="fine")


def write(n: int, out: Path, calls: Calls) -> int:
    calls.append("write")
    (out / "data").mkdir()
    (out / "data" / "n.txt").write_text(str(n))
    (out / "const.txt").write_text("always the same")
    return n


def read(path: Path, calls: Calls) -> str:
    calls.append("read")
    return path.read_text()


def names(folder: Path, calls: Calls) -> list[str]:
    calls.append("names")
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def spoil(folder: Path) -> None:
    (folder / "const.txt").chmod(0o600)
    (folder / "const.txt").write_text("spoiled")


def total(numbers: list[int], calls: Calls) -> int:
    calls.append("total")
    return sum(numbers)


def grow(numbers: list[int], calls: Calls) -> int:
    numbers.append(99)
    return len(numbers)


def flaky(calls: Calls, kind: str) -> int:
    calls.append("try")
    if len(calls) < 3:
        raise {"os": OSError, "invalid": InvalidInput, "refused": Refused}[kind]("not now")
    return len(calls)


def lies(calls: Calls) -> int:
    return "seven"  # type: ignore[return-value]


def returns_something() -> None:
    return 5  # type: ignore[return-value]


def leaves(code: int) -> int:
    raise SystemExit(code)


def meets(barrier: threading.Barrier) -> bool:
    barrier.wait(10)
    return True


def links(out: Path) -> None:
    (out / "link").symlink_to("/etc/passwd")


def rewrites(path: Path) -> str:
    text = path.read_text()
    time.sleep(0.01)
    path.write_text(text + "!")
    return text


def five(calls: Calls, n: int = 1) -> Pipeline:
    live = {"calls": Handle(calls)}
    return Pipeline(
        "five",
        [
            Step("add", add, {"n": n, "more": 1, **live}),
            Step("write", write, {"n": Output("add"), **live}),
            Step("names", names, {"folder": Output("write"), **live}),
            Step("read", read, {"path": Output("write", "const.txt"), **live}),
            Step("report", report, {"n": Output("write"), **live}),
        ],
    )


def test_values_and_files_flow_between_steps(place: Place) -> None:
    """Steps get the values and the files of others; the result has all of them."""
    calls = Calls()
    result = place.run(five(calls))
    result.raise_if_failed()
    assert result.status == "finished"
    assert result.value("report") == Report(loss=1.0, note="fine")
    assert result.value("names") == ["const.txt", "data/n.txt"]
    assert result.value("read") == "always the same"
    folder = result.open("write", place.path / "copy")
    assert (folder / "data" / "n.txt").read_text() == "2"
    assert next(iter(result.steps)) == "add"
    assert not any((place.path / "work").glob("*/*"))


def test_what_was_done_is_not_done_again(place: Place) -> None:
    """The same code, parameters and inputs: nothing runs, and the results are the same."""
    calls = Calls()
    first, again = place.run(five(calls)), place.run(five(calls))
    assert len(calls) == 5
    assert {one.status for one in again.steps.values()} == {"reused"}
    assert [again.artifact(n) for n in again.steps] == [first.artifact(n) for n in first.steps]


def test_only_what_depends_on_a_change_runs_again(place: Place) -> None:
    """A change runs what takes it; what takes an unchanged part of it stays."""
    calls = Calls()
    place.run(five(calls))
    calls.clear()
    result = place.run(five(calls, n=2))
    assert sorted(calls) == ["add 2 1", "names", "report", "write"]
    assert result.steps["read"].status == "reused"


def test_an_unchanged_result_stops_the_change(place: Place) -> None:
    """A step that runs again but gives the same leaves all after it in peace."""
    calls = Calls()
    live = {"calls": Handle(calls)}

    def pipeline(n: int, more: int) -> Pipeline:
        second = {"numbers": [Output("add"), Output("add")], **live}
        first = Step("add", add, {"n": n, "more": more, **live})
        return Pipeline("p", [first, Step("total", total, second)])

    assert place.run(pipeline(1, 2)).value("total") == 6
    assert place.run(pipeline(2, 1)).steps["total"].status == "reused"
    assert calls == ["add 1 2", "total", "add 2 1"]


def test_a_source_counts_by_name_and_content(place: Place) -> None:
    """A file from outside that moved is the same, one that changed is another."""
    calls = Calls()

    def pipeline(path: Path) -> Pipeline:
        return Pipeline("p", [Step("r", read, {"path": SourceFile(path), "calls": Handle(calls)})])

    for folder, text, status in (
        ("a", "one", "finished"),
        ("b", "one", "reused"),
        ("b", "two", "finished"),
    ):
        path = place.path / folder / "x.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        result = place.run(pipeline(path))
        assert (result.steps["r"].status, result.value("r")) == (status, text)


def test_a_source_that_is_gone_fails_its_step(place: Place) -> None:
    """A missing file is told by its path."""
    step = Step("r", read, {"path": SourceFile(Path("/nowhere/x")), "calls": Handle(Calls())})
    result = place.run(Pipeline("p", [step]))
    assert isinstance(result.errors["r"], NotFound)
    assert "/nowhere/x" in str(result.errors["r"])


def test_a_source_written_while_it_is_read_is_no_result(place: Place) -> None:
    """What was read from a moving file is not kept."""
    path = place.path / "x"
    path.write_text("a")
    result = place.run(Pipeline("p", [Step("r", rewrites, {"path": SourceFile(path)})]))
    assert "changed while step 'r' read it" in str(result.errors["r"])


def test_a_step_may_always_run(place: Place) -> None:
    """``cache=False`` runs each time, but once in a run that is gone on with."""
    calls = Calls()
    inputs = {"n": 1, "more": 1, "calls": Handle(calls)}
    pipeline = Pipeline("p", [Step("a", add, inputs, cache=False)])
    place.run(pipeline, run_id="one")
    place.run(pipeline, run_id="two")
    place.run(pipeline, run_id="two")
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_artifact_is_found_and_made_again(place: Place, damage: str) -> None:
    """Stored bytes are checked before they are taken; their step mends them, and no other runs."""
    calls = Calls()
    first = place.run(five(calls))
    calls.clear()
    stored = first.artifact("write").files["data/n.txt"]
    path = place.files.fetch(stored.key)
    path.chmod(0o600)
    match damage:
        case "flip":
            path.write_bytes(b"7")
        case "cut":
            path.write_bytes(b"")
        case _:
            path.unlink()
    again = place.run(five(calls))
    assert calls == ["write"]
    assert again.status == "finished"
    assert place.files.get_bytes(stored.key) == b"2"
    assert {one.status for one in place.run(five(calls)).steps.values()} == {"reused"}


def test_a_step_that_spoils_its_input_is_found_out(place: Place) -> None:
    """Files of others are not to be written; who does it anyway does not poison who comes after."""
    calls = Calls()
    live = {"calls": Handle(calls)}
    pipeline = Pipeline(
        "p",
        [
            Step("write", write, {"n": 1, **live}),
            Step("spoil", spoil, {"folder": Output("write")}),
            Step("read", read, {"path": Output("write", "const.txt"), **live}),
        ],
    )
    result = place.run(pipeline, parallel=1)
    assert result.status == "finished" or "not what was stored" in str(result.errors["read"])
    assert place.run(pipeline, parallel=1).value("read") == "always the same"


def test_steps_cannot_change_each_others_values(place: Place) -> None:
    """Each step has its own copy of a value."""
    numbers = [1, 2]
    calls = Handle(Calls())
    steps = [Step(n, grow, {"numbers": numbers, "calls": calls}) for n in ("a", "b")]
    result = place.run(Pipeline("p", steps))
    assert (result.value("a"), result.value("b"), numbers) == (3, 3, [1, 2])


def test_ready_steps_run_side_by_side(place: Place) -> None:
    """Steps that wait for nothing run at once, as many as allowed."""
    barrier = Handle(threading.Barrier(3))
    steps = [Step(f"s{i}", meets, {"barrier": barrier}, cache=False) for i in range(3)]
    assert place.run(Pipeline("p", steps), parallel=3).status == "finished"


def test_a_failure_takes_down_only_what_needs_it(place: Place) -> None:
    """Others finish; the error says which step, and the cause is chained."""
    calls = Calls()
    live = {"calls": Handle(calls)}
    pipeline = Pipeline(
        "p",
        [
            Step("bad", flaky, {"kind": "os", **live}),
            Step("after", add, {"n": Output("bad"), "more": 1, **live}),
            Step("last", add, {"n": Output("after"), "more": 1, **live}),
            Step("free", add, {"n": 5, "more": 5, **live}),
        ],
    )
    result, events = place.events(pipeline, parallel=1)
    assert result.status == "failed"
    assert {n: one.status for n, one in result.steps.items()} == {
        "bad": "failed",
        "after": "skipped",
        "last": "skipped",
        "free": "finished",
    }
    with pytest.raises(StepFailed, match="step 'bad' failed: OSError: not now") as caught:
        result.raise_if_failed()
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(NotFound, match="skipped"):
        result.value("last")
    assert [(e.step, e.kind) for e in events if e.kind == "skipped"] == [
        ("after", "skipped"),
        ("last", "skipped"),
    ]


def test_retries_mend_what_another_try_may_mend(place: Place) -> None:
    """A step is tried again after its delay, and the events tell."""
    calls = Calls()
    step = Step("f", flaky, {"kind": "os", "calls": Handle(calls)}, retries=2, retry_delay_s=0.01)
    result, events = place.events(Pipeline("p", [step]))
    assert (result.value("f"), result.steps["f"].attempt) == (3, 3)
    assert [e.kind for e in events] == ["started", "retrying", "retrying", "finished"]
    assert events[1].message == "OSError: not now"


@pytest.mark.parametrize("kind", ["invalid", "refused"])
def test_what_is_invalid_or_refused_is_not_tried_again(place: Place, kind: str) -> None:
    """Another try would not help there."""
    calls = Calls()
    step = Step("f", flaky, {"kind": kind, "calls": Handle(calls)}, retries=5, retry_delay_s=0)
    result = place.run(Pipeline("p", [step]))
    assert (result.status, len(calls)) == ("failed", 1)


def test_a_value_that_breaks_its_promise_fails_the_step(place: Place) -> None:
    """The return annotation is held."""
    lying = Step("a", lies, {"calls": Handle(Calls())})
    result = place.run(Pipeline("p", [lying, Step("b", returns_something)]))
    assert isinstance(result.errors["a"], InvalidInput)
    assert "what step 'a' returned does not match its annotation int" in str(result.errors["a"])
    assert "annotation None" in str(result.errors["b"])


def test_a_step_that_leaves_is_a_failed_step(place: Place) -> None:
    """sys.exit in a step ends the step, not the run."""
    result = place.run(Pipeline("p", [Step("a", leaves, {"code": 3})]))
    assert "SystemExit: 3" in str(result.errors["a"])


def test_links_are_not_files(place: Place) -> None:
    """A link written by a step could point anywhere, and is refused."""
    result = place.run(Pipeline("p", [Step("a", links)]))
    assert "not a plain file" in str(result.errors["a"])


def test_a_run_id_belongs_to_one_pipeline(place: Place) -> None:
    """A run cannot be gone on with by another pipeline."""
    calls = Handle(Calls())
    steps = [Step("a", add, {"n": 1, "more": 1, "calls": calls})]
    place.run(Pipeline("one", steps), run_id="r")
    with pytest.raises(Conflict, match="run 'r' is of pipeline 'one'"):
        place.run(Pipeline("two", steps), run_id="r")


def test_it_works_in_memory(place: Place) -> None:
    """An in-memory store, with its one connection, serves all threads."""
    with Store("sqlite://") as store:
        work = place.path / "work"
        result = run(five(Calls()), store=store, files=place.files, work=work, parallel=4)
        assert result.status == "finished"


def test_three_trivial_steps_cost_little(place: Place) -> None:
    """The runner's own cost for three steps is at most 0.05 s."""
    calls = Handle(Calls())

    def pipeline(n: int) -> Pipeline:
        last: object = n
        steps = []
        for name in ("a", "b", "c"):
            steps.append(Step(name, add, {"n": last, "more": 1, "calls": calls}))
            last = Output(name)
        return Pipeline("p", steps)

    place.run(pipeline(0))
    took = []
    for n in range(1, 8):
        begun = time.process_time()  # of all threads; the wall clock also counts who else is busy
        assert place.run(pipeline(n)).value("c") == n + 3
        took.append(time.process_time() - begun)
    assert min(took) <= 0.05, took
