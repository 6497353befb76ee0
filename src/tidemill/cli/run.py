"""``tidemill run``: trains a recipe and makes a blessed version live."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.progress import count_progress
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, Session, session, table
from tidemill.control import runs
from tidemill.pipeline.runner import StepEvent
from tidemill.recipes.train import OnEvent
from tidemill.training.evaluator import Metrics

_SIGNS = {"finished": "[green]ran[/]", "reused": "[cyan]reused[/]", "failed": "[red]failed[/]"}


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("run")
    def run(
        recipe: Annotated[str, typer.Argument(help="A recipe of the settings file.")],
        run_id: Annotated[
            str | None, typer.Option("--run", help="Continue this run, if it was cut off.")
        ] = None,
        deploy: Annotated[
            bool, typer.Option("--deploy/--no-deploy", help="Make a blessed version live.")
        ] = True,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Train a recipe from its dataset's snapshots; make a blessed version live."""
        with (
            session(home=home, config=config, json=json) as on,
            count_progress(on, "building the table") as progress,
        ):
            done = runs.run_recipe(
                on.home,
                recipe,
                by="cli",
                reason=f"tidemill run {recipe}",
                go_live=deploy,
                run_id=run_id,
                on_event=teller(on),
                progress=progress,
            )
            on.show(done, lambda out: print_rollout(out, done))
        if not done.trained.blessed:
            raise typer.Exit(4)


def teller(on: Session) -> OnEvent:
    """Returns what tells a person, on standard error, how each step ends."""

    def tell(event: StepEvent) -> None:
        sign = _SIGNS.get(event.kind)
        if on.json or (sign is None and event.kind == "started"):
            return
        on.err.print(f"  {sign or event.kind:<8} {event.step} ({event.duration_s:.2f} s)")

    return tell


def print_rollout(out: Console, done: runs.RolledOut) -> None:
    """Shows what a run came to."""
    trained = done.trained
    candidate, champion = trained.verdict.candidate, trained.verdict.champion
    rows = table(
        f"Run {trained.run}: {trained.model} version {trained.version}", "", "log loss", "AUC"
    )
    rows.add_row("candidate", *_cells(candidate.metrics))
    if champion is not None:
        rows.add_row("champion", *_cells(champion.metrics))
    rows.add_row("constant", *_cells(candidate.constant_metrics))
    out.print(rows)
    for reason in trained.reasons:
        out.print(f"  {reason}", markup=False)
    if done.revision is None:
        out.print("not live" if trained.blessed else "not blessed: nothing went live", style="bold")
        return
    with_table = f" with a table of {done.table.rows:,} keys" if done.table else ""
    out.print(f"live as {done.application}{with_table} (revision {done.revision})", style="bold")
    if done.without_table is not None:
        out.print(f"without its table: {done.without_table}", markup=False)
    out.print(f"why each step ran: tidemill explain {trained.run}")


def _cells(metrics: Metrics) -> tuple[str, str]:
    area = "-" if metrics.auc is None else f"{metrics.auc:.4f}"
    return f"{metrics.log_loss:.4f}", area
