"""From rows to live: the tables of live versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec import UNSET

from tidemill.control.deployments import attach_table, get_deployment, profiled
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.home import Home
from tidemill.models.format import read_manifest
from tidemill.models.registry import Registry
from tidemill.recipes.asked_keys import AskedKeys
from tidemill.recipes.chunks import Where
from tidemill.recipes.keyed_rows import (
    KeyedRows,
    rows_of_domain,
    rows_of_ledger,
    rows_of_snapshot,
)
from tidemill.recipes.representatives import Representing
from tidemill.recipes.table import build_table
from tidemill.recipes.warehouse import rows_of_sql
from tidemill.serving.plan import Deployment
from tidemill.serving.plan import Live as LiveVersion
from tidemill.tables.builds import Build, list_builds
from tidemill.tables.table import TableInfo

Progress = Callable[[int, int], None]


class LiveTable(msgspec.Struct, frozen=True, kw_only=True):
    """A table, what building it came to, and the revision at which it is served."""

    table: TableInfo
    build: Build
    revision: int


def answering(deployment: Deployment) -> LiveVersion:
    """Returns the version that answers most of an application's queries.

    Raises:
        InvalidInput: it has none.
    """
    main = deployment.main or next(iter(deployment.versions), None)
    if main is None:
        raise InvalidInput(
            f"application {deployment.application!r} has no version to score with",
            remedy="Link one to it.",
        )
    return main


def keyed_rows(
    home: Home,
    application: str,
    *,
    snapshot: str | None = None,
    sql: str | None = None,
    domain: str | None = None,
    head: int | None = None,
    key: tuple[str, ...] | None = None,
    represent: Mapping[str, str] | None = None,
) -> KeyedRows:
    """Returns a table's source as it was named; without a name, what the application was asked.

    Args:
        home: the installation.
        application: whose table it is for.
        snapshot: a dataset, or ``NAME@ID``.
        sql: a query of the warehouse.
        domain: a dataset whose schema's domains are combined.
        head: of what was asked, so many keys.
        key: the columns of those; as deployed if None.
        represent: what represents some of them; as deployed if None.

    Raises:
        NotFound: there is no such application, dataset or snapshot.
        InvalidInput: a domain is missing or too large.
    """
    if snapshot is not None:
        return rows_of_snapshot(home, snapshot)
    if sql is not None:
        return rows_of_sql(home, sql)
    deployment = get_deployment(home, application)
    inputs = _inputs(home, deployment)
    if domain is not None:
        return rows_of_domain(home, domain, inputs)
    columns, own = profiled(deployment, key, represent)
    return rows_of_ledger(home, application, tuple(inputs), head=head, key=columns, represent=own)


def count_asked(
    home: Home, application: str, *, key: tuple[str, ...], represent: Mapping[str, str]
) -> int:
    """Returns how many keys the ledger has of what an application was asked.

    Raises:
        NotFound: there is no such application.
    """
    inputs = tuple(_inputs(home, get_deployment(home, application)))
    return AskedKeys(
        home=home, application=application, inputs=inputs, key=key, represent=represent
    ).count()


def _inputs(home: Home, deployment: Deployment) -> dict[str, str]:
    version = answering(deployment)
    manifest = read_manifest(Registry(home).fetch(version.model, version.version))
    return {column.name: column.type for column in manifest.signature.inputs}


def build_live_table(
    home: Home,
    application: str,
    source: Path | KeyedRows,
    *,
    key: tuple[str, ...] | None,
    represent: Mapping[str, str] | None = None,
    min_agreement: float = 0.0,
    tolerance: float = 0.0,
    by: str,
    full: bool = False,
    keep: bool = False,
    part: bool = False,
    features: bool | None = None,
    on: Where = "here",
    expected: int | None = None,
    progress: Progress | None = None,
) -> LiveTable:
    """Builds a table with an application's live version and puts it in front of it.

    Where that version has a table already, answers whose inputs did not change are taken over.

    Args:
        home: the installation.
        application: whose queries it answers.
        source: keyed rows: a file or folder, or what ``keyed_rows`` makes.
        key: the key's columns; those of the deployment if None.
        represent: what represents key columns; as deployed if None.
        min_agreement: the share of rows that must agree with what represents them.
        tolerance: up to so much, real numbers agree.
        by: who asks for it.
        full: whether every key is scored anew.
        keep: whether keys of the table there that the source lacks stay.
        part: whether the source is the head of another one only: features stay as they are.
        features: whether inputs that the key does not say are stored, too; None for as before.
        on: where the model scores.
        expected: the revision that the application must have once it is built; None for any.
        progress: told the rows done and all rows.

    Raises:
        NotFound: there is no such application or source.
        InvalidInput: no key, or one that does not do; or features are wanted of keys to be kept.
        DataRefused: answers agree too little with those of what represents them.
        Conflict: somebody changed the application since.
    """
    current = get_deployment(home, application)
    stores = not part and _stores(current, wanted=features, keep=keep)
    columns, own, represented = _key_of(current, key, represent)
    version, name = answering(current), str(source) if isinstance(source, Path) else source.name
    table = build_table(
        home,
        application=application,
        model=version.model,
        version=version.version,
        key=columns,
        source=source,
        source_name=name,
        base=None if full else version.table,
        keep=keep,
        part=part,
        representing=Representing(columns=own, min_agreement=min_agreement, tolerance=tolerance),
        features=stores,
        on=on,
        progress=progress,
    )
    build = list_builds(home.store, table.id)[0]
    deployment = attach_table(
        home,
        application,
        table.id,
        key=columns,
        represent=represented,
        by=by,
        reason=f"built from {name}"[:300],
        features=UNSET if part else build.features,
        expected=expected,
    )
    return LiveTable(table=table, build=build, revision=deployment.revision)


def _stores(current: Deployment, *, wanted: bool | None, keep: bool) -> bool:
    """Returns whether features are stored, as asked for or as before.

    Raises:
        InvalidInput: those of keys to be kept are wanted, which the source lacks.
    """
    stores = current.features is not None if wanted is None else wanted
    if stores and keep:
        raise InvalidInput(
            "the source lacks the features of keys that are to be kept",
            remedy="Leave --keep away, or build with --no-store-features.",
        )
    return stores


def _key_of(
    current: Deployment, key: tuple[str, ...] | None, represent: Mapping[str, str] | None
) -> tuple[tuple[str, ...], Mapping[str, str], Mapping[str, str]]:
    """Returns the key's columns, what represents them, and what represents any column from now on.

    Raises:
        InvalidInput: no key is known.
    """
    columns, own = profiled(current, key, represent)
    if not columns:
        raise InvalidInput(
            f"application {current.application!r} has no key", remedy="Name its columns with --key."
        )
    others = {name: kept for name, kept in current.represent.items() if name not in columns}
    return columns, own, {**others, **own}
