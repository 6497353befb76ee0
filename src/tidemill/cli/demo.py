"""``tidemill demo``: the whole of it on real data, or one of six classic cases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from tidemill.cli.printing import print_json
from tidemill.cli.rehearsing import print_rehearsed
from tidemill.cli.session import JsonOption
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.names import nearest
from tidemill.recipes.demo import story
from tidemill.recipes.demo.cases.catalog import CASES
from tidemill.recipes.demo.cases.story import tell_case
from tidemill.recipes.demo.summary import Summary


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("demo")
    def demo(
        case: Annotated[
            str | None,
            typer.Argument(
                help="A case, to be planned and measured: spam, voice, ads, autocomplete, "
                "lifetime, divisions; without one, the main job."
            ),
        ] = None,
        folder: Annotated[
            Path | None,
            typer.Option(
                help="Where data, state, summary and report go; tidemill-demo, or with the "
                "case's name behind it, by default."
            ),
        ] = None,
        json: JsonOption = False,
    ) -> None:
        """Run the main job on New York's flights of 2013: train, serve, score, swap, roll back.

        With a case: make its model and traffic from a seed, measure this machine, choose static,
        dynamic or hybrid, and serve all three beside what was predicted.
        """
        teller = _Teller(Console(stderr=json, highlight=False))
        if case is not None:
            _run_case(case, folder, teller, json=json)
            return
        summary = story.tell((folder or Path("tidemill-demo")).absolute(), teller)
        if json:
            print_json(summary)
        else:
            _print(teller.out, summary)


def _run_case(name: str, folder: Path | None, teller: _Teller, *, json: bool) -> None:
    if name not in CASES:
        raise InvalidInput(f"there is no case {name!r}", remedy=nearest(name, CASES))
    where = (folder or Path(f"tidemill-demo-{name}")).absolute()
    summary = tell_case(CASES[name], where, teller)
    if json:
        print_json(summary)
        return
    print_rehearsed(teller.out, summary.rehearsed)
    theory = " or ".join(summary.expected)
    verdict = "as theory says" if summary.agrees else f"where theory says {theory}"
    teller.out.print(f"\n[bold]{summary.choice}[/], {verdict}; done in {summary.took_s:.0f} s")
    teller.out.print(f"numbers: {summary.folder}/summary.json", markup=False)
    if summary.report is not None:
        teller.out.print(f"curves:  {summary.report}", markup=False)


class _Teller(story.Teller):
    """Tells the story on a terminal."""

    def __init__(self, out: Console) -> None:
        self.out = out

    def say(self, text: str) -> None:
        self.out.print(f"[green]•[/] {text}")

    @contextmanager
    def bar(self, text: str) -> Iterator[story.Progress]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
        )
        shown = self.out.is_terminal
        if not shown:  # a log tells what is done at the moment
            self.out.print(f"  {text}")
        with Progress(*columns, console=self.out, transient=True, disable=not shown) as progress:
            task = progress.add_task(text, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)


def _print(out: Console, summary: Summary) -> None:
    out.print(f"\n[bold]done in {summary.took_s:.0f} s[/]")
    out.print(f"numbers: {summary.folder}/summary.json", markup=False)
    out.print(f"plots:   {summary.report}", markup=False)
