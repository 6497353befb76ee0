"""``tidemill table``: answers prepared beforehand, in front of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Annotated, Literal

import typer
from rich.console import Console

from tidemill.cli.key_option import key_columns
from tidemill.cli.progress import bytes_progress, count_progress
from tidemill.cli.prune_tables import register_prune
from tidemill.cli.report_table import register_show
from tidemill.cli.represent_option import RepresentOption
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, Session, session, table
from tidemill.control import rescoring, rollout
from tidemill.data.representation import declarations, show_declarations
from tidemill.data.sql_source import shown_url
from tidemill.foundation.clock import iso
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.processes import yield_to_others
from tidemill.foundation.settings import FlagValue
from tidemill.recipes.keyed_rows import KeyedRows
from tidemill.recipes.keyed_sources import keyed_source
from tidemill.recipes.representatives import shown_agreement
from tidemill.tables.catalog import list_tables
from tidemill.tables.table import TableInfo

FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="Every input: a file, a folder, s3://BUCKET/PREFIX, or the URL of a database.",
    ),
]
QueryOption = Annotated[str | None, typer.Option(help="What the database of --from is asked.")]
TableOption = Annotated[str | None, typer.Option("--table", help="Its table, in place of a query.")]
SnapshotOption = Annotated[
    str | None, typer.Option(help="Rows of a dataset: NAME, or NAME@SNAPSHOT.")
]
SqlOption = Annotated[str | None, typer.Option(help="Rows of a query, as of tidemill sql.")]
DomainOption = Annotated[
    str | None, typer.Option(help="All that the schema of this dataset allows.")
]

OnOption = Annotated[Literal["here", "ray"], typer.Option("--on", help="Where the model scores.")]
AddressOption = Annotated[
    str | None, typer.Option("--ray-address", help="Of a Ray cluster; without, one of its own.")
]


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    group = typer.Typer(help="Build and look at lookup tables.", no_args_is_help=True)
    app.add_typer(group, name="table")
    _register_build(group)
    _register_rescore(group)
    register_show(group)
    register_prune(group)

    @group.command("list")
    def list_(
        application: Annotated[str | None, typer.Argument(help="One application only.")] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """List tables, the newest first."""
        with session(home=home, config=config, json=json) as on:
            found = list_tables(on.home.store, application)
            on.show({"tables": found}, lambda out: _print(out, found))


def _register_build(group: typer.Typer) -> None:
    @group.command("build")
    def build(
        application: Annotated[str, typer.Argument(help="The application.")],
        source: FromOption = None,
        query: QueryOption = None,
        db_table: TableOption = None,
        snapshot: SnapshotOption = None,
        sql: SqlOption = None,
        domain: DomainOption = None,
        ledger: Annotated[
            bool, typer.Option("--ledger", help="What the application was asked.")
        ] = False,
        head: Annotated[
            int | None, typer.Option(help="With --ledger: so many keys, the most frequent.")
        ] = None,
        key: Annotated[
            str | None,
            typer.Option(help="The key's columns, with commas; as before if not given."),
        ] = None,
        full: Annotated[
            bool, typer.Option("--full", help="Score every key anew, whatever is known of it.")
        ] = False,
        keep: Annotated[
            bool, typer.Option("--keep", help="Keep the live table's keys that the source lacks.")
        ] = False,
        store_features: Annotated[
            bool | None,
            typer.Option(
                "--store-features/--no-store-features",
                help="Keep the inputs of each key, too, so that it alone is enough to ask a model.",
            ),
        ] = None,
        represent: RepresentOption = None,
        min_agreement: Annotated[
            float, typer.Option(help="Refuse where a smaller share agrees with what represents it.")
        ] = 0.0,
        tolerance: Annotated[float, typer.Option(help="Up to so much, real numbers agree.")] = 0.0,
        where: OnOption = "here",
        ray_address: AddressOption = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Score the keys of a source with the live version, and serve the table before it.

        Keys whose inputs are those of the version's live table keep their answers.
        """
        columns = key_columns(key)
        given = {
            "--from": source,
            "--snapshot": snapshot,
            "--sql": sql,
            "--domain": domain,
            "--ledger": ledger or None,
        }
        _check_build(given, head=head, full=full, keep=keep)
        flags = _ray(where, ray_address)
        yield_to_others()
        with (
            session(home=home, config=config, json=json, flags=flags) as on,
            source_rows(on, source, query=query, table=db_table) as elsewhere,
            count_progress(on, f"scoring keys of {application}") as progress,
        ):
            rows = elsewhere or rollout.keyed_rows(
                on.home, application, snapshot=snapshot, sql=sql, domain=domain, head=head,
                key=columns, represent=None if represent is None else declarations(represent),
            )  # fmt: skip
            done = rollout.build_live_table(
                on.home, application, rows, key=columns, by="cli",
                represent=None if represent is None else declarations(represent),
                min_agreement=min_agreement, tolerance=tolerance,
                full=full, keep=keep, features=store_features, on=where, progress=progress,
            )  # fmt: skip
            on.show(done, lambda out: _print_built(out, done))


