"""``tidemill quarantine``: the rows that were held, why, and what becomes of them."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import asdict
from rich.console import Console

from tidemill.cli.progress import count_progress
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, plain, session, table
from tidemill.data.catalog import find_reviews, get_dataset
from tidemill.data.held_rows import list_held, show_held
from tidemill.data.records import HeldGroup, Kind, Review, Selection
from tidemill.data.reviews import discard, release
from tidemill.foundation.clock import iso
from tidemill.foundation.errors import InvalidInput
from tidemill.recipes.impact import Impact, impact

NameArgument = Annotated[str, typer.Argument(help="The dataset.")]
ReasonOption = Annotated[str | None, typer.Option(help="Only rows held for this.")]
KindOption = Annotated[
    str | None, typer.Option(help="Only quarantined, duplicate or late rows, by that word.")
]
IngestOption = Annotated[str | None, typer.Option(help="Only rows that this ingest held.")]
WhereOption = Annotated[
    str | None,
    typer.Option(help="Only rows that meet this condition in SQL; data.COLUMN is a row's text."),
]
AllOption = Annotated[bool, typer.Option("--all", help="Every held row.")]
ByOption = Annotated[
    str | None, typer.Option(help="Who reviewed them.", show_default="the account's name")
]


_KINDS: dict[str, Kind] = {
    "quarantined": "quarantined",
    "duplicate": "duplicate",
    "late": "late",
}


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    group = typer.Typer(
        help="Look at rows that were held, release them, discard them.", no_args_is_help=True
    )
    app.add_typer(group, name="quarantine")
    _add_looks(group)
    _add_release(group)
    _add_discard(group)
    _add_impact(group)


def _add_looks(group: typer.Typer) -> None:
    @group.command("list")
    def list_(
        name: NameArgument,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """List held rows by ingest and reason."""
        with session(home=home, config=config, json=json) as on:
            held = list_held(on.home, name)
            on.show(
                {"dataset": name, "rows": sum(each.rows for each in held), "held": held},
                lambda out: _print_groups(out, name, held),
            )

    @group.command("show")
    def show(
        name: NameArgument,
        reason: ReasonOption = None,
        kind: KindOption = None,
        ingest: IngestOption = None,
        where: WhereOption = None,
        limit: Annotated[int, typer.Option(help="At most so many rows.", min=1)] = 20,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Show held rows with their source, line, rule and text."""
        with session(home=home, config=config, json=json) as on:
            rows = show_held(
                on.home,
                name,
                reason=reason,
                kind=_kind(kind),
                ingest=ingest,
                where=where,
                limit=limit,
            ).to_pylist()
            on.show({"dataset": name, "rows": rows}, lambda out: _print_rows(out, rows))

    @group.command("reviews")
    def reviews(
        name: NameArgument,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """List what was released and discarded, by whom, when and why."""
        with session(home=home, config=config, json=json) as on:
            get_dataset(on.home, name)
            found = find_reviews(on.home, name)
            on.show(
                {"dataset": name, "reviews": found},
                lambda out: _print_reviews(out, name, found),
            )


def _add_release(group: typer.Typer) -> None:
    @group.command("release")
    def release_(
        name: NameArgument,
        reason: ReasonOption = None,
        kind: KindOption = None,
        ingest: IngestOption = None,
        where: WhereOption = None,
        every: AllOption = False,
        by: ByOption = None,
        why: Annotated[str, typer.Option(help="Why, for the record.")] = "",
        schema: Annotated[
            Path | None, typer.Option(help="Rules (TOML) that hold from now on.")
        ] = None,
        lateness_s: Annotated[
            float | None, typer.Option(help="How many seconds a row may be late from now on.")
        ] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Judge held rows again, by the rules of today: those that pass become a new snapshot."""
        with session(home=home, config=config, json=json) as on:
            selection = _selection(reason, kind, ingest, where, every=every)
            with count_progress(on, f"judging held rows of {name}") as progress:
                done = release(
                    on.home,
                    name,
                    selection,
                    by=_account() if by is None else by,
                    why=why,
                    schema=schema,
                    lateness_s=lateness_s,
                    progress=progress,
                )
            on.show({"dataset": name, "review": done}, lambda out: _print_release(out, done))


def _add_discard(group: typer.Typer) -> None:
    @group.command("discard")
    def discard_(
        name: NameArgument,
        why: Annotated[str, typer.Option(help="Why, for the record.")],
        reason: ReasonOption = None,
        kind: KindOption = None,
        ingest: IngestOption = None,
        where: WhereOption = None,
        every: AllOption = False,
        by: ByOption = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Mark held rows as not wanted: they stay on record, and no release takes them."""
        with session(home=home, config=config, json=json) as on:
            selection = _selection(reason, kind, ingest, where, every=every)
            account = _account() if by is None else by
            with count_progress(on, f"marking held rows of {name}") as progress:
                done = discard(on.home, name, selection, by=account, why=why, progress=progress)
            on.show({"dataset": name, "review": done}, lambda out: _print_discard(out, done))


def _add_impact(group: typer.Typer) -> None:
    @group.command("impact")
    def impact_(
        name: NameArgument,
        reason: ReasonOption = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Name the model versions that were trained without rows that were held then."""
        with session(home=home, config=config, json=json) as on:
            found = impact(on.home, name, reason=reason)
            on.show(found, lambda out: _print_impact(out, found))


def _account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # an account without a name, as in a container
        return f"uid {os.getuid()}"


def _kind(word: str | None) -> Kind | None:
    if word is None or word in _KINDS:
        return None if word is None else _KINDS[word]
    raise InvalidInput(
        f"kind {word[:40]!r} is not known", remedy="Give quarantined, duplicate or late."
    )


def _selection(
    reason: str | None, kind: str | None, ingest: str | None, where: str | None, *, every: bool
) -> Selection:
    some = any(one is not None for one in (reason, kind, ingest, where))
    if some == every:
        raise InvalidInput(
            "--all is given beside what chooses rows" if every else "no rows are chosen",
            remedy="Give some of --reason, --kind, --ingest and --where, or --all.",
        )
    return Selection(reason=reason, kind=_kind(kind), ingest=ingest, where=where)


# --- what is printed ---------------------------------------------------------------------------


def _print_groups(out: Console, name: str, held: list[HeldGroup]) -> None:
    if not held:
        out.print(f"No row of {name} is held.", markup=False)
        return
    columns = ("rows", "discarded", "kind", "reason", "rule", "example", "since")
    rows = table(f"Held rows of {name}", *columns)
    for each in held:
        rows.add_row(
            f"{each.rows:,}",
            f"{each.discarded:,}" if each.discarded else "",
            each.kind,
            each.reason,
            each.rule,
            "" if each.example is None else str(each.example)[:40],
            iso(each.held_at),
        )
    out.print(rows, markup=False)


def _print_rows(out: Console, rows: list[dict[str, object]]) -> None:
    if not rows:
        out.print("No such row is held.")
    for row in rows:
        out.print(
            plain(f"{row['source']}:{row['line']} {row['reason']}: {row['rule']}"),
            markup=False,
            style="bold",
        )
        out.print(plain(f"  {row['row']}"), markup=False)


def _print_reviews(out: Console, name: str, found: list[Review]) -> None:
    if not found:
        out.print(f"No held row of {name} was reviewed.", markup=False)
        return
    rows = table(f"Reviews of {name}", "at", "by", "act", "rows", "accepted", "which", "why")
    for one in found:
        which = {key: value for key, value in asdict(one.selection).items() if value is not None}
        rows.add_row(
            iso(one.at),
            one.by,
            one.act,
            f"{one.rows:,}",
            f"{one.accepted:,}",
            ", ".join(f"{key} {value}" for key, value in which.items()) or "all",
            one.why,
        )
    out.print(rows, markup=False)


def _print_release(out: Console, done: Review | None) -> None:
    if done is None:
        out.print("Nothing changed: no such row is held, or each is held for the same still.")
        return
    out.print(f"{done.accepted:,} of {done.rows:,} rows are accepted", markup=False)
    if done.held:
        out.print(f"{done.held:,} are held again, by the rules of today", markup=False)
    if done.unreadable:
        out.print(f"{done.unreadable:,} stay as they are: they were not kept whole", markup=False)
    if done.snapshot:
        out.print(f"snapshot {done.snapshot}", markup=False)


def _print_discard(out: Console, done: Review | None) -> None:
    if done is None:
        out.print("No such row is held.")
    else:
        out.print(f"{done.rows:,} rows are discarded; they stay on record", markup=False)


def _print_impact(out: Console, found: Impact) -> None:
    out.print(
        plain(
            f"{found.dataset}: {found.held:,} rows are held, {found.discarded:,} are discarded, "
            f"{found.released:,} were released"
        ),
        markup=False,
    )
    if not found.models:
        out.print("No model version was trained without them.")
        return
    rows = table("Trained without", "model", "version", "aliases", "held", "released")
    for one in found.models:
        rows.add_row(
            one.model,
            str(one.version),
            ", ".join(one.aliases),
            f"{one.held:,}",
            f"{one.released:,}",
        )
    out.print(rows, markup=False)
