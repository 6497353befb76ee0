"""``tidemill demo``: the whole of it on real data, in about a minute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from tidemill.cli.session import JsonOption, print_json
from tidemill.recipes.demo import story
from tidemill.recipes.demo.summary import Summary


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("demo")
    def demo(
        folder: Annotated[
            Path, typer.Option(help="Where data, state, summary and report go.")
        ] = Path("tidemill-demo"),
        json: JsonOption = False,
    ) -> None:
        """Run the main job on New York's flights of 2013: train, serve, score, swap, roll back."""
        teller = _Teller(Console(stderr=json, highlight=False))
        summary = story.tell(folder.absolute(), teller)
        if json:
            print_json(summary)
        else:
            _print(teller.out, summary)


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
        with Progress(*columns, console=self.out, transient=True, disable=not shown) as progress:
            task = progress.add_task(text, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)


def _print(out: Console, summary: Summary) -> None:
    out.print(f"\n[bold]done in {summary.took_s:.0f} s[/]")
    out.print(f"numbers: {summary.folder}/summary.json", markup=False)
    out.print(f"plots:   {summary.report}", markup=False)
