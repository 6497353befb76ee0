"""A document whose tables are built before the rest of it is applied: a plan put into service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import UNSET

from tidemill.control import applications
from tidemill.control.applications import ApplicationChange, Applied
from tidemill.control.deployments import get_deployment, profiled
from tidemill.control.differences import Difference
from tidemill.control.documents import ApplicationEntry, Document, VersionEntry
from tidemill.control.rollout import Progress, answering, build_live_table, count_asked, keyed_rows
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.home import Home
from tidemill.serving.plan import Deployment
from tidemill.tables.catalog import get_table


def apply_planned(
    home: Home,
    document: Document,
    *,
    by: str,
    reason: str,
    dry_run: bool = False,
    expected: Mapping[str, int] | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> Applied:
    """Makes live what a document declares, tables of what was asked included.

    Where an application's ``head_keys`` differ from its table, that is built of what the ledger
    saw, and live, before the document is applied in one transaction: whoever is killed in between
    leaves a table too many, and no query without an answer. The same call then goes on.

    Args:
        home: the installation.
        document: what is to be live; what it leaves out stays as it is.
        by: who changes it.
        reason: why.
        dry_run: check and compare only.
        expected: the revision of each application when it was compared, 0 for a new one.
        progress: gives for an application what is told the rows done and all rows.

    Raises:
        InvalidInput: a table is wanted by an application without a key, or of too many keys.
        DataRefused: nothing of the kind was asked yet.
        Conflict: somebody changed one of them since it was compared, be it during a build.
        TidemillError: as ``applications.apply``, and as a build.
    """
    plain: dict[str, ApplicationEntry] = {}
    heads: list[ApplicationChange] = []
    for name, entry in document.applications.items():
        plain[name] = entry
        if entry.head_keys is not UNSET:
            present = get_deployment(home, name)
            plain[name] = _without_head(present, entry, entry.head_keys)
            heads += _head_change(home, present, entry, entry.head_keys)
    rest = Document(applications=plain)
    seen = applications.apply(home, rest, by=by, reason=reason, dry_run=True, expected=expected)
    if dry_run:
        return Applied(applied=False, changes=_with_heads(seen.changes, heads))
    revisions, built = dict(expected or {}), []
    for change in heads:
        entry = document.applications[change.application]
        revision = _build(
            home,
            change,
            entry,
            by=by,
            expected=revisions.get(change.application),
            progress=progress,
        )
        revisions[change.application] = revision
        built.append(msgspec.structs.replace(change, revision=revision))
    done = applications.apply(home, rest, by=by, reason=reason, expected=revisions)
    return Applied(applied=True, changes=_with_heads(done.changes, built))


def _without_head(present: Deployment, entry: ApplicationEntry, head: int) -> ApplicationEntry:
    """Returns what is left to declare: that no version has a table, where none is wanted."""
    if head < 0 or entry.versions is not UNSET:
        raise InvalidInput(
            f"head_keys of {present.application!r} is {head}"
            if head < 0
            else f"{present.application!r} has versions with their tables, and head_keys",
            remedy="Give 0 or more." if head < 0 else "Leave one of them away.",
        )
    entry = msgspec.structs.replace(entry, head_keys=UNSET)
    if head:
        return entry
    versions = tuple(
        VersionEntry(model=v.model, version=v.version, weight=v.weight, table="none")
        for v in present.versions
    )
    return msgspec.structs.replace(entry, versions=versions)


def _head_change(
    home: Home, present: Deployment, entry: ApplicationEntry, head: int
) -> list[ApplicationChange]:
    """Returns what is to be built, in one change; none where the live table is that one.

    A table of fewer keys is that one only where the ledger has no more of them.
    """
    if not head:
        return []
    key, represent = _key(present, entry)
    table = answering(present).table
    info = None if table is None else get_table(home.store, table)
    if (
        info is not None
        and info.source == keyed_rows(home, present.application, head=head).name
        and tuple(name for name, _ in info.key) == key
        and dict(info.represent) == represent
        and (
            info.rows >= head
            or info.rows >= count_asked(home, present.application, key=key, represent=represent)
        )
    ):
        return []
    was = None if info is None else info.rows
    return [
        ApplicationChange(
            application=present.application,
            new=False,
            revision=present.revision,
            fields=(Difference(path="head_keys", old=was, new=head),),
        )
    ]


def _key(present: Deployment, entry: ApplicationEntry) -> tuple[tuple[str, ...], dict[str, str]]:
    """Returns the columns of the key as declared, and what represents them."""
    key = present.key if entry.key is UNSET else entry.key
    represent = present.represent if entry.represent is UNSET else entry.represent
    columns, _ = profiled(present, key, None)
    return tuple(columns), {name: how for name, how in represent.items() if name in columns}


def _build(
    home: Home,
    change: ApplicationChange,
    entry: ApplicationEntry,
    *,
    by: str,
    expected: int | None,
    progress: Callable[[str], Progress] | None,
) -> int:
    """Builds the table of the most frequent questions; returns the revision at which it is live."""
    name, (head,) = change.application, [each.new for each in change.fields]
    key, represent = _key(get_deployment(home, name), entry)
    built = build_live_table(
        home,
        name,
        keyed_rows(home, name, head=head, key=key or None, represent=represent),
        key=key or None,
        represent=represent,
        by=by,
        expected=expected,
        progress=None if progress is None else progress(name),
    )
    return built.revision


def _with_heads(
    changes: Sequence[ApplicationChange], heads: Sequence[ApplicationChange]
) -> tuple[ApplicationChange, ...]:
    """Returns the changes with those of tables, one for each application."""
    found = {each.application: each for each in heads}
    for each in changes:
        head = found.get(each.application)
        fields = each.fields if head is None else (*head.fields, *each.fields)
        found[each.application] = msgspec.structs.replace(each, fields=fields)
    return tuple(found.values())
