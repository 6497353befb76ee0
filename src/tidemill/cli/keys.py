"""``tidemill keys``: who may ask, label, push and operate."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, plain, session, table
from tidemill.control import keys
from tidemill.foundation.errors import InvalidInput

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_LASTING = re.compile(r"([0-9]{1,6})([smhdw])")

ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the audit.")]


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    group = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
    app.add_typer(group, name="keys")
    _register_create(group)

    @group.command("list")
    def list_(
        home: HomeOption = None, config: ConfigOption = None, json: JsonOption = False
    ) -> None:
        """List every key, revoked ones too: never the key itself."""
        with session(home=home, config=config, json=json) as on:
            found = keys.list_keys(on.home)
            on.show({"keys": found}, lambda out: _print(out, found))

    @group.command("revoke")
    def revoke(
        name: Annotated[str, typer.Argument(help="The key's name.")],
        reason: ReasonOption = "revoked by hand",
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """End a key; a running server refuses it within a second."""
        with session(home=home, config=config, json=json) as on:
            done = keys.revoke_key(on.home, name, by="cli", reason=reason)
            on.show(done, lambda out: out.print(f"key {done.name} is revoked", markup=False))


def _register_create(group: typer.Typer) -> None:
    @group.command("create")
    def create(
        name: Annotated[str, typer.Option("--name", help="What the key is called.")],
        scope: Annotated[
            str,
            typer.Option("--scope", help="What it may do: query,feedback,data,push,operate."),
        ],
        application: Annotated[
            list[str] | None,
            typer.Option("--application", help="Only this one; may be given many times."),
        ] = None,
        expires: Annotated[
            str | None, typer.Option("--expires", help="How long it counts: 90d, 12h, 4w.")
        ] = None,
        reason: ReasonOption = "made by hand",
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Make a key and show it, once; from the first one on, every query needs one."""
        lasting = None if expires is None else _seconds(expires)
        with session(home=home, config=config, json=json) as on:
            made = keys.create_key(
                on.home,
                name,
                scopes=[part.strip() for part in scope.split(",") if part.strip()],
                applications=application or None,
                expires_s=lasting,
                by="cli",
                reason=reason,
            )
            on.show(made, lambda out: _print_made(out, made))


def _seconds(text: str) -> float:
    found = _LASTING.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"--expires {text[:40]!r} is not a time", remedy="Give it as 90d, 12h, 30m or 4w."
        )
    return float(int(found[1]) * _UNITS_S[found[2]])


def _print_made(out: Console, made: keys.MadeKey) -> None:
    out.print(made.key, markup=False, highlight=False, soft_wrap=True)
    out.print(f"This is key {made.name}. It is shown this once: keep it now.", markup=False)


def _print(out: Console, found: tuple[keys.KeyRow, ...]) -> None:
    if not found:
        out.print("There is no key: queries need none.")
        return
    rows = table("Keys", "name", "state", "scopes", "applications", "expires", "last used", "by")
    for each in found:
        rows.add_row(
            each.name,
            each.state,
            ", ".join(each.scopes),
            "any" if each.applications is None else ", ".join(each.applications),
            each.expires or "never",
            each.last_used or "never",
            plain(each.by),
        )
    out.print(rows)
