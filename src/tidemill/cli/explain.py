"""``tidemill explain``: why each step of a run ran, or did not."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, session, table
from tidemill.foundation.clock import iso
from tidemill.pipeline.explain import StepExplanation
from tidemill.pipeline.explain import explain as explain_run
from tidemill.pipeline.lineage import RunSummary, list_runs


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("explain")
    def explain(
        run: Annotated[
            str | None, typer.Argument(help="The run; without one, runs are listed.")
        ] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Say why each step of a run ran or did not; without a run, list the runs."""
        with session(home=home, config=config, json=json) as on:
            if run is None:
                runs = list_runs(on.home.store)
                on.show({"runs": runs}, lambda out: _print_runs(out, runs))
                return
            steps = list(explain_run(on.home.store, run))
            on.show({"run": run, "steps": steps}, lambda out: _print(out, run, steps))


def _print(out: Console, run: str, steps: list[StepExplanation]) -> None:
    rows = table(f"Run {run}", "step", "status", "why")
    for each in steps:
        rows.add_row(each.step, each.status, each.sentence)
    out.print(rows, markup=False)


def _print_runs(out: Console, runs: list[RunSummary]) -> None:
    if not runs:
        out.print("No run yet: tidemill run RECIPE")
        return
    rows = table("Runs", "run", "pipeline", "status", "started")
    for each in runs:
        rows.add_row(each.id, each.pipeline, each.status, iso(each.started_at))
    out.print(rows)
