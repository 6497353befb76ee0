"""What the store knows of models: versions, blessings, aliases and every change of an alias.

``champion`` answers, ``challenger`` is compared with it, ``previous`` is what a rollback returns
to. The functions take a connection, so that an alias changes in the same transaction as the
deployment that it belongs to; what they raise undoes that transaction.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tidemill.foundation.clock import SYSTEM_CLOCK, Clock, iso
from tidemill.foundation.errors import InvalidInput, NotBlessed, NotFound
from tidemill.models.format import ModelManifest, parse_manifest

ALIASES = ("champion", "challenger", "previous")

TABLES = sa.MetaData()

_versions = sa.Table(
    "model_version",
    TABLES,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("content_sha256", sa.String(64), nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("files", sa.Text, nullable=False),
    sa.Column("blessed", sa.Boolean, nullable=False),
    sa.Column("blessing", sa.Text, nullable=True),
    sa.Column("run", sa.String(200), nullable=True),
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.UniqueConstraint("name", "content_sha256"),
)

_aliases = sa.Table(
    "model_alias",
    TABLES,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("alias", sa.String(20), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["name", "version"], ["model_version.name", "model_version.version"]),
)

_changes = sa.Table(
    "model_alias_change",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(100), nullable=False, index=True),
    sa.Column("alias", sa.String(20), nullable=False),
    sa.Column("from_version", sa.Integer, nullable=True),
    sa.Column("to_version", sa.Integer, nullable=True),
    sa.Column("verb", sa.String(20), nullable=False),
    sa.Column("by", sa.String(200), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.String(32), nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version of a model, as registered; only its blessing can change.

    Args:
        name: the model.
        version: from 1, without holes.
        manifest: what its ``model.json`` says.
        files: the key of each file in the installation's files, by relative path.
        blessed: the model gate let it through.
        blessing: the gate's verdict, if there is one.
        run: the pipeline run that made it.
        created_at: when it was registered, in ISO 8601.
    """

    name: str
    version: int
    manifest: ModelManifest
    files: dict[str, str]
    blessed: bool
    blessing: dict[str, Any] | None
    run: str | None
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasChange:
    """One change of one alias: who moved it from which version to which, when and why.

    Args:
        sequence: the order of changes.
        name: the model.
        alias: champion, challenger or previous.
        from_version: where it pointed; None if nowhere.
        to_version: where it points now; None if nowhere.
        verb: set, moved (because the champion changed), cleared or rolled back.
        by: who.
        reason: why.
        at: when, in ISO 8601.
    """

    sequence: int
    name: str
    alias: str
    from_version: int | None
    to_version: int | None
    verb: str
    by: str
    reason: str
    at: str


def get_version(conn: Connection, name: str, version: int | None = None) -> ModelVersion:
    """Returns a version, the latest if none is given.

    Raises:
        NotFound: there is none such; the message lists what there is.
    """
    query = sa.select(_versions).where(_versions.c.name == name)
    if version is not None:
        query = query.where(_versions.c.version == version)
    row = conn.execute(query.order_by(_versions.c.version.desc()).limit(1)).one_or_none()
    if row is not None:
        return _version(row)
    known = conn.execute(
        sa.select(_versions.c.version).where(_versions.c.name == name).order_by("version")
    ).scalars()
    numbers = ", ".join(map(str, known))
    if numbers:
        raise NotFound(
            f"model {name!r} has no version {version}", remedy=f"Its versions: {numbers}."
        )
    names = conn.execute(sa.select(_versions.c.name).distinct().order_by("name").limit(20))
    raise NotFound(
        f"model {name[:100]!r} does not exist",
        remedy=f"Known models: {', '.join(names.scalars()) or 'none yet'}.",
    )


def list_versions(conn: Connection, name: str | None = None) -> tuple[ModelVersion, ...]:
    """Returns the versions of one model, or of all, by name and version."""
    query = sa.select(_versions).order_by(_versions.c.name, _versions.c.version)
    if name is not None:
        query = query.where(_versions.c.name == name)
    return tuple(_version(row) for row in conn.execute(query))


