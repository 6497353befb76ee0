"""``tidemill logs``: what a server's processes have said, as it comes."""

from __future__ import annotations

import time
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.text import Text

from tidemill.cli.printing import print_json
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, Session, plain, session
from tidemill.control.local import ask_server
from tidemill.foundation.clock import iso
from tidemill.foundation.errors import InvalidInput

_LOOK_EVERY_S = 0.5
_AT_MOST = 1000


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("logs")
    def logs(
        application: Annotated[
            str | None, typer.Argument(help="One application's workers; all processes if none.")
        ] = None,
        follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C.")] = False,
        lines: Annotated[int, typer.Option(help="How many of the newest lines.")] = 100,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Show the newest lines of workers and the warnings of gateways, of the running server."""
        if not 1 <= lines <= _AT_MOST:
            raise InvalidInput(f"--lines is {lines}", remedy=f"Give 1 to {_AT_MOST}.")
        if follow and json:
            raise InvalidInput("--follow has no end, and --json is one object", remedy="Use one.")
        with session(home=home, config=config, json=json) as on:
            first = _look(on, application, after=0, limit=lines)
            if json:
                print_json(first)
                return
            _print(on.out, first["lines"])
            if follow:
                _follow(on, application, first["newest"])


def _follow(on: Session, application: str | None, seen: int) -> None:
    try:
        while True:
            time.sleep(_LOOK_EVERY_S)
            more = _look(on, application, after=seen, limit=_AT_MOST)
            _print(on.out, more["lines"])
            seen = more["newest"]
    except KeyboardInterrupt:
        return


def _look(on: Session, application: str | None, *, after: int, limit: int) -> dict[str, Any]:
    where = "" if application is None else f"applications/{quote(application, safe='')}/"
    path = f"/admin/v1/{where}logs?after={after}&limit={limit}"
    found: dict[str, Any] = ask_server(on.home, "GET", path)
    return found


def _print(out: Console, lines: list[dict[str, Any]]) -> None:
    for each in lines:
        whose = each["source"] if each["application"] is None else f"{each['application']}"
        source = "" if each["application"] is None else f" {each['source']}"
        head = Text(f"{iso(each['at'])} ", "dim") + Text(f"{whose}{source} ", "cyan")
        out.print(head + Text(plain(each["line"])), soft_wrap=True)
