from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from tidemill.pipeline.fingerprint import fingerprint

if TYPE_CHECKING:
    from conftest import Project

STEPS = """
    import functools
    import math
    from dataclasses import dataclass
    from enum import Enum

    import msgspec

    import shop.prices
    from shop import tax
    from shop.names import shout, LIMIT
    from shop.prices import round_up as up

    SCALE = 3
    TABLE = {"a": [1, 2]}
    SHAPE = msgspec.json.Decoder(dict)
    double = lambda x: x * 2

    def traced(function):
        @functools.wraps(function)
        def inner(*args, **kwargs):
            return function(*args, **kwargs)
        return inner

    @traced
    def decorated(x: int) -> int:
        return x + 1

    @functools.lru_cache
    def remembered(x: int) -> int:
        return x + 5

    def adder(n):
        def add(x):
            return x + n
        return add

    add_four = adder(4)

    class Colour(Enum):
        RED = 1

    class Row(msgspec.Struct):
        weight: float = 1.0

    @dataclass
    class Point:
        x: int = 0

        def far(self) -> int:
            return self.x * 100

        @property
        def near(self) -> int:
            return self.x

    class Sub(Point):
        pass

    def by_default(x: int, factor: int = 2) -> int:
        return x * factor

    def step(x: int) -> int:
        "Doc."
        # comment
        from shop.late import later
        import shop.local as local
        Row(), Colour.RED, SHAPE
        values = [decorated(y) for y in range(SCALE)]
        total = Sub(x).far() + by_default(x) + double(x) + add_four(x) + remembered(x)
        return total + shop.prices.net(x) + tax.add(x) + up(x) + later(x) + local.near(x) + LIMIT
"""
FILES = {
    "shop__steps": STEPS,
    "shop__prices": """
        def net(x):
            return base(x) - 1

        def base(x):
            return x

        def round_up(x):
            return x + 1

        def unused(x):
            return x
        """,
    "shop__tax": "def add(x):\n    return x * 1.2\n",
    "shop__names": "LIMIT = 10\ndef shout(x):\n    return x\n",
    "shop__late": "def later(x):\n    return x\n",
    "shop__local": "def near(x):\n    return x\n",
}
CHANGES = {
    "the function": ("shop__steps", "+ LIMIT", "- LIMIT", "shop.steps.step"),
    "a constant": ("shop__steps", "SCALE = 3", "SCALE = 4", "shop.steps.SCALE"),
    "an imported constant": ("shop__names", "LIMIT = 10", "LIMIT = 11", "shop.steps.LIMIT"),
    "a lambda": ("shop__steps", "x * 2", "x * 3", "shop.steps.<lambda>"),
    "a decorator": (
        "shop__steps",
        "function(*args,",
        "1 + function(*args,",
        "shop.steps.decorated",
    ),
    "a decorated function": (
        "shop__steps",
        "return x + 1",
        "return x + 9",
        "shop.steps.decorated#2",
    ),
    "a cached function": ("shop__steps", "x + 5", "x + 6", "shop.steps.remembered"),
    "a closure's value": ("shop__steps", "adder(4)", "adder(5)", "shop.steps.adder.<locals>.add"),
    "a method": ("shop__steps", "self.x * 100", "self.x * 101", "shop.steps.Point.far"),
    "a property": ("shop__steps", "return self.x\n", "return -self.x\n", "shop.steps.Point.near"),
    "a base class": ("shop__steps", "Sub(Point)", "Sub(Point, dict)", "shop.steps.Sub"),
    "an enum's value": ("shop__steps", "RED = 1", "RED = 2", "shop.steps.Colour"),
    "a Struct's default": (
        "shop__steps",
        "weight: float = 1.0",
        "weight: float = 2.0",
        "shop.steps.Row",
    ),
    "a default argument": (
        "shop__steps",
        "factor: int = 2",
        "factor: int = 3",
        "shop.steps.by_default",
    ),
    "an expression": ("shop__steps", "Decoder(dict)", "Decoder(list)", "shop.steps.SHAPE"),
    "a helper's helper": ("shop__prices", "return x\n", "return x + 2\n", "shop.prices.base"),
    "a helper by module": ("shop__tax", "1.2", "1.3", "shop.tax.add"),
    "a renamed import": ("shop__prices", "x + 1", "x + 3", "shop.prices.round_up"),
    "an import inside": ("shop__late", "return x", "return -x", "shop.late.later"),
    "a module imported inside": ("shop__local", "return x", "return -x", "shop.local.near"),
}
NO_CHANGES = {
    "a docstring": ("shop__steps", '"Doc."', '"Another."'),
    "no docstring": ("shop__steps", '"Doc."', ""),
    "a comment": ("shop__steps", "# comment", "# another\n\n        # and more"),
    "a format": ("shop__steps", "x + n", "(x  +\n            n)"),
    "an unused constant": ("shop__steps", 'TABLE = {"a"', 'TABLE = {"b"'),
    "an unused function": ("shop__prices", "def unused(x):", "def unused(x, y):"),
}


