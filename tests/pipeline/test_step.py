from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidemill.foundation.errors import InvalidInput
from tidemill.pipeline import Handle, Output, Pipeline, SourceFile, Step


class Report(msgspec.Struct, frozen=True):
    loss: float


class Odd:
    pass


def number(n: int = 1) -> int:
    return n


def text(t: str) -> str:
    return t


def report(n: int) -> Report:
    return Report(loss=float(n))


def files(out: Path, n: int) -> None:
    (out / "n").write_text(str(n))


def reads(folder: Path) -> str:
    return str(sorted(folder.iterdir()))


def reads_all(folders: list[Path]) -> int:
    return len(folders)


def sums(numbers: list[int]) -> int:
    return sum(numbers)


def odd() -> Odd:
    return Odd()


def bare(n) -> int:  # type: ignore[no-untyped-def]  # noqa: ANN001
    return int(n)


def silent(n: int):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return n


def rest(*numbers: int) -> int:
    return sum(numbers)


async def later() -> int:
    return 1


def pipe(*steps: Step) -> Pipeline:
    return Pipeline("p", steps)


WRONG = {
    "no steps": (pipe, "no steps"),
    "one name twice": (lambda: pipe(Step("a", number), Step("a", number)), "two steps"),
    "a name like a path": (lambda: pipe(Step("../a", number)), "step name"),
    "a circle": (
        lambda: pipe(Step("a", number, {"n": Output("b")}), Step("b", number, {"n": Output("a")})),
        "circle: .* -> ",
    ),
    "an unknown step": (
        lambda: pipe(Step("first", number), Step("b", number, {"n": Output("frist")})),
        "step 'frist' does not exist. Did you mean 'first'",
    ),
    "an unknown parameter": (lambda: pipe(Step("a", number, {"m": 1})), "parameter 'm' does not"),
    "a missing parameter": (lambda: pipe(Step("a", text)), "'t' has no input"),
    "a value of another type": (lambda: pipe(Step("a", number, {"n": "1"})), "annotation int"),
    "an output of another type": (
        lambda: pipe(Step("a", number), Step("b", text, {"t": Output("a")})),
        "annotated str, but step 'a' returns int",
    ),
    "files of a step without": (
        lambda: pipe(Step("a", number), Step("b", reads, {"folder": Output("a")})),
        "writes none",
    ),
    "a value of a step without": (
        lambda: pipe(Step("a", files, {"n": 1}), Step("b", number, {"n": Output("a")})),
        "returns None",
    ),
    "a path by value": (lambda: pipe(Step("a", reads, {"folder": Path("x")})), "SourceFile"),
    "a file for a number": (
        lambda: pipe(Step("a", number, {"n": SourceFile(Path("x"))})),
        "annotated int",
    ),
    "the runner's own parameter": (
        lambda: pipe(Step("a", files, {"n": 1, "out": SourceFile(Path())})),
        "given by the runner",
    ),
    "an output inside a value": (
        lambda: pipe(Step("a", number), Step("b", text, {"t": {"x": Output("a")}})),
        "inside of a value",
    ),
    "a list with other things": (
        lambda: pipe(Step("a", number), Step("b", sums, {"numbers": [Output("a"), 1]})),
        "mixes",
    ),
    "a list for one": (
        lambda: pipe(Step("a", number), Step("b", number, {"n": [Output("a")]})),
        "is a list",
    ),
    "a value without stored form": (lambda: pipe(Step("a", odd)), "Odd has no stored form"),
    "no annotation": (lambda: pipe(Step("a", bare, {"n": 1})), "'n' has no annotation"),
    "no return annotation": (lambda: pipe(Step("a", silent, {"n": 1})), "return value"),
    "star arguments": (lambda: pipe(Step("a", rest)), "no name of its own"),
    "a coroutine": (lambda: pipe(Step("a", later)), "asynchronous"),
    "a partial": (lambda: pipe(Step("a", functools.partial(number, 1))), "not a plain function"),
    "a negative retry": (lambda: pipe(Step("a", number, retries=-1)), "negative"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_run_is_refused_before_anything_runs(case: str) -> None:
    """Each mistake in a pipeline is named when it is declared."""
    make, message = WRONG[case]
    with pytest.raises(InvalidInput, match=message):
        make()


def test_what_fits_is_taken() -> None:
    """Values, outputs, files, handles and lists of them may be inputs."""
    live: Any = Odd()
    pipeline = pipe(
        Step("sum", sums, {"numbers": [Output("a"), Output("b")]}),
        Step("a", number),
        Step("b", number, {"n": 2}),
        Step("files", files, {"n": Output("a")}),
        Step("read", reads, {"folder": Output("files")}),
        Step("all", reads_all, {"folders": [Output("files"), SourceFile(Path("x"))]}),
        Step("report", report, {"n": Output("a")}),
        Step("field", text, {"t": Output("report", "loss")}),
        Step("live", number, {"n": Handle(live)}),
        Step("constant", sums, {"numbers": (1, 2)}),
    )
    assert pipeline.order.index("sum") > pipeline.order.index("b")
    assert pipeline.dependencies["sum"] == {"a", "b"}
    assert pipeline.step("a").function is number
