"""What can be done to an application: registered, linked, split, scaled, stopped; or declared.

Each verb is one transaction that works on the store alone; a running server converges on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from tidemill.control import audit
from tidemill.control.changes import (
    METADATA,
    check_change,
    check_revision,
    current,
    newest_with,
    require,
    write_change,
)
from tidemill.control.deployments import Terms, with_terms
from tidemill.control.differences import Difference, differences
from tidemill.control.documents import ApplicationEntry, Document, VersionEntry
from tidemill.foundation.errors import Conflict, InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.models import registry
from tidemill.models.signature import Signature
from tidemill.serving import live
from tidemill.serving.plan import Deployment, Live, ServingPlan

_PLAIN = ("slo_ms", "default", "key", "represent", "policy", "signature", "max_age_s")
"""Fields of an entry that are the deployment's as they are; "none" is None."""

Edit = Callable[[sa.Connection, Deployment], Deployment]


class ApplicationChange(msgspec.Struct, frozen=True, kw_only=True):
    """What a document changes of one application.

    ``revision`` is that of the change; of a dry run, the one that is live, 0 for a new application.
    """

    application: str
    new: bool
    revision: int
    fields: tuple[Difference, ...]


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What a document changes; ``applied`` says whether it is written."""

    applied: bool
    changes: tuple[ApplicationChange, ...]


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """An application that answers nothing any more; its history stays."""

    application: str
    revision: int


def apply(
    home: Home,
    document: Document,
    *,
    by: str,
    reason: str,
    dry_run: bool = False,
    expected: Mapping[str, int] | None = None,
) -> Applied:
    """Makes live what a document declares: all of it in one transaction, or nothing.

    Args:
        home: the installation.
        document: what is to be live; what it leaves out stays as it is.
        by: who changes it.
        reason: why.
        dry_run: check and compare only.
        expected: the revision of each application when it was compared, 0 for a new one.

    Raises:
        NotFound: a model, version, alias or table does not exist.
        NotBlessed: a version is to answer that nobody blessed.
        InvalidInput: what is declared does not fit together.
        Conflict: somebody changed one of them since it was compared.
    """
    changes: list[ApplicationChange] = []
    with (home.store.read if dry_run else home.store.write)(*METADATA) as conn:
        for name, entry in document.applications.items():
            before = current(conn, name)
            check_revision(name, before, None if expected is None else expected.get(name))
            after = _declared(conn, name, before, entry)
            check_change(conn, after)
            fields = differences(before, after)
            if before is not None and not fields:
                continue
            if not dry_run:
                after = write_change(home, conn, before, after, verb="apply", by=by, reason=reason)
            changes.append(
                ApplicationChange(
                    application=name,
                    new=before is None,
                    revision=after.revision,
                    fields=fields,
                )
            )
    return Applied(applied=not dry_run, changes=tuple(changes))


def register(
    home: Home, application: str, *, signature: Signature, terms: Terms, by: str, reason: str
) -> Deployment:
    """Makes an application that has no model yet.

    Its queries get its default, or a typed error, until a version is linked.

    Raises:
        Conflict: there is one of that name.
        InvalidInput: its terms do not fit its signature.
    """
    made = with_terms(
        Deployment(application=application, revision=0, versions=(), signature=signature), terms
    )
    with home.store.write(*METADATA) as conn:
        if current(conn, application) is not None:
            raise Conflict(
                f"application {application!r} exists", remedy="Change it with tidemill apply."
            )
        return write_change(home, conn, None, made, verb="register", by=by, reason=reason)


def link(
    home: Home,
    application: str,
    version: str,
    *,
    weight: float | None = None,
    table: str | None = None,
    by: str,
    reason: str,
) -> Deployment:
    """Adds a version beside those that an application has.

    Args:
        home: the installation.
        application: to which.
        version: ``MODEL:VERSION`` or ``MODEL@ALIAS``.
        weight: its share beside the others' weights; 0 makes it ready, and answer only who asks
            for it by number. None is 1 for the first version and 0 for others.
        table: its table; None for the one that it last had here, if any.
        by: who changes it.
        reason: why.

    Raises:
        NotFound: the application, version or table does not exist.
        NotBlessed: it has a weight, and nobody blessed it.
        Conflict: it is linked already.
        InvalidInput: it has another signature.
    """

    def edit(conn: sa.Connection, present: Deployment) -> Deployment:
        model, number = resolve_version(conn, version)
        if any((each.model, each.version) == (model, number) for each in present.versions):
            raise Conflict(
                f"{model!r} version {number} is linked to {application!r} already",
                remedy="Change its weight with tidemill applications weights.",
            )
        last = newest_with(conn, application, model, number)
        share = weight if weight is not None else float(not present.versions)
        added = Live(model=model, version=number, table=table or last.table, weight=share)
        return msgspec.structs.replace(present, versions=(*present.versions, added))

    return _edit(home, application, edit, verb="link", by=by, reason=reason)


def unlink(home: Home, application: str, version: int, *, by: str, reason: str) -> Deployment:
    """Takes a version away; an application that has none left keeps its signature.

    Raises:
        NotFound: the application does not exist, or has no such version.
    """

    def edit(conn: sa.Connection, present: Deployment) -> Deployment:
        _require_version(present, version)
        first = present.versions[0]
        signature = (
            present.signature
            or registry.get_version(conn, first.model, first.version).manifest.signature
        )
        left = tuple(each for each in present.versions if each.version != version)
        return msgspec.structs.replace(
            present, versions=left, signature=present.signature if left else signature
        )

    return _edit(home, application, edit, verb="unlink", by=by, reason=reason)


def set_weights(
    home: Home, application: str, weights: Mapping[int, float], *, by: str, reason: str
) -> Deployment:
    """Changes the shares of versions; those that are not named keep theirs.

    Raises:
        NotFound: the application does not exist, or has no such version.
        NotBlessed: a version is to answer that nobody blessed.
        InvalidInput: a weight is no share.
    """

    def edit(_: sa.Connection, present: Deployment) -> Deployment:
        for number in weights:
            _require_version(present, number)
        changed = tuple(
            msgspec.structs.replace(each, weight=weights.get(each.version, each.weight))
            for each in present.versions
        )
        return msgspec.structs.replace(present, versions=changed)

    return _edit(home, application, edit, verb="set_weights", by=by, reason=reason)


def set_version(home: Home, application: str, version: int, *, by: str, reason: str) -> Deployment:
    """Gives one linked version all the weight; the others stay linked and ready, without any.

    Raises:
        NotFound: the application does not exist, or has no such version.
        NotBlessed: nobody blessed it.
    """

    def edit(_: sa.Connection, present: Deployment) -> Deployment:
        _require_version(present, version)
        changed = tuple(
            msgspec.structs.replace(each, weight=float(each.version == version))
            for each in present.versions
        )
        return msgspec.structs.replace(present, versions=changed)

    return _edit(home, application, edit, verb="set_version", by=by, reason=reason)


def set_replicas(
    home: Home, application: str, replicas: int, *, by: str, reason: str
) -> Deployment:
    """Changes how many workers each version of an application has.

    Raises:
        NotFound: the application does not exist.
        InvalidInput: it is no number of workers.
    """

    def edit(_: sa.Connection, present: Deployment) -> Deployment:
        plan = msgspec.structs.replace(present.plan, replicas=replicas)
        return msgspec.structs.replace(present, plan=plan)

    return _edit(home, application, edit, verb="set_replicas", by=by, reason=reason)


def stop(home: Home, application: str, *, by: str, reason: str) -> Stopped:
    """Makes an application answer nothing any more; its history, models and ledger stay.

    Raises:
        NotFound: there is no such application.
    """
    with home.store.write(*METADATA) as conn:
        require(conn, application)
        at = home.clock.now()
        revision = live.remove_deployment(conn, application, by=by, reason=reason, at=at)
        audit.write_audit(
            conn, at=at, by=by, verb="stop", subject=application, reason=reason, detail={}
        )
    return Stopped(application=application, revision=revision)


def resolve_version(conn: sa.Connection, text: str) -> tuple[str, int]:
    """Returns the model and number of ``MODEL:VERSION``, ``MODEL@ALIAS`` or ``MODEL``, its newest.

    Raises:
        NotFound: there is no such model, version or alias.
        InvalidInput: it is none of these.
    """
    model, colon, number = text.partition(":")
    if colon:
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise InvalidInput(
                f"{text[:100]!r} names no version", remedy="Write MODEL:VERSION, as flights:3."
            )
        return model, registry.get_version(conn, model, int(number)).version
    model, at, alias = text.partition("@")
    if at:
        return model, _alias(conn, model, alias)
    return model, registry.get_version(conn, model).version


def find_version(home: Home, text: str) -> tuple[str, int] | None:
    """Returns what ``resolve_version`` does; None if there is no model of that name at all.

    Raises:
        NotFound: the model has no such version or alias.
        InvalidInput: it names a model, and no version.
    """
    name = re.split("[:@]", text, maxsplit=1)[0]
    with home.store.read(registry.TABLES) as conn:
        if not registry.list_versions(conn, name):
            return None
        return resolve_version(conn, text)


def signature_like(home: Home, version: str) -> Signature:
    """Returns the signature of a registered version; see ``resolve_version``."""
    with home.store.read(registry.TABLES) as conn:
        model, number = resolve_version(conn, version)
        return registry.get_version(conn, model, number).manifest.signature


def _edit(
    home: Home, application: str, edit: Edit, *, verb: str, by: str, reason: str
) -> Deployment:
    with home.store.write(*METADATA) as conn:
        present = require(conn, application)
        changed = edit(conn, present)
        return write_change(home, conn, present, changed, verb=verb, by=by, reason=reason)


def _require_version(present: Deployment, version: int) -> None:
    known = [each.version for each in present.versions]
    if version not in known:
        raise NotFound(
            f"application {present.application!r} has no version {version}",
            remedy=f"Linked: {', '.join(map(str, known)) or 'none'}.",
        )


def _declared(
    conn: sa.Connection, name: str, before: Deployment | None, entry: ApplicationEntry
) -> Deployment:
    """Returns what an application is to be: what it is, with what the document says of it."""
    if entry.head_keys is not msgspec.UNSET:
        raise InvalidInput(
            f"a table of {name!r} is to be built for head_keys, and nothing is built here",
            remedy="Use tidemill apply.",
        )
    present = before or Deployment(application=name, revision=0, versions=())
    said: dict[str, Any] = {
        field: None if value == "none" else value
        for field in _PLAIN
        if (value := getattr(entry, field)) is not msgspec.UNSET
    }
    if entry.versions is not msgspec.UNSET:
        said["versions"] = tuple(_version(conn, present, each) for each in entry.versions)
    if entry.plan is not msgspec.UNSET:
        said["plan"] = _plan(name, present.plan, entry.plan)
    return msgspec.structs.replace(present, **said)


def _plan(name: str, plan: ServingPlan, said: Mapping[str, Any]) -> ServingPlan:
    given = {field: None if value == "none" else value for field, value in said.items()}
    try:
        return msgspec.convert({**msgspec.to_builtins(plan), **given}, ServingPlan)
    except msgspec.ValidationError as error:
        path, why = f"applications.{name}.plan", str(error)
        where = why.replace("$.", f"{path}.") if "$." in why else f"{path}: {why}"
        raise InvalidInput(where, remedy="Correct it.") from error


def _version(conn: sa.Connection, present: Deployment, entry: VersionEntry) -> Live:
    if (entry.version is None) == (entry.alias is None):
        raise InvalidInput(
            f"a version of {entry.model!r} in {present.application!r} has "
            + ("no number" if entry.version is None else "a number and an alias"),
            remedy='Give one of them: version = 3, or alias = "champion".',
        )
    number = entry.version
    if number is None:
        number = _alias(conn, entry.model, entry.alias or "")
    table = entry.table
    if table is msgspec.UNSET:
        now = [
            each for each in present.versions if (each.model, each.version) == (entry.model, number)
        ]
        kept = now[0] if now else newest_with(conn, present.application, entry.model, number)
        return Live(model=entry.model, version=number, table=kept.table, weight=entry.weight)
    return Live(
        model=entry.model,
        version=number,
        table=None if table == "none" else table,
        weight=entry.weight,
    )


def _alias(conn: sa.Connection, model: str, alias: str) -> int:
    known = registry.aliases(conn, model)
    if alias not in known:
        registry.get_version(conn, model)  # a model that nobody knows is told first
        raise NotFound(
            f"model {model!r} has no alias {alias[:100]!r}",
            remedy=f"It has: {', '.join(known) or 'none yet'}.",
        )
    return known[alias]
