"""What is live: the deployment table with its full history, and where a server reads it from.

The newest row of an application is what it answers with; a row without a document removes it.
Revisions grow over all applications, so that one number says whether anything has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tidemill.foundation.errors import InvalidInput, NotFound, TidemillError, Unavailable
from tidemill.foundation.home import Home
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.logs import log
from tidemill.foundation.names import check_name
from tidemill.foundation.store import Remembered
from tidemill.models.environments import environments_path, find_environment
from tidemill.models.format import read_manifest
from tidemill.models.registry import Registry
from tidemill.models.requirements import read_lock
from tidemill.serving.plan import Deployment, Live
from tidemill.tables.catalog import fetch_table, get_table
from tidemill.tables.redis import (
    PassBy,
    check_library,
    place_of,
    publish_table,
    remove_unused,
)
from tidemill.tables.table import TableInfo

TABLES = sa.MetaData()

_deployment = sa.Table(
    "deployment",
    TABLES,
    sa.Column("application", sa.String(100), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("document", sa.Text),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("by", sa.String(200), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.UniqueConstraint("revision", name="deployment_revision_once"),
)

# Made on the thread that imports: two threads that meet a record type for the first time at once
# make msgspec crash.
_deployment_decoder = msgspec.json.Decoder(Deployment)

_ONE_WRITER = sa.text("select pg_advisory_xact_lock(8403258)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRow:
    """One change of what an application answers with; ``deployment`` is None where it ended."""

    application: str
    revision: int
    deployment: Deployment | None
    created_at: float
    by: str
    reason: str


def write_deployment(
    conn: Connection, deployment: Deployment, *, by: str, reason: str, at: float
) -> Deployment:
    """Makes the deployment what its application answers with; returns it with its new revision.

    Call it in the transaction that also writes the alias and the audit row. The revision that the
    given record holds is ignored.

    Args:
        conn: an open write transaction.
        deployment: what is to be live.
        by: who changed it.
        reason: why.
        at: seconds since the epoch.
    """
    check_name("application", deployment.application)
    written = msgspec.structs.replace(deployment, revision=_next_revision(conn))
    _insert(conn, written.application, written.revision, written, by=by, reason=reason, at=at)
    return written


def remove_deployment(
    conn: Connection, application: str, *, by: str, reason: str, at: float
) -> int:
    """Makes an application answer nothing any more; returns the revision of that change.

    Raises:
        NotFound: nothing of that name is live.
    """
    if application not in {each.application for each in live_deployments(conn)}:
        raise NotFound(f"application {application!r} is not live")
    revision = _next_revision(conn)
    _insert(conn, application, revision, None, by=by, reason=reason, at=at)
    return revision


def live_deployments(conn: Connection) -> tuple[Deployment, ...]:
    """Returns what is live, by application name."""
    newest = (
        sa.select(_deployment.c.application, sa.func.max(_deployment.c.revision).label("revision"))
        .group_by(_deployment.c.application)
        .subquery()
    )
    rows = conn.execute(
        sa.select(_deployment.c.document)
        .join(
            newest,
            (_deployment.c.application == newest.c.application)
            & (_deployment.c.revision == newest.c.revision),
        )
        .where(_deployment.c.document.is_not(None))
        .order_by(_deployment.c.application)
    )
    return tuple(_read(document) for (document,) in rows)


def deployment_history(conn: Connection, application: str) -> tuple[DeploymentRow, ...]:
    """Returns every change of an application, the newest first."""
    rows = conn.execute(
        sa.select(_deployment)
        .where(_deployment.c.application == application)
        .order_by(_deployment.c.revision.desc())
    )
    return tuple(
        DeploymentRow(
            application=row.application,
            revision=row.revision,
            deployment=None if row.document is None else _read(row.document),
            created_at=row.created_at,
            by=row.by,
            reason=row.reason,
        )
        for row in rows
    )


def current_revision(conn: Connection) -> int:
    """Returns the newest revision over all applications; 0 before the first change."""
    newest: int | None = conn.execute(sa.select(sa.func.max(_deployment.c.revision))).scalar()
    return newest or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Where a live version's verified files are on this machine, and whether to trust its code.

    ``table`` is a folder, or the place of one in Redis, which need not be there yet: ``record``
    says what it holds.
    ``python`` is the interpreter of its own environment, if it has requirements.
    """

    folder: Path
    table: Path | str | None = None
    record: TableInfo | None = None
    features: Path | None = None
    trust_code: bool = False
    python: Path | None = None


class DeploymentSource(Protocol):
    """Tells a supervisor what is to be live. Methods block; they are called in threads."""

    def revision(self) -> int:
        """Returns a number that grows whenever anything changes; cheap, asked many times."""

    def deployments(self) -> tuple[Deployment, ...]:
        """Returns what is to be live, one record per application."""

    def resolve(self, live: Live, deployment: Deployment) -> Resolved:
        """Fetches a version's model and table to this machine, verified.

        Raises:
            TidemillError: it does not exist, cannot be fetched, or is damaged.
        """


