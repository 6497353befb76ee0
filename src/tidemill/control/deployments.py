"""Changes what is live: each verb is one transaction of alias, deployment and audit."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from tidemill.control import audit
from tidemill.control.records import RolledBack
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.foundation.names import check_name
from tidemill.models import registry
from tidemill.serving import live
from tidemill.serving.plan import Deployment, Live, ServingPlan
from tidemill.serving.version import check_default
from tidemill.tables import catalog
from tidemill.tables.table import TableInfo

METADATA = (registry.TABLES, live.TABLES, audit.TABLES)


class Terms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an application promises; what is None stays as it was, or as the default is."""

    slo_ms: float | None = None
    default: dict[str, Any] | None = None
    key: tuple[str, ...] | None = None
    plan: ServingPlan | None = None


def deploy(
    home: Home,
    application: str,
    *,
    model: str,
    version: int,
    table: str | None = None,
    terms: Terms = Terms(),  # noqa: B008 - frozen
    by: str,
    reason: str,
) -> Deployment:
    """Makes a blessed version the champion and what the application answers with, and audits it.

    Args:
        home: the installation.
        application: what clients query; made if it is new.
        model: the model's name.
        version: the version to go live.
        table: the id of this version's table, if it has one.
        terms: what the application promises.
        by: who changes it.
        reason: why.

    Raises:
        NotFound: the version or table does not exist.
        NotBlessed: nobody blessed it.
        InvalidInput: the terms do not fit the model, or the table was built with another version.
    """
    check_name("application", application)
    _check_terms(terms)
    _check_version(model, version)
    if table is not None:
        _check_table(catalog.get_table(home.store, table), model, version)
    with home.store.write(*METADATA) as conn:
        now = home.clock.now()
        registry.set_alias(conn, model, "champion", version, by=by, reason=reason, clock=home.clock)
        before = _current(conn, application)
        deployment = _with_terms(
            before or Deployment(application=application, revision=0, versions=()), terms
        )
        deployment = msgspec.structs.replace(
            deployment, versions=(Live(model=model, version=version, table=table),)
        )
        _check_default(conn, deployment)
        if deployment == before:
            return before  # it is live already: nothing changes, nothing is audited
        return _write(conn, deployment, verb="deploy", by=by, reason=reason, at=now)


def promote(
    home: Home, application: str, version: int, *, table: str | None, by: str, reason: str
) -> Deployment:
    """Makes another version of an application's model live; its other terms stay.

    Args:
        home: the installation.
        application: whose version changes.
        version: the version to go live.
        table: the id of a table built with it; None for the one that it last had here, if any.
        by: who changes it.
        reason: why.

    Raises:
        NotFound: the application, version or table does not exist.
        NotBlessed: nobody blessed it.
        InvalidInput: the table was built with another version.
    """
    with home.store.read(*METADATA) as conn:
        model = _require(conn, application).versions[0].model
        last = _newest_with(conn, application, model, version)
    return deploy(
        home,
        application,
        model=model,
        version=version,
        table=table or last.table,
        by=by,
        reason=reason,
    )


def rollback(home: Home, application: str, *, by: str, reason: str) -> RolledBack:
    """Brings back what was live before the present version, with the table that it had then.

    Raises:
        NotFound: the application does not exist, or nothing was live before.
    """
    with home.store.write(*METADATA) as conn:
        now = home.clock.now()
        current = _require(conn, application)
        going = current.versions[0]
        _, returning = registry.rollback(conn, going.model, by=by, reason=reason, clock=home.clock)
        older = _newest_with(conn, application, going.model, returning)
        deployment = msgspec.structs.replace(current, versions=(older,))
        written = _write(conn, deployment, verb="rollback", by=by, reason=reason, at=now)
    return RolledBack(
        application=application,
        from_version=going.version,
        to_version=older.version,
        table=older.table,
        revision=written.revision,
    )


