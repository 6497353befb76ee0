"""``tidemill rollback``: brings back what was live before, its table included."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, session
from tidemill.control import deployments


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("rollback")
    def rollback(
        application: Annotated[str, typer.Argument(help="The application.")],
        reason: Annotated[str, typer.Option(help="Why, for the audit.")] = "rolled back by hand",
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Bring back the version that was live before, with its table."""
        with session(home=home, config=config, json=json) as on:
            done = deployments.rollback(on.home, application, by="cli", reason=reason)
            with_table = f" with table {done.table}" if done.table else ""
            on.show(
                done,
                lambda out: out.print(
                    f"{application} is back from version {done.from_version} "
                    f"to version {done.to_version}{with_table} (revision {done.revision})"
                ),
            )