class StoreSource:
    """Reads the deployment table of an installation.

    A registered model may run its code: who registered it was allowed to push code, or it would
    not be there.

    Args:
        home: the installation.
        instruments: where copies of tables that were damaged are counted.
    """

    def __init__(self, home: Home, instruments: Instruments | None = None) -> None:
        self._home = home
        self._damaged = (instruments or Instruments()).counter(
            "tidemill_table_copies_damaged",
            "Copies of tables on this machine that were not what was stored.",
        )
        self._revision = Remembered(home.store, TABLES, current_revision)
        self._pass_by = PassBy(home.clock)

    def revision(self) -> int:  # noqa: D102 - promised by DeploymentSource
        return self._revision.read()

    def deployments(self) -> tuple[Deployment, ...]:  # noqa: D102
        with self._home.store.read(TABLES) as conn:
            return live_deployments(conn)

    def resolve(self, live: Live, deployment: Deployment) -> Resolved:  # noqa: D102
        features = deployment.features
        folder = Registry(self._home).fetch(live.model, live.version)
        table, record = (None, None) if live.table is None else self._table(live.table)
        return Resolved(
            folder=folder,
            table=table,
            record=record,
            features=None if features is None else self._fetch(features),
            trust_code=read_manifest(folder).trust == "code",
            python=_python(environments_path(self._home.cache_path), folder, live),
        )

    def _table(self, table: str) -> tuple[Path | str, TableInfo | None]:
        """Returns where a table is, or will be once Redis takes it: nobody waits for that."""
        url = self._home.settings.tables.url
        if url is None:
            return self._fetch(table), None
        check_library()
        info = get_table(self._home.store, table)
        if not self._pass_by.on:
            try:
                publish_table(self._home, table, soon=True)
            except Unavailable as error:
                self._pass_by.begin()
                log("serving.live").warning("table.unpublished", table=table, reason=str(error))
        return place_of(url, info), info

    def _fetch(self, table: str) -> Path:
        def damaged() -> None:
            self._damaged.of().value += 1

        return fetch_table(self._home, table, damaged=damaged)


def publish_tables(home: Home) -> None:
    """Has every table that a deployment names in Redis; those that are there are left alone.

    Raises:
        Unavailable: Redis does not answer, or takes no more.
        TidemillError: a table is not what was stored; all others are there then.
    """
    with home.store.read(TABLES) as conn:
        live = live_deployments(conn)
    failed: TidemillError | None = None
    for table in sorted(_named(live)):
        try:
            publish_table(home, table)
        except Unavailable:
            raise
        except TidemillError as error:
            failed = error
    if failed is not None:
        raise failed


def remove_unused_tables(home: Home) -> int:
    """Removes tables from Redis that no deployment has named for a while; returns how many.

    Raises:
        Unavailable: Redis does not answer.
    """
    with home.store.read(TABLES) as conn:
        live = live_deployments(conn)
    return remove_unused(home, _named(live))


def _named(live: tuple[Deployment, ...]) -> set[str]:
    return {version.table for each in live for version in each.versions if version.table}


class CandidateFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a ``FileSource`` reads; ``folders`` are absolute, by "model:version".

    ``environments`` is the folder of the environments of models that have requirements.
    """

    deployments: tuple[Deployment, ...]
    folders: dict[str, str]
    tables: dict[str, str] = {}
    environments: str = ""
    trust_code: bool = False


_candidate_decoder = msgspec.json.Decoder(CandidateFile)


class FileSource:
    """Reads deployments and absolute folders from a JSON file: a private server's whole world.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "candidate.json"
        >>> _ = path.write_text('{"deployments": [], "folders": {}}')
        >>> FileSource(path).revision()
        1
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, CandidateFile] | None = None

    def revision(self) -> int:  # noqa: D102 - promised by DeploymentSource
        return max((each.revision for each in self._read().deployments), default=1)

    def deployments(self) -> tuple[Deployment, ...]:  # noqa: D102
        return self._read().deployments

    def resolve(self, live: Live, deployment: Deployment) -> Resolved:  # noqa: ARG002, D102
        content = self._read()
        name = f"{live.model}:{live.version}"
        if name not in content.folders:
            raise NotFound(
                f"{str(self._path)!r} has no folder for {name!r}",
                remedy=f'Add it to "folders"; there are: {", ".join(content.folders) or "none"}.',
            )
        if live.table is not None and live.table not in content.tables:
            raise NotFound(
                f"{str(self._path)!r} has no folder for table {live.table!r}",
                remedy='Add it to "tables".',
            )
        folder = Path(content.folders[name])
        return Resolved(
            folder=folder,
            table=None if live.table is None else Path(content.tables[live.table]),
            trust_code=content.trust_code,
            python=_python(Path(content.environments), folder, live),
        )

    def _read(self) -> CandidateFile:
        try:
            changed = self._path.stat().st_mtime_ns
            if self._seen is None or self._seen[0] != changed:
                content = _candidate_decoder.decode(self._path.read_bytes())
                self._seen = (changed, content)
        except (OSError, msgspec.MsgspecError) as error:
            raise InvalidInput(
                f"deployments cannot be read from {str(self._path)!r}: {error}",
                remedy="Write deployments and folders as JSON.",
            ) from error
        return self._seen[1]


def _python(environments: Path, folder: Path, live: Live) -> Path | None:
    """Returns the interpreter of a version's own environment, which must be there already."""
    lock = read_lock(folder, read_manifest(folder))
    if lock is None:
        return None
    return find_environment(environments, lock, model=live.model, version=live.version)


def _next_revision(conn: Connection) -> int:
    if conn.dialect.name == "postgresql":
        conn.execute(_ONE_WRITER)
    return current_revision(conn) + 1


def _insert(
    conn: Connection,
    application: str,
    revision: int,
    deployment: Deployment | None,
    *,
    by: str,
    reason: str,
    at: float,
) -> None:
    document = None if deployment is None else msgspec.json.encode(deployment).decode()
    conn.execute(
        _deployment.insert().values(
            application=application,
            revision=revision,
            document=document,
            created_at=at,
            by=by,
            reason=reason,
        )
    )


def _read(document: str) -> Deployment:
    return _deployment_decoder.decode(document)
