"""One change of what is live: checked as a server would, written with its alias and its audit row.

Everything that changes a deployment ends here. What a server would refuse is refused before it is
written; what changes nothing is neither written nor audited.
"""

from __future__ import annotations

import math

import msgspec
import sqlalchemy as sa

from tidemill.control import audit
from tidemill.foundation.errors import Conflict, InvalidInput, InvalidModel, NotFound
from tidemill.foundation.home import Home
from tidemill.foundation.names import check_name
from tidemill.models import registry
from tidemill.models.signature import Signature
from tidemill.serving import live
from tidemill.serving.placement import decide_placement
from tidemill.serving.plan import Deployment, Live, ServingPlan
from tidemill.serving.selection import check_weights
from tidemill.serving.version import check_default, signature_of
from tidemill.tables import catalog
from tidemill.tables.represented import check_represented

METADATA = (registry.TABLES, live.TABLES, audit.TABLES, catalog.TABLES)
_MAX_SLO_MS = 3_600_000.0


def current(conn: sa.Connection, application: str) -> Deployment | None:
    """Returns what an application answers with; None if there is no such application."""
    found = [each for each in live.live_deployments(conn) if each.application == application]
    return found[0] if found else None


def require(conn: sa.Connection, application: str) -> Deployment:
    """Returns what an application answers with.

    Raises:
        NotFound: there is no such application; those that there are, are named.
    """
    found = current(conn, application)
    if found is None:
        known = ", ".join(sorted(each.application for each in live.live_deployments(conn)))
        raise NotFound(
            f"application {application!r} does not exist",
            remedy=f"Known: {known}." if known else "Push a model to make one.",
        )
    return found


def check_revision(application: str, present: Deployment | None, expected: int | None) -> None:
    """Does nothing where an application has the revision that it is to have.

    Args:
        application: its name.
        present: what it answers with; None if there is none, which is revision 0.
        expected: the revision; None for any.

    Raises:
        Conflict: it has another one.
    """
    revision = 0 if present is None else present.revision
    if expected is not None and expected != revision:
        raise Conflict(
            f"application {application!r} has changed meanwhile (revision {revision})",
            remedy="Look at the differences again.",
        )


def main_of(deployment: Deployment) -> Live:
    """Returns the version that answers most, or the first if none answers.

    Raises:
        NotFound: the application has no version.
    """
    found = deployment.main or next(iter(deployment.versions), None)
    if found is None:
        raise NotFound(
            f"application {deployment.application!r} has no model", remedy="Link a version to it."
        )
    return found


def newest_with(conn: sa.Connection, application: str, model: str, version: int) -> Live:
    """Returns the newest record of a version in the application's history, table included.

    A table that was removed since is not.
    """
    for row in live.deployment_history(conn, application):  # the newest first
        for each in row.deployment.versions if row.deployment else ():
            if (each.model, each.version) == (model, version):
                return msgspec.structs.replace(as_far_as_kept(conn, each), weight=1.0)
    return Live(model=model, version=version)


def as_far_as_kept(conn: sa.Connection, version: Live) -> Live:
    """Returns a version without its table, if that was removed since."""
    if version.table is None or catalog.has_table(conn, version.table):
        return version
    return msgspec.structs.replace(version, table=None)


def write_change(
    home: Home,
    conn: sa.Connection,
    before: Deployment | None,
    after: Deployment,
    *,
    verb: str,
    by: str,
    reason: str,
) -> Deployment:
    """Makes a deployment what its application answers with; returns it with its revision.

    A version that comes to answer most becomes the champion of its model.

    Args:
        home: the installation.
        conn: an open write transaction on ``METADATA``.
        before: what is live; None for a new application.
        after: what is to be live; its revision is ignored.
        verb: what was done, for the audit.
        by: who changes it.
        reason: why.

    Raises:
        NotFound: a version or table does not exist.
        NotBlessed: a version is to answer that nobody blessed.
        InvalidInput: what is declared does not fit together, or no server would take it.
    """
    check_change(conn, after)
    main = after.main
    if main is not None and not _same(main, None if before is None else before.main):
        registry.set_alias(
            conn, main.model, "champion", main.version, by=by, reason=reason, clock=home.clock
        )
    if before is not None and after == msgspec.structs.replace(before, revision=after.revision):
        return before
    at = home.clock.now()
    written = live.write_deployment(conn, after, by=by, reason=reason, at=at)
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


def check_change(conn: sa.Connection, deployment: Deployment) -> None:
    """Does nothing for a deployment that a server would take; see ``write_change``."""
    check_name("application", deployment.application)
    if not 0.0 < deployment.slo_ms <= _MAX_SLO_MS:
        raise InvalidInput(
            f"slo_ms is {deployment.slo_ms:g}",
            remedy=f"Use milliseconds above 0, at most {_MAX_SLO_MS:g}.",
        )
    if deployment.max_age_s is not None and not 0.0 < deployment.max_age_s < math.inf:
        raise InvalidInput(
            f"max_age_s is {deployment.max_age_s:g}", remedy='Use seconds above 0, or "none".'
        )
    _check_plan(deployment)
    signature = signature_of(
        deployment, [_check_version(conn, each, deployment.plan) for each in deployment.versions]
    )
    check_weights(deployment, signature)
    check_default(deployment, signature)
    _check_key(deployment, signature)
    check_represented(signature.inputs, deployment.represent)


def _same(one: Live, other: Live | None) -> bool:
    return other is not None and (one.model, one.version) == (other.model, other.version)


def _check_version(conn: sa.Connection, version: Live, plan: ServingPlan) -> Signature:
    """Returns a version's signature, once it and its table may be served as planned."""
    if not 0 < version.version < 1 << 31:
        raise NotFound(
            f"model {version.model!r} has no version {version.version}",
            remedy="tidemill models lists them.",
        )
    found = registry.get_version(conn, version.model, version.version)
    decide_placement(plan, found.manifest)
    if version.weight > 0.0:
        registry.check_blessed(found, "live")
    if version.table is not None:
        info = catalog.read_table(conn, version.table)
        if info.kind != "answers":
            raise InvalidInput(
                f"table {info.id} holds features, not answers", remedy="tidemill table list."
            )
        if (info.model, info.version) != (version.model, version.version):
            raise InvalidInput(
                f"table {info.id} was built with {info.model!r} version {info.version}, "
                f"not with {version.model!r} version {version.version}",
                remedy="Name the table that was built with that version; tidemill table list.",
            )
    return found.manifest.signature


def _check_plan(deployment: Deployment) -> None:
    try:
        msgspec.convert(msgspec.to_builtins(deployment.plan), ServingPlan)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"the plan of {deployment.application!r} cannot be: {error}", remedy="Correct it."
        ) from error


def _check_key(deployment: Deployment, signature: Signature) -> None:
    known = [column.name for column in signature.inputs]
    for name in deployment.key:
        if name not in known:
            raise InvalidModel(
                f"the key of {deployment.application!r} names {name!r}, which is no input",
                remedy=f"Inputs: {', '.join(known)}.",
            )
        if deployment.key.count(name) > 1:
            raise InvalidInput(
                f"the key of {deployment.application!r} names {name!r} twice",
                remedy="Name it once.",
            )
