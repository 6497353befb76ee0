"""``tidemill watch``: each file that arrives goes through the gate, into a model, and live."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.parent import stop_with_parent
from tidemill.cli.printing import print_json
from tidemill.cli.run import print_rollout, teller
from tidemill.cli.session import (
    ConfigOption,
    HomeOption,
    JsonOption,
    Session,
    WithParentOption,
    session,
)
from tidemill.control.keeper import Keeper, Outcome


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("watch")
    def watch(
        recipe: Annotated[str, typer.Argument(help="A recipe of the settings file.")],
        folder: Annotated[Path, typer.Argument(help="Where files arrive.")],
        once: Annotated[
            bool, typer.Option("--once", help="End when every file there has been taken.")
        ] = False,
        wait: Annotated[
            bool, typer.Option("--wait", help="Stand by while another keeper watches.")
        ] = False,
        poll_s: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.05)] = 0.5,
        with_parent: WithParentOption = False,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Watch a folder; launch the recipe for each new file, once, and go on after a crash."""
        if with_parent:
            stop_with_parent()
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        outcomes: list[Outcome] = []
        with session(home=home, config=config, json=json) as on:
            keeper = Keeper(on.home, recipe, folder, poll_s=poll_s, on_event=teller(on))

            def tell(outcome: Outcome) -> None:
                outcomes.append(outcome)
                if not json:
                    _print(on, outcome)

            if not json:
                on.err.print(f"watching {folder} for {recipe}; end with Ctrl-C", markup=False)
            keeper.run(tell, stop, until_idle=once, stand_by=wait)
        if json:
            print_json({"launches": outcomes})


def _print(on: Session, outcome: Outcome) -> None:
    launch = outcome.launch
    on.out.print(f"{Path(launch.path).name}: {launch.status}", style="bold", markup=False)
    if outcome.ingest is not None:
        taken = outcome.ingest
        on.out.print(
            f"  {taken.received:,} rows received, {taken.accepted:,} accepted, "
            f"{taken.quarantined:,} quarantined, {taken.duplicate:,} duplicate, {taken.late:,} late"
        )
    if outcome.rolled_out is not None:
        print_rollout(on.out, outcome.rolled_out)
    elif launch.message:
        on.out.print(f"  {launch.message}", markup=False)
