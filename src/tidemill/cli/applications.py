"""``tidemill applications``: registers, links, splits, scales and stops what clients query."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console

from tidemill.cli.inspection import print_inspection
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, Session, session, table
from tidemill.control import applications as verbs
from tidemill.control.deployments import Terms, list_deployments
from tidemill.control.local import ask_server
from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Column, Signature
from tidemill.serving.plan import Deployment

Name = Annotated[str, typer.Argument(help="The application.")]
ReasonOption = Annotated[str, typer.Option(help="Why, for the audit.")]


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    group = typer.Typer(help="Change what clients query.", no_args_is_help=True)
    app.add_typer(group, name="applications")
    _add_register(group)
    _add_links(group)
    _add_shares(group)
    _add_stop(group)


def _add_register(group: typer.Typer) -> None:
    @group.command("register")
    def register_(
        application: Name,
        inputs: Annotated[
            list[str] | None,
            typer.Option("--input", help="An input as NAME:TYPE or NAME:TYPE[4,2]; once for each."),
        ] = None,
        outputs: Annotated[
            list[str] | None, typer.Option("--output", help="An output, written alike.")
        ] = None,
        like: Annotated[
            str | None, typer.Option(help="Take the signature of MODEL:VERSION instead.")
        ] = None,
        slo_ms: Annotated[
            float | None, typer.Option(help="Milliseconds within which an answer is promised.")
        ] = None,
        default: Annotated[
            str | None, typer.Option(help="The answer that stands in, as a JSON object.")
        ] = None,
        max_age_s: Annotated[
            float | None, typer.Option(help="Seconds after which a table answers no more.")
        ] = None,
        reason: ReasonOption = "registered by hand",
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Make an application that has no model yet: its queries get its default, or a 503."""
        terms = Terms(slo_ms=slo_ms, default=_default(default), max_age_s=max_age_s)
        with session(home=home, config=config, json=json) as on:
            signature = (
                verbs.signature_like(on.home, like)
                if like is not None
                else Signature(_columns(inputs), _columns(outputs))
            )
            done = verbs.register(
                on.home, application, signature=signature, terms=terms, by="cli", reason=reason
            )
            _show(on, done)

    @group.command("list")
    def list_(
        home: HomeOption = None, config: ConfigOption = None, json: JsonOption = False
    ) -> None:
        """List applications with their versions and shares."""
        with session(home=home, config=config, json=json) as on:
            found = list_deployments(on.home)
            on.show({"applications": found}, lambda out: _print_all(out, found))


