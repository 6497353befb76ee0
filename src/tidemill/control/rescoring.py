"""After a new version: its table, from the rows of the one before it, what is asked most first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.control.changes import METADATA
from tidemill.control.deployments import get_deployment
from tidemill.control.rollout import LiveTable, Progress, answering, build_live_table
from tidemill.foundation.errors import DataRefused, InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.models.format import read_manifest
from tidemill.models.registry import Registry
from tidemill.models.signature import Column
from tidemill.recipes.chunks import Where
from tidemill.recipes.features import rows_of_features
from tidemill.recipes.head import asked_keys, head_of
from tidemill.recipes.keyed_rows import KeyedRows, rows_of_files
from tidemill.serving.live import deployment_history
from tidemill.serving.plan import Deployment, Live
from tidemill.tables.builds import Build, KeyCounts, list_builds
from tidemill.tables.catalog import get_table, list_tables
from tidemill.tables.predictions import list_parts
from tidemill.tables.table import TableInfo

HEAD = 10_000
"""So many keys go live first, if nothing else is said."""

FEWEST = 10_000
"""A build of fewer keys does not tell what a key takes."""


class Rescored(msgspec.Struct, frozen=True, kw_only=True):
    """What a rescore came to.

    Args:
        application: whose.
        head: what went live first; None if the version had a table already, or nothing that it
            would hold was ever asked for.
        whole: what is live now.
    """

    application: str
    head: LiveTable | None
    whole: LiveTable


def rescore(
    home: Home,
    application: str,
    source: Path | KeyedRows | None = None,
    *,
    by: str,
    head: int = HEAD,
    share: float = 1.0,
    min_agreement: float = 0.0,
    tolerance: float = 0.0,
    on: Where = "here",
    progress: Progress | None = None,
    on_head: Callable[[LiveTable], None] | None = None,
) -> Rescored:
    """Builds the table of an application's live version, the head of its traffic first.

    The head goes live as a table of its own, then the whole one, which takes the head's answers
    over. Until a key is in either, the model answers it. Killed anywhere, the same call goes on:
    what is live is never more than one swap behind.

    Args:
        home: the installation.
        application: whose table it is; it has a key.
        source: keyed rows; None for those that features were stored from, or the keys of the table
            of the version before.
        by: who asks for it.
        head: so many keys go first, at most.
        share: no more of them than got this share of the questions.
        min_agreement: the share of the rows that must agree with what represents them.
        tolerance: up to so much, real numbers agree.
        on: where the model scores the whole table; the head is scored here.
        progress: told the rows done and all rows, of the head and then of the whole.
        on_head: told of the head once it is live.

    Raises:
        NotFound: there is no such application or source, or no table to rescore.
        InvalidInput: it has no key; or no features are stored, and the keys of the table before do
            not say all inputs.
    """
    current = get_deployment(home, application)
    if not current.key:
        raise InvalidInput(
            f"application {application!r} has no key",
            remedy="Build its first table: tidemill table build.",
        )
    version = answering(current)
    manifest = read_manifest(Registry(home).fetch(version.model, version.version))
    inputs = manifest.signature.inputs
    known = {column.name: column for column in inputs}
    key = [known[name] for name in current.key]
    if isinstance(source, Path):
        source = rows_of_files(source)
    rows = source
    if rows is None and current.features is not None:
        stored = get_table(home.store, current.features)
        if stored.inputs == tuple((column.name, column.type) for column in inputs):
            rows = rows_of_features(home, stored.id)
    if rows is None:
        rows = _rows_before(home, application, (version.model, version.version), inputs)
    first = None
    if version.table is None:
        first = _head(home, current, rows, key, by=by, head=head, share=share, progress=progress)
        if first is not None and on_head is not None:
            on_head(first)
    whole = build_live_table(
        home,
        application,
        rows,
        key=None,
        by=by,
        min_agreement=min_agreement,
        tolerance=tolerance,
        on=on,
        progress=progress,
    )
    return Rescored(application=application, head=first, whole=whole)


def follow(home: Home, application: str, *, by: str) -> Rescored | None:
    """Rescores what a new version took over without a table, if the version before had one.

    Returns:
        None if there is nothing to do: it has a table, or what was live before had none.

    Raises:
        TidemillError: it cannot be done; the version answers by its model.
    """
    with home.store.read(*METADATA) as conn:
        history = [row.deployment for row in deployment_history(conn, application)]
    mains = [None if each is None else each.main for each in history]
    now = mains[0] if mains else None
    if now is None or now.table is not None:
        return None
    this = (now.model, now.version)
    before = next(
        (
            each
            for each in mains
            if each is None or each.table is not None or (each.model, each.version) != this
        ),
        None,
    )
    if before is None or before.table is None:
        return None
    return rescore(home, application, by=by)


def measured_build(home: Home, application: str, version: Live) -> Build | None:
    """Returns what the newest build took that scored all of its keys with this version.

    A head and the whole that took it over are one: their times and their scored keys together. A
    build that was cut off, or took over answers of before, does not tell; nor does one of fewer
    than ``FEWEST`` keys, which tells more of its start than of its keys.
    """
    for info in list_tables(home.store, application):
        if (info.model, info.version) != (version.model, version.version):
            continue
        for build in list_builds(home.store, info.id):
            whole = _with_head(home, build)
            if whole is not None and whole.keys.scored >= FEWEST:
                return whole
    return None


def _with_head(home: Home, build: Build) -> Build | None:
    """Returns a build with the head that it took over; None if it does not tell what all take."""
    if build.resumed or build.base is None:
        return None if build.resumed else build
    heads = (each for each in list_builds(home.store, build.base) if each.part)
    head = next((each for each in heads if each.base is None and not each.resumed), None)
    if head is None:
        return None
    return msgspec.structs.replace(
        build,
        seconds=build.seconds + head.seconds,
        cpu_s=build.cpu_s + head.cpu_s,
        keys=KeyCounts(new=build.keys.scored + head.keys.scored),
    )


def _head(
    home: Home,
    current: Deployment,
    rows: KeyedRows,
    key: Sequence[Column],
    *,
    by: str,
    head: int,
    share: float,
    progress: Progress | None,
) -> LiveTable | None:
    """Puts what is asked most in front of the version; None if none of it is in the source."""
    application, represent = current.application, current.represent
    keys = asked_keys(home, application, key, head=head, share=share, represent=represent)
    if not keys:
        return None
    try:
        return build_live_table(
            home,
            application,
            head_of(rows, key, keys, represent),
            key=None,
            by=by,
            part=True,
            progress=progress,
        )
    except DataRefused:
        return None


def _rows_before(
    home: Home, application: str, version: tuple[str, int], inputs: Sequence[Column]
) -> KeyedRows:
    """Returns the rows of the newest whole table that another version made.

    Raises:
        NotFound: there is none.
        InvalidInput: its keys do not say all inputs.
    """
    for info in list_tables(home.store, application):
        builds = list_builds(home.store, info.id)
        if (info.model, info.version) == version or (builds and builds[0].part):
            continue
        return rows_of_keys(home, info, inputs)
    raise NotFound(
        f"no other version of {application!r} has a table to score again",
        remedy="Name a source of its keys: tidemill table build.",
    )


def rows_of_keys(home: Home, info: TableInfo, inputs: Sequence[Column]) -> KeyedRows:
    """Returns the keys of a table as the rows of a source.

    Raises:
        InvalidInput: they do not say all inputs, or it has no warehouse.
    """
    names = [name for name, _ in info.key]
    missing = [column.name for column in inputs if column.name not in names]
    paths = [home.files.fetch(part.file_key) for part in list_parts(home, info.id)]
    if missing or not paths:
        raise InvalidInput(
            f"the keys of table {info.id} do not say the input {missing[0]!r}"
            if missing
            else f"the keys of table {info.id} are not in the warehouse",
            remedy="Name a source with all inputs: --from, --snapshot, --sql or --domain; "
            "build with --store-features to need none.",
        )

    def batches() -> Iterator[pa.RecordBatch]:
        for path in paths:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(columns=names)

    return KeyedRows(
        name=info.source or f"table {info.id}",
        batches=batches,
        identity=f"table {info.id}",
        representatives=bool(info.represent),
    )