def _register_rescore(group: typer.Typer) -> None:
    @group.command("rescore")
    def rescore(
        application: Annotated[str, typer.Argument(help="The application.")],
        source: FromOption = None,
        query: QueryOption = None,
        db_table: TableOption = None,
        snapshot: SnapshotOption = None,
        sql: SqlOption = None,
        domain: DomainOption = None,
        head: Annotated[
            int, typer.Option(help="So many keys go live first, the most frequent.")
        ] = rescoring.HEAD,
        share: Annotated[
            float, typer.Option(help="No more of them than got this share of the questions.")
        ] = 1.0,
        where: OnOption = "here",
        ray_address: AddressOption = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Score the table of the version before with the live one, the most frequent keys first."""
        given = {"--from": source, "--snapshot": snapshot, "--sql": sql, "--domain": domain}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise InvalidInput(
                f"{len(named)} sources of keys are given: {', '.join(named)}",
                remedy="Give one, or none for the table of the version before.",
            )
        flags = _ray(where, ray_address)
        yield_to_others()
        with (
            session(home=home, config=config, json=json, flags=flags) as on,
            source_rows(on, source, query=query, table=db_table) as elsewhere,
            count_progress(on, f"scoring keys of {application}") as progress,
        ):
            rows = elsewhere
            if named and source is None:
                rows = rollout.keyed_rows(
                    on.home, application, snapshot=snapshot, sql=sql, domain=domain
                )
            done = rescoring.rescore(
                on.home, application, rows, by="cli", head=head, share=share, on=where,
                progress=progress,
                on_head=None if json else lambda first: _print_head(on.err, first),
            )  # fmt: skip
            on.show(done, lambda out: _print_built(out, done.whole))


def _ray(where: str, address: str | None) -> dict[str, FlagValue]:
    """Returns the settings that the options say.

    Raises:
        InvalidInput: an address is given for nothing.
    """
    if address is not None and where != "ray":
        raise InvalidInput("--ray-address is of --on ray only", remedy="Give --on ray, too.")
    return {"ray.address": address}


def _check_build(given: Mapping[str, object], *, head: int | None, full: bool, keep: bool) -> None:
    """Raises InvalidInput where there is not one source, or options do not go together."""
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise InvalidInput(
            f"{len(named)} sources of keys are given: {', '.join(named) or 'none'}",
            remedy=f"Give one of: {', '.join(given)}.",
        )
    if head is not None and given["--ledger"] is None:
        raise InvalidInput("--head is of --ledger only", remedy="Give --ledger, too.")
    if full and keep:
        raise InvalidInput("--full takes nothing over to keep", remedy="Leave one away.")


@contextmanager
def source_rows(
    on: Session, source: str | None, *, query: str | None, table: str | None
) -> Iterator[KeyedRows | None]:
    """Gives the rows of --from; copies of what is elsewhere are made first, and last as long."""
    if source is None:
        if (query or table) is not None:
            raise InvalidInput("a query is given, and no database", remedy="Name one: --from URL.")
        yield None
        return
    with ExitStack() as stack:
        with bytes_progress(on, f"copying {shown_url(source)}") as told:
            rows = keyed_source(on.home, source, query=query, table=table, progress=told)
            found = stack.enter_context(rows)
        yield found


def _print_head(err: Console, first: rollout.LiveTable) -> None:
    err.print(
        f"the first {first.table.rows:,} keys are live (revision {first.revision})", markup=False
    )


def _print_built(out: Console, done: rollout.LiveTable) -> None:
    out.print(
        f"table {done.table.id}: {done.table.rows:,} keys, {done.table.bytes:,} bytes, "
        f"live before version {done.table.version} (revision {done.revision})"
    )
    if done.build.damaged is not None:
        out.print(
            f"the answers of table {done.build.damaged} are damaged in the files: "
            "all keys were scored"
        )
    if done.build.base is not None:
        keys = done.build.keys
        out.print(
            f"beside table {done.build.base}: {keys.new:,} new, {keys.changed:,} changed, "
            f"{keys.unchanged:,} unchanged, {keys.kept:,} kept, {keys.dropped:,} dropped"
        )
    if done.table.represent:
        said = show_declarations(dict(done.table.represent))
        out.print(f"represented: {said}", markup=False)
    if done.table.agreement is not None:
        out.print(shown_agreement(done.table.agreement), markup=False)


def _print(out: Console, found: list[TableInfo]) -> None:
    rows = table("Tables", "id", "application", "scored by", "keys", "bytes", "built", "from")
    rows.columns[0].no_wrap = True  # it is copied
    for each in found:
        rows.add_row(
            each.id,
            each.application,
            f"{each.model}:{each.version}",
            f"{each.rows:,}",
            f"{each.bytes:,}",
            iso(each.built_at),
            each.source or "",
        )
    out.print(rows)
