"""``tidemill environment``: builds what a version's requirements ask for, on this machine."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, session
from tidemill.models.environments import Environment
from tidemill.recipes.isolated import build_for


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("environment")
    def environment(
        name: Annotated[str, typer.Argument(help="The model.")],
        version: Annotated[int, typer.Argument(help="Its version.")],
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Build the environment of a version that has requirements, from its lock."""
        with session(home=home, config=config, json=json) as on:

            def say(words: str) -> None:
                if on.progress_on:
                    on.err.print(words, markup=False)

            built = build_for(on.home, name, version, say=say)
            on.show(built, lambda out: print_environment(out, built))


def print_environment(out: Console, environment: Environment) -> None:
    """Says what an environment holds, and where it is."""
    told = f"built in {environment.seconds:.1f} s" if environment.built else "there already"
    size = environment.size_bytes / (1 << 20)
    out.print(f"  environment {environment.key[:12]}: {told}, {size:.0f} MiB", markup=False)
    out.print(f"  holds {', '.join(environment.distributions)}", markup=False)