def attach_table(
    home: Home, application: str, table: str, *, key: tuple[str, ...], by: str, reason: str
) -> Deployment:
    """Puts a table in front of the version that it was built with, if that is live.

    Raises:
        NotFound: the application does not exist.
        InvalidInput: the table was built with a version that is not live.
    """
    info = catalog.get_table(home.store, table)
    with home.store.write(*METADATA) as conn:
        current = _require(conn, application)
        versions = tuple(
            msgspec.structs.replace(each, table=table)
            if (each.model, each.version) == (info.model, info.version)
            else each
            for each in current.versions
        )
        if versions == current.versions and all(each.table != table for each in versions):
            raise InvalidInput(
                f"table {table} was built with {info.model!r} version {info.version}, "
                f"which is not live in {application!r}",
                remedy="Build a table for the live version, or promote that version.",
            )
        deployment = msgspec.structs.replace(current, versions=versions, key=key)
        return _write(
            conn, deployment, verb="attach_table", by=by, reason=reason, at=home.clock.now()
        )


def get_deployment(home: Home, application: str) -> Deployment:
    """Returns what an application answers with.

    Raises:
        NotFound: there is no such application.
    """
    with home.store.read(*METADATA) as conn:
        return _require(conn, application)


def list_deployments(home: Home) -> list[Deployment]:
    """Returns every application's deployment, by name."""
    with home.store.read(*METADATA) as conn:
        return sorted(live.live_deployments(conn), key=lambda each: each.application)


def _write(
    conn: sa.Connection, deployment: Deployment, *, verb: str, by: str, reason: str, at: float
) -> Deployment:
    written = live.write_deployment(conn, deployment, by=by, reason=reason, at=at)
    audit.write_audit(
        conn,
        at=at,
        by=by,
        verb=verb,
        subject=written.application,
        reason=reason,
        detail=msgspec.to_builtins(written),
    )
    return written


def _current(conn: sa.Connection, application: str) -> Deployment | None:
    found = [each for each in live.live_deployments(conn) if each.application == application]
    return found[0] if found else None


def _require(conn: sa.Connection, application: str) -> Deployment:
    found = _current(conn, application)
    if found is None:
        known = ", ".join(sorted(each.application for each in live.live_deployments(conn)))
        raise NotFound(
            f"application {application!r} does not exist",
            remedy=f"Known: {known}." if known else "Push a model to make one.",
        )
    return found


def _newest_with(conn: sa.Connection, application: str, model: str, version: int) -> Live:
    """Returns the newest record of a version in the application's history, table included."""
    for row in live.deployment_history(conn, application):  # the newest first
        for each in row.deployment.versions if row.deployment else ():
            if (each.model, each.version) == (model, version):
                return each
    return Live(model=model, version=version)


def _with_terms(deployment: Deployment, terms: Terms) -> Deployment:
    given = {
        name: value
        for name in terms.__struct_fields__
        if (value := getattr(terms, name)) is not None
    }
    return msgspec.structs.replace(deployment, **given)


def _check_version(model: str, version: int) -> None:
    if not 0 < version < 1 << 31:
        raise NotFound(
            f"model {model!r} has no version {version}", remedy="tidemill models lists them."
        )


def _check_table(info: TableInfo, model: str, version: int) -> None:
    if (info.model, info.version) != (model, version):
        raise InvalidInput(
            f"table {info.id} was built with {info.model!r} version {info.version}, "
            f"not with {model!r} version {version}",
            remedy="Name the table that was built with that version; tidemill table list.",
        )


def _check_default(conn: sa.Connection, deployment: Deployment) -> None:
    """Refuses a default that a server would refuse: nothing goes live that cannot be served."""
    going = deployment.versions[0]
    signature = registry.get_version(conn, going.model, going.version).manifest.signature
    check_default(deployment, signature)


def _check_terms(terms: Terms) -> None:
    if terms.slo_ms is not None and not 0.0 < terms.slo_ms <= 3_600_000.0:
        raise InvalidInput(f"slo_ms is {terms.slo_ms:g}", remedy="Use milliseconds above 0.")
