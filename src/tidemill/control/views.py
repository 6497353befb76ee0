"""What people and the admin API are shown: plain records."""

from __future__ import annotations

import msgspec

from tidemill.control import audit
from tidemill.control.records import AuditEntry
from tidemill.foundation.errors import NotFound
from tidemill.foundation.home import Home
from tidemill.models import registry
from tidemill.serving import live
from tidemill.serving.plan import Deployment


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One version, with the aliases that point at it."""

    name: str
    version: int
    aliases: tuple[str, ...]
    runtime: str
    compiled: bool
    blessed: bool
    reasons: tuple[str, ...]
    run: str | None
    created_at: str


class AliasMove(msgspec.Struct, frozen=True, kw_only=True):
    """One change of an alias."""

    at: str
    alias: str
    version: int | None
    verb: str
    by: str
    reason: str


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """Versions; with one model's name, also how its aliases moved, the newest first."""

    versions: tuple[ModelRow, ...]
    history: tuple[AliasMove, ...] = ()


class Deployments(msgspec.Struct, frozen=True, kw_only=True):
    """What is live, and the newest changes."""

    live: tuple[Deployment, ...]
    changes: tuple[AuditEntry, ...]


def models(home: Home, name: str | None = None) -> Models:
    """Returns every version, or one model's with its aliases' history.

    Raises:
        NotFound: there is no model of that name.
    """
    with home.store.read(registry.TABLES) as conn:
        found = registry.list_versions(conn, name)
        if name is not None and not found:
            known = sorted({each.name for each in registry.list_versions(conn)})
            raise NotFound(
                f"model {name!r} does not exist",
                remedy=f"Known: {', '.join(known) or 'none yet'}.",
            )
        aliases = {each.name: registry.aliases(conn, each.name) for each in found}
        moves = registry.history(conn, name) if name is not None else ()
    return Models(
        versions=tuple(_row(each, aliases[each.name]) for each in found),
        history=tuple(_move(change) for change in reversed(moves)),
    )


def deployments(home: Home, application: str | None = None, limit: int = 20) -> Deployments:
    """Returns what is live, for one application if given.

    Raises:
        NotFound: there is no application of that name.
    """
    with home.store.read(live.TABLES) as conn:
        found = tuple(
            each for each in live.live_deployments(conn) if application in (None, each.application)
        )
    if application is not None and not found:
        raise NotFound(
            f"application {application!r} does not exist", remedy="tidemill deployments lists them."
        )
    changes = audit.read_audit(home.store, subject=application, limit=limit)
    return Deployments(live=found, changes=tuple(changes))


def _row(each: registry.ModelVersion, aliases: dict[str, int]) -> ModelRow:
    report = each.manifest.compiled_from
    return ModelRow(
        name=each.name,
        version=each.version,
        aliases=tuple(alias for alias, version in aliases.items() if version == each.version),
        runtime=each.manifest.runtime,
        compiled=report is not None and report.equal,
        blessed=each.blessed,
        reasons=tuple((each.blessing or {}).get("reasons", ())),
        run=each.run,
        created_at=each.created_at,
    )


def _move(change: registry.AliasChange) -> AliasMove:
    return AliasMove(
        at=change.at,
        alias=change.alias,
        version=change.to_version,
        verb=change.verb,
        by=change.by,
        reason=change.reason,
    )
