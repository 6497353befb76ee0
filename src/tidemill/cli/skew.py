"""``tidemill skew``: is an application asked what its model was trained on."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.drift import (
    ChanceOption,
    GraveOption,
    LimitOption,
    as_record,
    print_report,
)
from tidemill.cli.ledger import print_problems
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, session
from tidemill.control.skew import ServedSkew, served_skew
from tidemill.data.drift.verdict import DriftRules


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("skew")
    def skew(
        application: Annotated[str, typer.Argument(help="The application.")],
        version: Annotated[
            int | None,
            typer.Option(min=1, help="Of its model.", show_default="the one that answers most"),
        ] = None,
        against: Annotated[
            str | None,
            typer.Option(
                help="The id of a snapshot that is the reference.",
                show_default="the examples that the version was trained on",
            ),
        ] = None,
        since: Annotated[
            float | None, typer.Option(help="Only what was answered since then (epoch seconds).")
        ] = None,
        until: Annotated[
            float | None, typer.Option(help="Only what was answered before (epoch seconds).")
        ] = None,
        limit: LimitOption = 0.05,
        grave: GraveOption = 0.2,
        chance: ChanceOption = 0.01,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Compare what was asked with what the model was trained on, by more than chance.

        Ends with code 3 if an input has moved, or could not be compared, or a part of the ledger
        is damaged.
        """
        rules = DriftRules(limit=limit, grave=grave, chance=chance)
        with session(home=home, config=config, json=json) as on:
            found = served_skew(
                on.home,
                application,
                version=version,
                against=against,
                since=since,
                until=until,
                rules=rules,
            )
            told = {
                "application": found.application,
                "model": found.model,
                "version": found.version,
                "reference": found.reference,
                "since": since,
                "until": until,
                **as_record(found.report),
                "ok": found.ok,
                "damaged": len(found.problems),
                "problems": found.problems,
            }
            on.show(told, lambda out: _print(out, found))
        if not found.ok:
            raise typer.Exit(3)


def _print(out: Console, found: ServedSkew) -> None:
    title = (
        f"{found.application}, version {found.version} of {found.model}, against {found.reference}"
    )
    print_report(out, title, found.report)
    if found.problems:
        out.print("what was asked in these places could not be compared:", markup=False)
        print_problems(out, found.problems)
