"""What the table of an application is worth: its size, its age, whom it answers, what it lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.control.deployments import get_deployment
from tidemill.control.rollout import answering
from tidemill.data.keys import hash_rows
from tidemill.data.ledger import each_part
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.planning.workload.profile import HeavyKey
from tidemill.planning.workload.sketch import Workload
from tidemill.tables.catalog import fetch_table, get_table
from tidemill.tables.freshness import age_s, stale_from
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.represented import Keys, keys_of
from tidemill.tables.table import Table

Progress = Callable[[int, int], None]

_BATCH = 1 << 14


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What an application was asked lately, beside what its table holds now.

    Args:
        since: from which moment on, in seconds since the epoch.
        rows: that were answered.
        coverage: the share of them whose key is in the table now.
        hit_rate: the share of them that a table answered then.
        sources: rows by who answered them.
        unreadable: rows whose key cannot be made: a column of it is missing, or of another type.
        lacks: the most frequent keys that the table does not hold, each with its share of all rows.
    """

    since: float
    rows: int
    coverage: float
    hit_rate: float
    sources: dict[str, int]
    unreadable: int
    lacks: tuple[HeavyKey, ...]


class TableReport(msgspec.Struct, frozen=True, kw_only=True):
    """One table; times are seconds since the epoch.

    Args:
        table: its id.
        application: whose it is.
        model: whose answers it holds.
        version: of the model.
        source: the snapshot, file or query that its rows came from.
        key: the key's columns, in order.
        rows: distinct keys.
        bytes: of its file.
        bytes_per_key: of its file, for each key.
        built_at: when it was whole.
        as_of: when its build began to read its rows; None for a table of an older Tidemill.
        age_s: of its answers.
        max_age_s: how old they may be; None for any age.
        stale: they are older than that: it answers nothing.
        asked: what was asked lately; None if nothing was.
    """

    table: str
    application: str
    model: str
    version: int
    source: str | None
    key: tuple[str, ...]
    rows: int
    bytes: int
    bytes_per_key: float
    built_at: float
    as_of: float | None
    age_s: float
    max_age_s: float | None
    stale: bool
    asked: Asked | None


def report_table(
    home: Home, application: str, *, last_s: float, progress: Progress | None = None
) -> TableReport:
    """Reports on the table of the version that answers most.

    The ledger is read part by part, in bounded memory.

    Args:
        home: the installation.
        application: whose table.
        last_s: what was asked within so many seconds counts.
        progress: told the rows done.

    Raises:
        NotFound: there is no such application, or it has no table.
        InvalidInput: it has no version, or the time is none.
        Corrupted: the table's data is not what was stored.
    """
    if not last_s > 0.0:
        raise InvalidInput(f"the last {last_s:g} seconds are none", remedy="Give seconds above 0.")
    deployment = get_deployment(home, application)
    version = answering(deployment)
    if version.table is None:
        raise NotFound(
            f"version {version.version} of {application!r} has no table",
            remedy="Build one: tidemill table build.",
        )
    info, now = get_table(home.store, version.table), home.clock.now()
    limit = stale_from(info, deployment.max_age_s)
    with LmdbTable.open(fetch_table(home, info.id)) as table:
        asked = _asked(home, application, table, since=now - last_s, progress=progress)
    return TableReport(
        table=info.id,
        application=application,
        model=info.model,
        version=info.version,
        source=info.source,
        key=tuple(name for name, _ in info.key),
        rows=info.rows,
        bytes=info.bytes,
        bytes_per_key=info.bytes / max(1, info.rows),
        built_at=info.built_at,
        as_of=info.as_of,
        age_s=age_s(info, now),
        max_age_s=deployment.max_age_s,
        stale=limit is not None and now >= limit,
        asked=asked,
    )


def _asked(
    home: Home, application: str, table: Table, *, since: float, progress: Progress | None
) -> Asked | None:
    encoder, lacking = keys_of(table.info.key, dict(table.info.represent)), Workload()
    sources: Counter[str] = Counter()
    rows = held = unreadable = 0
    for part in each_part(home.ledger_path, application):
        recent = part.filter(pc.greater_equal(part["time"], since))
        for start in range(0, recent.num_rows, _BATCH):
            batch = recent.slice(start, _BATCH)
            sources.update(batch["source"].to_pylist())
            keys = _keys(encoder, batch["inputs"].to_pylist())
            found = _held(table, [key for key in keys if key is not None])
            absent = [at for at, key in enumerate(keys) if key is not None and key not in found]
            rows += len(keys)
            held += sum(key in found for key in keys)
            unreadable += keys.count(None)
            times = np.asarray(batch["time"].to_numpy(), np.float64)[absent]
            _note(lacking, times, [encoder.show(keys[at] or b"") for at in absent])
            if progress is not None:
                progress(rows, 0)
    if not rows:
        return None
    lacks = rows - held - unreadable
    return Asked(
        since=since,
        rows=rows,
        coverage=held / rows,
        hit_rate=sources["table"] / rows,
        sources=dict(sources),
        unreadable=unreadable,
        lacks=tuple(
            HeavyKey(key=each.key, share=round(each.share * lacks / rows, 6))
            for each in lacking.heavy()
        ),
    )


def _keys(encoder: Keys, inputs: Sequence[str]) -> list[bytes | None]:
    """Returns the key of each row of the ledger; None where none can be made."""
    names = [name for name, _ in encoder.columns]
    return [_key(encoder, names, orjson.loads(each)) for each in inputs]


def _key(encoder: Keys, names: Sequence[str], values: dict[str, Any]) -> bytes | None:
    try:
        return encoder.one([values[name] for name in names])
    except (KeyError, InvalidInput):
        return None


def _held(table: Table, keys: Sequence[bytes]) -> set[bytes]:
    distinct = list(set(keys))
    values = table.get(distinct)
    return {key for key, value in zip(distinct, values, strict=True) if value is not None}


def _note(lacking: Workload, times: Any, names: list[str]) -> None:
    if names:
        hashes = hash_rows(pa.table({"key": names}), ["key"])
        lacking.update(times, hashes, lambda at: names[at][:200])
