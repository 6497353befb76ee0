"""Changes what is live: each verb is one transaction of alias, deployment and audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, UnsetType

from tidemill.control.changes import (
    METADATA,
    as_far_as_kept,
    check_change,
    check_revision,
    current,
    main_of,
    newest_with,
    require,
    write_change,
)
from tidemill.control.records import RolledBack
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.models import registry
from tidemill.serving import live
from tidemill.serving.plan import Deployment, Live, ServingPlan
from tidemill.serving.selection import sole
from tidemill.tables import catalog


class Terms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an application promises; what is None stays as it was, or as the default is."""

    slo_ms: float | None = None
    default: dict[str, Any] | None = None
    key: tuple[str, ...] | None = None
    represent: dict[str, str] | None = None
    plan: ServingPlan | None = None
    max_age_s: float | None = None


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
    with home.store.write(*METADATA) as conn:
        before = current(conn, application)
        deployment = with_terms(
            before or Deployment(application=application, revision=0, versions=()), terms
        )
        deployment = msgspec.structs.replace(
            deployment, versions=(Live(model=model, version=version, table=table),)
        )
        check_change(conn, deployment)
        registry.set_alias(conn, model, "champion", version, by=by, reason=reason, clock=home.clock)
        return write_change(home, conn, before, deployment, verb="deploy", by=by, reason=reason)


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
        model = main_of(require(conn, application)).model
        last = newest_with(conn, application, model, version)
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

    A split goes back to the version that was alone before it.

    Raises:
        NotFound: the application does not exist, or nothing was live before.
    """
    with home.store.write(*METADATA) as conn:
        present = require(conn, application)
        main = main_of(present)
        if sole(present) is None:
            older = as_far_as_kept(conn, _alone_before(conn, application))
            others = [each for each in present.versions if each.version != older.version]
            going = max(others, key=lambda each: each.weight)
        else:
            going = main
            _, returning = registry.rollback(
                conn, main.model, by=by, reason=reason, clock=home.clock
            )
            older = newest_with(conn, application, main.model, returning)
        back = msgspec.structs.replace(
            present, versions=(msgspec.structs.replace(older, weight=1.0),)
        )
        written = write_change(home, conn, present, back, verb="rollback", by=by, reason=reason)
    return RolledBack(
        application=application,
        from_version=going.version,
        to_version=older.version,
        table=older.table,
        revision=written.revision,
    )


def _alone_before(conn: sa.Connection, application: str) -> Live:
    """Returns the version that answered everything when last one did."""
    for row in live.deployment_history(conn, application):  # the newest first
        at = None if row.deployment is None else sole(row.deployment)
        if row.deployment is not None and at is not None:
            return row.deployment.versions[at]
    raise NotFound(
        f"no version of {application!r} has ever answered alone",
        remedy="Give one of them all the weight.",
    )


def attach_table(
    home: Home,
    application: str,
    table: str,
    *,
    key: tuple[str, ...],
    represent: Mapping[str, str] | None = None,
    by: str,
    reason: str,
    features: str | UnsetType | None = UNSET,
    expected: int | None = None,
) -> Deployment:
    """Puts a table in front of the version that it was built with, if that is live.

    Args:
        home: the installation.
        application: whose table it is.
        table: its id.
        key: the columns by which the application is asked from now on.
        by: who asks for it.
        reason: why.
        features: the id of the features that were stored with it, None for none; unset, they stay.
        represent: its representations from now on; None for those that it has.
        expected: the revision that it must have still; None for any.

    Raises:
        NotFound: the application does not exist.
        InvalidInput: the table was built with a version that is not live.
        Conflict: somebody changed the application since.
    """
    info = catalog.get_table(home.store, table)
    with home.store.write(*METADATA) as conn:
        present = require(conn, application)
        check_revision(application, present, expected)
        versions = tuple(
            msgspec.structs.replace(each, table=table)
            if (each.model, each.version) == (info.model, info.version)
            else each
            for each in present.versions
        )
        if versions == present.versions and all(each.table != table for each in versions):
            raise InvalidInput(
                f"table {table} was built with {info.model!r} version {info.version}, "
                f"which is not live in {application!r}",
                remedy="Build a table for the live version, or promote that version.",
            )
        changed = msgspec.structs.replace(present, versions=versions, key=key)
        if represent is not None:
            changed = msgspec.structs.replace(changed, represent=dict(represent))
        if not isinstance(features, UnsetType):
            changed = msgspec.structs.replace(changed, features=features)
        return write_change(home, conn, present, changed, verb="attach_table", by=by, reason=reason)


def profiled(
    deployment: Deployment, key: tuple[str, ...] | None, represent: Mapping[str, str] | None
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Returns the key by which an application's traffic is measured, and what represents it.

    Args:
        deployment: the application.
        key: the columns asked for; its own if None. None at all are all inputs.
        represent: the representations asked for; if None its own, of the key's columns.
    """
    columns = key or deployment.key
    if represent is not None:
        return columns, represent
    own = deployment.represent
    return columns, {name: own[name] for name in own if not columns or name in columns}


def get_deployment(home: Home, application: str) -> Deployment:
    """Returns what an application answers with.

    Raises:
        NotFound: there is no such application.
    """
    with home.store.read(*METADATA) as conn:
        return require(conn, application)


def list_deployments(home: Home) -> list[Deployment]:
    """Returns every application's deployment, by name."""
    with home.store.read(*METADATA) as conn:
        return sorted(live.live_deployments(conn), key=lambda each: each.application)


def with_terms(deployment: Deployment, terms: Terms) -> Deployment:
    """Returns a deployment with the terms that are given."""
    given = {
        name: value
        for name in terms.__struct_fields__
        if (value := getattr(terms, name)) is not None
    }
    return msgspec.structs.replace(deployment, **given)