def load(project: Project, **changed: str) -> ModuleType:
    project.write(**{**FILES, **changed})
    return project.load("shop.steps")


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_is_reached_is_seen_and_named(project: Project, change: str) -> None:
    """All that a step reaches in its package is part of it, and what changed is named."""
    file, old, new, part = CHANGES[change]
    before = fingerprint(load(project).step)
    assert FILES[file].count(old) >= 1
    after = fingerprint(load(project, **{file: FILES[file].replace(old, new, 1)}).step)

    assert before.hash != after.hash
    names = {*before.parts, *after.parts}
    differing = {name for name in names if before.parts.get(name) != after.parts.get(name)}
    assert part in differing
    assert len(differing) <= 2, differing


@pytest.mark.parametrize("change", NO_CHANGES)
def test_what_does_not_matter_is_not_seen(project: Project, change: str) -> None:
    """Docstrings, comments, layout and unreached code leave the fingerprint alone."""
    file, old, new = NO_CHANGES[change]
    before = fingerprint(load(project).step)
    after = fingerprint(load(project, **{file: FILES[file].replace(old, new, 1)}).step)
    assert before == after


def test_it_is_the_same_in_every_process(project: Project) -> None:
    """Hash randomisation and memory addresses leave no trace."""
    load(project)
    code = (
        "import sys; from tidemill.pipeline.fingerprint import fingerprint; "
        "import shop.steps as s; print(fingerprint(s.step).hash)"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(project.folder)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {fingerprint(load(project).step).hash + "\n"}


def test_what_runs_counts_not_what_the_file_says_by_now(project: Project) -> None:
    """A file edited after its import does not lend its new code's name to the old code's result."""
    module = load(project)
    before = fingerprint(module.step)
    file, old, new, _ = CHANGES["a method"]
    project.write(**{file: FILES[file].replace(old, new)})
    assert fingerprint(module.step) == before


def test_versions_of_used_packages_count(project: Project) -> None:
    """The distributions that the code uses are listed with their versions."""
    import msgspec

    packages = fingerprint(load(project).step).packages
    assert packages["msgspec"] == msgspec.__version__
    assert packages["python"].startswith("cpython 3.")
    assert set(packages) == {"msgspec", "python"}


def test_a_distribution_of_another_name_is_found(project: Project) -> None:
    """A package imported inside, named unlike its distribution, counts."""
    project.write(one="def step() -> int:\n    from sklearn import svm\n    return svm\n")
    assert fingerprint(project.load("one").step).packages["sklearn"].startswith("scikit-learn 1")


def test_files_beside_a_script_are_its_project(project: Project) -> None:
    """Outside of a package, the modules of the same folder are the project's own."""
    main = "from aside import helper\nimport json\ndef step(x: int) -> int:\n    return helper(x)\n"
    project.write(main_script=main, aside="def helper(x):\n    return x\n")
    before = fingerprint(project.load("main_script").step)
    project.write(aside="def helper(x):\n    return x + 1\n")
    after = fingerprint(project.load("main_script").step)
    assert set(before.parts) == {"main_script.step", "aside.helper"}
    assert before.parts["aside.helper"] != after.parts["aside.helper"]


def test_closures_and_partials_of_the_same_code_differ_by_what_they_hold() -> None:
    """Two functions made by one maker are two steps."""

    def maker(n: object) -> Callable[[], object]:
        def made() -> object:
            return n

        return made

    held: list[object] = [
        1,
        2,
        "1",
        [1],
        {"a": {2}},
        Path("a"),
        partial(maker, 3),
        partial(maker, 4),
    ]
    assert len({fingerprint(maker(one)).hash for one in held}) == len(held)
    assert fingerprint(maker({"a": 1})).hash == fingerprint(maker({"a": 1})).hash


def test_code_that_calls_itself_ends() -> None:
    """Circles among functions and values are no endless walk."""
    circle: list[object] = []
    circle.append(circle)

    def recursive(n: int) -> object:
        return (circle, recursive(n - 1)) if n else None

    assert fingerprint(recursive).hash == fingerprint(recursive).hash
