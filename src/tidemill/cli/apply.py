"""``tidemill apply``: makes live what a document declares, once its differences were seen."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from tidemill.cli.progress import count_progress
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, plain, session
from tidemill.control import applications
from tidemill.control.documents import MAX_BYTES, Document, read_document
from tidemill.control.planned import apply_planned
from tidemill.foundation.errors import NotFound, Refused
from tidemill.foundation.toml import toml_value


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("apply")
    def apply(
        file: Annotated[Path, typer.Argument(help="A document of applications, in TOML.")],
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Show the differences and end.")
        ] = False,
        reason: Annotated[str, typer.Option(help="Why, for the audit.")] = "applied by hand",
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Make live what a document declares, whole or in part; running servers converge on it."""
        document = read_document(_read(file), origin=str(file))
        with session(home=home, config=config, json=json) as on:
            seen = apply_planned(on.home, document, by="cli", reason=reason, dry_run=True)
            if dry_run or not seen.changes:
                on.show(seen, lambda out: _print(out, seen))
                return
            if not json:
                _print(on.out, seen)
            if not yes:
                _ask(seen, json=json)
            changed = [change.application for change in seen.changes]
            with ExitStack() as stack:
                done = apply_planned(
                    on.home,
                    Document(applications={name: document.applications[name] for name in changed}),
                    by="cli",
                    reason=reason,
                    expected={change.application: change.revision for change in seen.changes},
                    progress=lambda name: stack.enter_context(
                        count_progress(on, f"scoring keys of {name}")
                    ),
                )
            on.show(done, lambda out: _print_done(out, done))


def _read(file: Path) -> bytes:
    if not file.is_file():
        raise NotFound(f"{str(file)!r} is no file", remedy="Name a document of applications.")
    with file.open("rb") as opened:
        return opened.read(MAX_BYTES + 1)


def _ask(seen: applications.Applied, *, json: bool) -> None:
    names = ", ".join(change.application for change in seen.changes)
    if json or not sys.stdin.isatty():
        raise Refused(
            f"nobody is there to agree to the changes of {names}, and nothing was changed",
            remedy="Say --yes, or --dry-run to see them only.",
        )
    if not typer.confirm(f"Change {names}?", err=True):
        raise Refused(f"nothing was changed of {names}", remedy="Apply it again when it is right.")


def _print(out: Console, seen: applications.Applied) -> None:
    if not seen.changes:
        out.print("no change")
    for change in seen.changes:
        kind = "new application" if change.new else "application"
        out.print(Text(f"{kind} {change.application}", "bold"))
        for each in change.fields:
            line = Text(f"  {plain(each.path)}: ")
            if each.old is not None:
                line.append(_value(each.old), "red")
                line.append(" → ")
            line.append("taken away" if each.new is None else _value(each.new), "green")
            out.print(line, soft_wrap=True)


def _print_done(out: Console, done: applications.Applied) -> None:
    for change in done.changes:
        out.print(f"{change.application} is declared so (revision {change.revision})")


def _value(value: Any) -> str:
    return plain(toml_value(value))