def _add_links(group: typer.Typer) -> None:
    @group.command("link")
    def link(
        application: Name,
        version: Annotated[str, typer.Argument(help="MODEL:VERSION or MODEL@ALIAS.")],
        weight: Annotated[
            float | None,
            typer.Option(help="Its share; 0 is ready without answering. 1 for the first, else 0."),
        ] = None,
        table: Annotated[
            str | None, typer.Option(help="A table that was built with this version.")
        ] = None,
        reason: ReasonOption = "linked by hand",
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Put a version beside those of an application, ready at once; it answers by its weight."""
        with session(home=home, config=config, json=json) as on:
            done = verbs.link(
                on.home, application, version, weight=weight, table=table, by="cli", reason=reason
            )
            _show(on, done)

    @group.command("unlink")
    def unlink(
        application: Name,
        version: Annotated[int, typer.Argument(help="The version's number.")],
        reason: ReasonOption = "unlinked by hand",
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Take a version away from an application."""
        with session(home=home, config=config, json=json) as on:
            _show(on, verbs.unlink(on.home, application, version, by="cli", reason=reason))


def _add_shares(group: typer.Typer) -> None:
    @group.command("weights")
    def weights(
        application: Name,
        shares: Annotated[list[str], typer.Argument(help="VERSION=WEIGHT, once for each.")],
        reason: ReasonOption = "weighed by hand",
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Change the shares of linked versions; those that are not named keep theirs."""
        with session(home=home, config=config, json=json) as on:
            done = verbs.set_weights(
                on.home, application, _weights(shares), by="cli", reason=reason
            )
            _show(on, done)

    @group.command("version")
    def version_(
        application: Name,
        version: Annotated[int, typer.Argument(help="The linked version's number.")],
        reason: ReasonOption = "chosen by hand",
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Give one linked version all the weight; the others stay ready."""
        with session(home=home, config=config, json=json) as on:
            _show(on, verbs.set_version(on.home, application, version, by="cli", reason=reason))

    @group.command("replicas")
    def replicas(
        application: Name,
        count: Annotated[int, typer.Argument(help="Workers for each version.")],
        reason: ReasonOption = "scaled by hand",
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Change how many workers answer; no query fails over it."""
        with session(home=home, config=config, json=json) as on:
            _show(on, verbs.set_replicas(on.home, application, count, by="cli", reason=reason))


def _add_stop(group: typer.Typer) -> None:
    @group.command("inspect")
    def inspect(
        application: Name,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Show what a running server has of it: queue, learned service time, cache, replicas."""
        with session(home=home, config=config, json=json) as on:
            path = f"/admin/v1/applications/{quote(application, safe='')}"
            shown = ask_server(on.home, "GET", path)
            on.show(shown, lambda out: print_inspection(out, shown))

    @group.command("stop")
    def stop(
        application: Name,
        reason: ReasonOption = "stopped by hand",
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Make an application answer nothing any more; its history stays."""
        with session(home=home, config=config, json=json) as on:
            done = verbs.stop(on.home, application, by="cli", reason=reason)
            on.show(
                done,
                lambda out: out.print(f"{application} is stopped (revision {done.revision})"),
            )


def _show(on: Session, done: Deployment) -> None:
    on.show(done, lambda out: _print(out, done))


def _print(out: Console, done: Deployment) -> None:
    out.print(f"{done.application}, revision {done.revision}", style="bold", markup=False)
    for each in done.versions:
        share = f"weight {each.weight:g}" if each.weight else "ready, without weight"
        out.print(f"  {each.model}:{each.version}  {share}", markup=False)
    if not done.versions:
        out.print("  no model: queries get the default, or an error")
    out.print(f"  {done.plan.replicas} replicas, SLO {done.slo_ms:g} ms")


def _print_all(out: Console, found: list[Deployment]) -> None:
    rows = table(
        "Applications", "application", "revision", "versions", "policy", "replicas", "SLO ms"
    )
    for each in found:
        versions = ", ".join(f"{v.model}:{v.version} ({v.weight:g})" for v in each.versions)
        rows.add_row(
            each.application,
            str(each.revision),
            versions or "-",
            str(msgspec.to_builtins(each.policy)["kind"]),
            str(each.plan.replicas),
            f"{each.slo_ms:g}",
        )
    out.print(rows)


def _columns(said: list[str] | None) -> tuple[Column, ...]:
    """Reads ``NAME:TYPE`` and ``NAME:TYPE[4,2]``."""
    columns = []
    for text in said or ():
        name, _, rest = text.rpartition(":")
        kind, _, shape = rest.removesuffix("]").partition("[")
        sizes = shape.split(",") if shape else []
        if not name or not all(size.strip().isdecimal() for size in sizes):
            raise InvalidInput(
                f"{text[:100]!r} is no column", remedy="Write NAME:TYPE, or NAME:TYPE[4,2]."
            )
        columns.append(Column(name, kind, tuple(int(size) for size in sizes)))
    return tuple(columns)


def _default(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise InvalidInput(
            f"the default is no JSON object: {error}", remedy="""Write it as '{"label": 0}'."""
        ) from error


def _weights(shares: list[str]) -> dict[int, float]:
    found = {}
    for text in shares:
        number, _, weight = text.partition("=")
        try:
            found[int(number)] = float(weight)
        except ValueError as error:
            raise InvalidInput(
                f"{text[:100]!r} is no share", remedy="Write VERSION=WEIGHT, as 2=0.1."
            ) from error
    return found