def bless(conn: Connection, name: str, version: int, verdict: Mapping[str, Any]) -> None:
    """Records the gate's verdict on a version: blessed where ``verdict["blessed"]`` is true.

    Raises:
        NotFound: there is no such version.
        InvalidInput: the verdict does not say whether it is blessed.
    """
    if not isinstance(verdict.get("blessed"), bool):
        raise InvalidInput(
            f"the verdict on {name!r} version {version} does not say whether it is blessed",
            remedy='Give "blessed": true or false, and "reasons".',
        )
    get_version(conn, name, version)
    conn.execute(
        _versions.update()
        .where(_versions.c.name == name, _versions.c.version == version)
        .values(blessed=verdict["blessed"], blessing=msgspec.json.encode(dict(verdict)).decode())
    )


def set_alias(
    conn: Connection,
    name: str,
    alias: str,
    version: int,
    *,
    by: str,
    reason: str,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Points an alias at a version; a new champion makes the old one ``previous``.

    Pointing it where it points already changes nothing and leaves no trace.

    Raises:
        NotFound: there is no such version.
        InvalidInput: there is no such alias, or the champion would be its own ``previous``.
        NotBlessed: champion and previous must be blessed, and this version is not.
    """
    _check_alias(alias)
    lock_model(conn, name)
    found = get_version(conn, name, version)
    if alias != "challenger":
        check_blessed(found, alias)
    before = aliases(conn, name)
    if alias == "previous":
        _check_previous(before, version)
    if before.get(alias) == version:
        return
    log = _Log(conn, name, by, reason, clock)
    log.move(alias, before.get(alias), version, "set")
    if alias == "champion" and "champion" in before:
        log.move("previous", before.get("previous"), before["champion"], "moved")


def clear_alias(
    conn: Connection, name: str, alias: str, *, by: str, reason: str, clock: Clock = SYSTEM_CLOCK
) -> None:
    """Makes the challenger point nowhere; does nothing if it does already.

    Raises:
        InvalidInput: another alias than ``challenger`` is named.
    """
    if alias != "challenger":
        raise InvalidInput(
            f"alias {alias[:50]!r} cannot be cleared", remedy="Only the challenger can."
        )
    lock_model(conn, name)
    before = aliases(conn, name)
    if alias in before:
        _Log(conn, name, by, reason, clock).move(alias, before[alias], None, "cleared")


def rollback(
    conn: Connection, name: str, *, by: str, reason: str, clock: Clock = SYSTEM_CLOCK
) -> tuple[int, int]:
    """Makes ``previous`` the champion, and ``previous`` what it was before it.

    So each rollback undoes one change of the champion, the last not yet undone first.

    Returns:
        The version rolled back from, and the one rolled back to.

    Raises:
        NotFound: there is no champion, or nothing before it.
        NotBlessed: the previous one has lost its blessing since.
    """
    lock_model(conn, name)
    before = aliases(conn, name)
    if "champion" not in before or "previous" not in before:
        missing = "champion" if "champion" not in before else "previous champion"
        raise NotFound(
            f"model {name[:100]!r} has no {missing} to roll back",
            remedy=f"tidemill promote {name[:100]} VERSION makes another one live.",
        )
    start, target = before["champion"], before["previous"]
    check_blessed(get_version(conn, name, target), "champion")
    log = _Log(conn, name, by, reason, clock)
    earlier = _champions(history(conn, name))[:-2]
    log.move("champion", start, target, "rolled back")
    log.move("previous", target, earlier[-1] if earlier else None, "moved")
    return start, target


def aliases(conn: Connection, name: str) -> dict[str, int]:
    """Returns the version of each alias that is set."""
    query = sa.select(_aliases.c.alias, _aliases.c.version).where(_aliases.c.name == name)
    found = {row.alias: row.version for row in conn.execute(query)}
    return {alias: found[alias] for alias in ALIASES if alias in found}


def history(conn: Connection, name: str) -> tuple[AliasChange, ...]:
    """Returns every change of the model's aliases, oldest first."""
    query = sa.select(_changes).where(_changes.c.name == name).order_by(_changes.c.id)
    return tuple(
        AliasChange(
            sequence=row.id,
            name=row.name,
            alias=row.alias,
            from_version=row.from_version,
            to_version=row.to_version,
            verb=row.verb,
            by=row.by,
            reason=row.reason,
            at=row.at,
        )
        for row in conn.execute(query)
    )


class _Log:
    """Moves aliases of one model and records each move with the same author and reason."""

    def __init__(self, conn: Connection, name: str, by: str, reason: str, clock: Clock) -> None:
        self._conn = conn
        self._name = name
        self._by = by
        self._reason = reason
        self._at = iso(clock.now())

    def move(self, alias: str, start: int | None, target: int | None, verb: str) -> None:
        if start == target:
            return
        where = (_aliases.c.name == self._name, _aliases.c.alias == alias)
        if target is None:
            self._conn.execute(_aliases.delete().where(*where))
        elif start is None:
            values = {"name": self._name, "alias": alias, "version": target}
            self._conn.execute(_aliases.insert().values(**values))
        else:
            self._conn.execute(_aliases.update().where(*where).values(version=target))
        self._conn.execute(
            _changes.insert().values(
                name=self._name,
                alias=alias,
                from_version=start,
                to_version=target,
                verb=verb,
                by=self._by,
                reason=self._reason,
                at=self._at,
            )
        )


def _champions(changes: tuple[AliasChange, ...]) -> list[int]:
    """Returns the champions not undone, oldest first: the present one last, previous before it."""
    stack: list[int] = []
    for change in changes:
        if change.to_version is None:
            continue
        if change.alias == "champion" and change.verb == "set":
            stack.append(change.to_version)
        elif change.alias == "champion":
            stack.pop()
        elif change.alias == "previous" and change.verb == "set":
            stack[-2:-1] = [change.to_version]
            if stack[:-1][-2:] == [change.to_version] * 2:
                del stack[-2]
    return stack


def _check_alias(alias: str) -> None:
    if alias not in ALIASES:
        raise InvalidInput(
            f"alias {alias[:50]!r} does not exist", remedy=f"Known aliases: {', '.join(ALIASES)}."
        )


def _check_previous(before: dict[str, int], version: int) -> None:
    if before.get("champion", version) == version:
        raise InvalidInput(
            f"version {version} cannot be previous: "
            + ("it is the champion" if "champion" in before else "there is no champion"),
            remedy="Set the champion to another version first.",
        )


def check_blessed(found: ModelVersion, part: str) -> None:
    """Refuses a version that the gate did not bless any part that answers, such as champion.

    Raises:
        NotBlessed: it is not blessed; the reasons are told.
    """
    if found.blessed:
        return
    reasons = (found.blessing or {}).get("reasons") or ["it was never evaluated"]
    raise NotBlessed(
        f"model {found.name!r} version {found.version} is not blessed and cannot be {part}: "
        + "; ".join(map(str, reasons)),
        remedy="Evaluate it again, or choose a blessed version.",
    )


def find_content(conn: Connection, name: str, digest: str) -> ModelVersion | None:
    """Returns the version with that content, if the model has one."""
    row = conn.execute(
        sa.select(_versions).where(_versions.c.name == name, _versions.c.content_sha256 == digest)
    ).one_or_none()
    return None if row is None else _version(row)


def add_version(
    conn: Connection,
    name: str,
    *,
    manifest: ModelManifest,
    files: dict[str, str],
    run: str | None,
    clock: Clock,
) -> ModelVersion:
    """Adds the next version, not blessed; the model must be locked."""
    last = conn.execute(
        sa.select(sa.func.max(_versions.c.version)).where(_versions.c.name == name)
    ).scalar_one()
    version = (last or 0) + 1
    conn.execute(
        _versions.insert().values(
            name=name,
            version=version,
            content_sha256=manifest.content_sha256,
            manifest=msgspec.json.encode(manifest).decode(),
            files=msgspec.json.encode(files).decode(),
            blessed=False,
            run=run,
            created_at=iso(clock.now()),
        )
    )
    return get_version(conn, name, version)


def _version(row: sa.Row[Any]) -> ModelVersion:
    return ModelVersion(
        name=row.name,
        version=row.version,
        manifest=parse_manifest(row.manifest, f"{row.name} version {row.version}"),
        files=msgspec.json.decode(row.files, type=dict[str, str]),
        blessed=bool(row.blessed),
        blessing=None if row.blessing is None else msgspec.json.decode(row.blessing),
        run=row.run,
        created_at=row.created_at,
    )


def lock_model(conn: Connection, name: str) -> None:
    """Lets one transaction at a time change a model, until this one ends."""
    # SQLite has one writer anyway; elsewhere the writers of one model wait for each other.
    if conn.dialect.name == "postgresql":
        key = zlib.crc32(name.encode())
        conn.execute(
            sa.text("select pg_advisory_xact_lock(8403258, :key)"), {"key": key - (1 << 31)}
        )
