"""Removes tables and stored features that an application no longer needs, with their files."""

from __future__ import annotations

import shutil

import msgspec
import sqlalchemy as sa

from tidemill.control import audit
from tidemill.control.changes import METADATA
from tidemill.control.orphans import delete_unnamed, remove_orphans
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.foundation.names import check_name
from tidemill.serving import live
from tidemill.tables import catalog, predictions, redis
from tidemill.tables.table import TableInfo

KEEP = 10
"""What so many of the newest deployments named stays, so that a rollback finds its table."""

YOUNG_S = 3600.0
"""What was built within this time stays: it may be on its way to go live."""


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What a pruning came to.

    Args:
        application: whose.
        removed: the tables and features that are gone, the oldest first; or would be.
        kept: how many are there still.
        published: those that Redis holds yet: they go once it has removed them.
        bytes: that the files took which are gone, by the tables' records.
        abandoned: files beside them which no table names any more, whosever they were: builds that
            were killed a week ago or more, and never went on.
        dry_run: nothing was done.
    """

    application: str
    removed: tuple[TableInfo, ...]
    kept: int
    published: tuple[str, ...]
    bytes: int
    abandoned: int
    dry_run: bool


def prune(
    home: Home, application: str, *, by: str, keep: int = KEEP, dry_run: bool = False
) -> Pruned:
    """Removes an application's tables and features that nothing names any more.

    What any application answers with now stays, and what the newest deployments of this one named.
    Files that another table shares stay. Killed anywhere, the same call finishes; files of a table
    that is off the books by then go once they are old enough to be nobody's.

    Args:
        home: the installation.
        application: whose; it need not be live any more.
        by: who asks for it.
        keep: so many of its newest deployments count.
        dry_run: says what would go, and does nothing.

    Raises:
        NotFound: it never had a table.
        InvalidInput: ``keep`` is negative.
        Unavailable: tables are in Redis, and that does not answer.
    """
    check_name("application", application)
    if keep < 0:
        raise InvalidInput(f"keep is {keep}", remedy="Give 0 or more.")
    published = redis.published(home)
    with home.store.write(*METADATA, predictions.PREDICTIONS) as conn:
        every = catalog.tables_of(conn, application)
        named = _named(conn, application, keep)
        before = home.clock.now() - YOUNG_S
        unused = [each for each in every if each.id not in named and each.built_at < before]
        gone = tuple(each for each in unused if each.id not in published)
        if gone and not dry_run:
            _write_audit(home, conn, application, gone, by=by)
    abandoned = remove_orphans(home, dry_run=dry_run)
    if not every and not abandoned:
        raise NotFound(
            f"application {application!r} has no tables", remedy="See tidemill table list."
        )
    if not dry_run:
        gone = tuple(each for each in gone if _removed(home, application, each, keep))
    return Pruned(
        application=application,
        removed=gone,
        kept=len(every) - len(gone),
        published=tuple(each.id for each in unused if each.id in published),
        bytes=sum(each.bytes for each in gone),
        abandoned=abandoned,
        dry_run=dry_run,
    )


def _named(conn: sa.Connection, application: str, keep: int) -> set[str]:
    """Returns the tables and features that are live anywhere, or were here of late."""
    history = live.deployment_history(conn, application)[:keep]
    counted = [*live.live_deployments(conn), *(row.deployment for row in history)]
    named: set[str] = set()
    for each in counted:
        if each is not None:
            named |= {version.table for version in each.versions if version.table is not None}
            named |= set() if each.features is None else {each.features}
    return named


def _removed(home: Home, application: str, table: TableInfo, keep: int) -> bool:
    """Takes a table off the books, with the files that no other names; says whether it did.

    Each table is a turn of the store's writers of its own, and so are a few files: in a bucket all
    of them would keep others waiting for too long.
    """
    with home.store.write(*METADATA, predictions.PREDICTIONS) as conn:
        if table.id in _named(conn, application, keep) or not catalog.has_table(conn, table.id):
            return False  # by now
        keys = {catalog.drop_table(conn, table.id), *predictions.drop_parts(conn, table.id)}
    delete_unnamed(home, keys)
    # Whoever has it open keeps what it has.
    shutil.rmtree(catalog.folder_of(home, table.id), ignore_errors=True)
    return True


def _write_audit(
    home: Home, conn: sa.Connection, application: str, gone: tuple[TableInfo, ...], *, by: str
) -> None:
    audit.write_audit(
        conn,
        at=home.clock.now(),
        by=by,
        verb="prune_tables",
        subject=application,
        reason="no deployment names them",
        detail={"tables": [{"id": each.id, "kind": each.kind} for each in gone]},
    )
