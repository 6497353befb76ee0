from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import NotFound
from tidemill.pipeline import Output, Pipeline, SourceFile, Step
from tidemill.pipeline.explain import Cause, explain
from tidemill.pipeline.lineage import ancestors, get_artifact, list_runs

if TYPE_CHECKING:
    from conftest import Place, Project

STEPS = """
    from pathlib import Path
    from mill.parts import helper

    def load(path: Path, rows: int) -> list[int]:
        return [helper(int(path.read_text()))] * rows

    def train(numbers: list[int], depth: int = 1) -> int:
        return sum(numbers) * depth

    def test(result: int) -> bool:
        if result > 1000:
            raise ValueError("too much")
        return result > 0

    def push(result: bool) -> None:
        pass
"""
PARTS = "def helper(x):\n    return x\n"


def pipeline(
    project: Project, place: Place, rows: int = 2, *, cache: bool = True, **changed: str
) -> Pipeline:
    project.write(**{"mill__steps": STEPS, "mill__parts": PARTS, **changed})
    steps = project.load("mill.steps")
    source = place.path / "source.txt"
    if not source.exists():
        source.write_text("5")
    return Pipeline(
        "mill",
        [
            Step("load", steps.load, {"path": SourceFile(source), "rows": rows}),
            Step("train", steps.train, {"numbers": Output("load")}, cache=cache),
            Step("test", steps.test, {"result": Output("train")}),
            Step("push", steps.push, {"result": Output("test")}),
        ],
    )


def sentences(place: Place, run_id: str) -> list[str]:
    return [one.sentence for one in explain(place.store, run_id)]


def test_each_step_is_explained_in_a_sentence(project: Project, place: Place) -> None:
    """Whatever changed since the last run is named: helper, parameter, source, input, damage."""
    first = place.run(pipeline(project, place), run_id="first")
    assert sentences(place, "first") == ["ran for the first time"] * 4

    place.run(pipeline(project, place), run_id="second")
    reused = "reused from run first (same code, parameters and inputs)"
    assert sentences(place, "second") == [reused] * 4

    place.run(pipeline(project, place, rows=3), run_id="rows")
    found = sentences(place, "rows")
    assert found[:2] == [
        "ran because parameter 'rows' changed from 2 to 3",
        "ran because input 'numbers' from step load changed",
    ]
    assert found[3] == reused  # the test's answer is the same

    helper = "def helper(x):\n    return x + 1\n"
    place.run(pipeline(project, place, rows=3, mill__parts=helper), run_id="helper")
    (cause,) = explain(place.store, "helper")[0].causes
    assert (cause.kind, cause.subject) == ("code", "mill.parts.helper")
    assert sentences(place, "helper")[0] == "ran because helper mill.parts.helper changed"

    own = STEPS.replace("* rows", "* rows * 1")
    place.run(pipeline(project, place, mill__steps=own), run_id="own")
    said = sentences(place, "own")[0]
    assert "its own code changed (mill.steps.load)" in said
    assert "parameter 'rows' changed from 3 to 2" in said

    (place.path / "source.txt").write_text("6")
    place.run(pipeline(project, place, mill__steps=own), run_id="source")
    assert "source.txt (input 'path') changed" in " ".join(sentences(place, "source"))

    stored = first.artifact("train").value
    assert stored is not None
    place.files.put_bytes(stored.key, b"?")
    (place.path / "source.txt").write_text("5")
    place.run(pipeline(project, place), run_id="damaged")
    explained = {one.step: one for one in explain(place.store, "damaged")}
    assert explained["train"].causes == (Cause(kind="damaged", subject=stored.key),)
    assert (
        explained["train"].sentence == f"ran because its stored result was damaged ({stored.key})"
    )
    assert explained["load"].status == "reused"


def test_failures_and_what_they_take_down_are_explained(project: Project, place: Place) -> None:
    """A failed step says how it failed, and each step after it names it."""
    place.run(pipeline(project, place, rows=500), run_id="big")
    assert sentences(place, "big")[2:] == [
        "ran for the first time, and failed: ValueError: too much",
        "skipped because step 'test' failed",
    ]
    (place.path / "source.txt").unlink()
    broken = pipeline(project, place)
    (place.path / "source.txt").unlink()
    place.run(broken, run_id="gone")
    assert sentences(place, "gone")[0].startswith("failed before it started: source file")


def test_a_step_that_always_runs_says_so(project: Project, place: Place) -> None:
    """Nobody looks for a change where there is none."""
    for run_id in ("one", "two"):
        place.run(pipeline(project, place, cache=False), run_id=run_id)
    assert sentences(place, "two")[1] == "ran because it always runs (cache=False)"


def test_an_unknown_run_is_told() -> None:
    """A wrong run id is an error that says so."""
    from tidemill.foundation.store import Store

    with Store("sqlite://") as store:
        with pytest.raises(NotFound, match="run 'x'"):
            explain(store, "x")
        with pytest.raises(NotFound, match="artifact 'x'"):
            ancestors(store, "x")


def test_lineage_leads_from_a_result_to_its_sources(project: Project, place: Place) -> None:
    """An artifact's ancestors name each step, its run, its parameters and source files."""
    clock = FakeClock(at=100.0)
    first = place.run(pipeline(project, place), run_id="first", clock=clock)
    clock.advance(50)
    again = place.run(pipeline(project, place), run_id="again", clock=clock)
    found = ancestors(place.store, again.artifact("test").id)
    assert [(one.step, one.run) for one in found] == [
        ("test", "first"),
        ("train", "first"),
        ("load", "first"),
    ]
    path, rows = found[2].inputs["path"][0], found[2].inputs["rows"][0]
    assert (path.kind, path.shown) == ("file", str(place.path / "source.txt"))
    assert (rows.kind, rows.shown) == ("value", "2")
    assert get_artifact(place.store, first.artifact("test").id) == first.artifact("test")

    newest, oldest = list_runs(place.store, "mill")
    assert (newest.id, newest.started_at, newest.ended_at) == ("again", 150.0, 150.0)
    assert (oldest.status, oldest.steps, newest.steps) == (
        "finished",
        {"finished": 4},
        {"reused": 4},
    )
    assert list_runs(place.store, "other") == []
    assert len(list_runs(place.store, limit=1)) == 1
