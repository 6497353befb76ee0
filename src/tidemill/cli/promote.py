"""``tidemill promote``: makes a blessed version live."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, session
from tidemill.control import deployments


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("promote")
    def promote(
        application: Annotated[str, typer.Argument(help="The application.")],
        version: Annotated[int, typer.Argument(help="The version to make live.")],
        table: Annotated[
            str | None,
            typer.Option(help="A table built with it; the one that it last had, if not given."),
        ] = None,
        reason: Annotated[str, typer.Option(help="Why, for the audit.")] = "promoted by hand",
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Make a blessed version the champion and live; running servers converge on it."""
        with session(home=home, config=config, json=json) as on:
            done = deployments.promote(
                on.home, application, version, table=table, by="cli", reason=reason
            )
            on.show(
                done,
                lambda out: out.print(
                    f"{application} answers with version {version} (revision {done.revision})"
                ),
            )
