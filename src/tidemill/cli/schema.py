"""``tidemill schema``: what rows are to look like; shown, inferred, compared, edited."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.session import (
    ConfigOption,
    HomeOption,
    JsonOption,
    Session,
    plain,
    session,
    table,
)
from tidemill.cli.validate import EnvironmentOption, ServingOption, SnapshotOption
from tidemill.data.catalog import get_schema, set_schema
from tidemill.data.records import Anomaly
from tidemill.data.schema import Schema
from tidemill.data.schema_edits import Difference, differences
from tidemill.data.schema_files import read_schema
from tidemill.data.snapshot_checks import accept, infer_snapshot
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.home import Home

NameArgument = Annotated[str, typer.Argument(help="The dataset.")]


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    group = typer.Typer(help="Show, infer, compare and edit schemas.", no_args_is_help=True)
    app.add_typer(group, name="schema")
    _register_reading(group)
    _register_update(group)


def _register_reading(group: typer.Typer) -> None:
    @group.command("show")
    def show(
        name: NameArgument,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Print a dataset's schema as TOML."""
        with session(home=home, config=config, json=json) as on:
            _show(on, name, get_schema(on.home, name))

    @group.command("infer")
    def infer(
        name: NameArgument,
        snapshot: SnapshotOption = None,
        ranges: Annotated[
            bool, typer.Option("--ranges", help="Also the range of each number and time.")
        ] = False,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Print the schema that a snapshot alone would teach; the one in force stays."""
        with session(home=home, config=config, json=json) as on:
            _show(on, name, infer_snapshot(on.home, name, snapshot=snapshot, ranges=ranges))

    @group.command("diff")
    def diff(
        name: NameArgument,
        first: Annotated[str, typer.Argument(help="A schema file, or a snapshot's id.")],
        second: Annotated[
            str | None,
            typer.Argument(help="Another.", show_default="the schema in force"),
        ] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Show the rules that two schemas have differently: files, or what snapshots teach."""
        with session(home=home, config=config, json=json) as on:
            before = _named(on.home, name, first)
            after = get_schema(on.home, name) if second is None else _named(on.home, name, second)
            found = differences(before, after)
            on.show(
                {"dataset": name, "differences": found}, lambda out: _print_differences(out, found)
            )


def _register_update(group: typer.Typer) -> None:
    @group.command("update")
    def update(
        name: NameArgument,
        file: Annotated[
            Path | None, typer.Argument(help="A schema (TOML) whose rules come into force.")
        ] = None,
        anomalies: Annotated[
            list[str] | None,
            typer.Option(
                "--accept", help="Mend an anomaly by its id, as validate shows it; or all."
            ),
        ] = None,
        snapshot: SnapshotOption = None,
        environment: EnvironmentOption = None,
        serving: ServingOption = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Bring edited rules into force, or accept anomalies as what is to be expected."""
        if (file is None) == (not anomalies):
            raise InvalidInput("it is not said what to change", remedy="Give a FILE or --accept.")
        with session(home=home, config=config, json=json) as on:
            before = get_schema(on.home, name)
            accepted: list[Anomaly] = []
            if file is not None:
                after = set_schema(on.home, name, read_schema(file), whole=True)
            else:
                after, accepted = accept(
                    on.home,
                    name,
                    anomalies or [],
                    snapshot=snapshot,
                    environment=environment,
                    serving=serving,
                )
            found = differences(before, after)
            on.show(
                {
                    "dataset": name,
                    "accepted": [one.id for one in accepted],
                    "differences": found,
                    "schema": after,
                },
                lambda out: _print_differences(out, found),
            )


def _named(home: Home, name: str, what: str) -> Schema:
    """Returns the schema in a file, or the one that a snapshot teaches."""
    if Path(what).is_file():
        return read_schema(Path(what))
    try:
        return infer_snapshot(home, name, snapshot=what)
    except NotFound as error:
        raise NotFound(
            f"{what!r} is neither a file nor a snapshot of {name!r}", remedy="List the snapshots."
        ) from error


def _show(on: Session, name: str, schema: Schema) -> None:
    on.show(
        {"dataset": name, "schema": schema, "toml": schema.to_toml()},
        lambda out: out.print(
            plain(schema.to_toml()), markup=False, highlight=False, soft_wrap=True, end=""
        ),
    )


def _print_differences(out: Console, found: list[Difference]) -> None:
    if not found:
        out.print("no difference")
        return
    rows = table("Differences", "column", "rule", "before", "after")
    for one in found:
        before, after = ("" if each is None else str(each) for each in (one.before, one.after))
        rows.add_row(one.column or "(rows)", one.rule, before, after)
    out.print(rows)
