"""A private server with one application for each arrangement of one model: its stage.

All arrangements are served at once, so that they are measured in turns on the same machine in the
same minute.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np

from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.processes import command, cpu_seconds, family
from tidemill.models.format import ModelManifest, read_manifest
from tidemill.models.runtime import open_runtime
from tidemill.models.signature import Array, Batch
from tidemill.recipes.private_server import PrivateServer, private_server
from tidemill.recipes.rehearsal.offering import Offered, offer
from tidemill.serving import wire
from tidemill.serving.live import CandidateFile
from tidemill.serving.placement import decide_placement
from tidemill.serving.plan import Deployment, Live, ServingPlan
from tidemill.tables.answer import encode_answers
from tidemill.tables.build import TableBuilder
from tidemill.tables.represented import Keys, check_represented, keys_of
from tidemill.tables.table import TableInfo

_SCORED_AT_ONCE = 8192
_WORKER = "worker"

Scored: TypeAlias = tuple[list[bytes], list[bytes]]
"""Keys, and the answer to each, as a table keeps them."""


class Arrangement(msgspec.Struct, frozen=True, kw_only=True):
    """One way to serve: the most frequent keys in a table, a cache or none, replicas and batches.

    Args:
        head_keys: keys in the table.
        cache_entries: answers that the cache may keep.
        replicas: of the model.
        batch_limit: rows of a batch at most.
        slo_ms: deadline of each query.
        coalesce: equal queries in flight are asked once.
    """

    head_keys: int = 0
    cache_entries: int = 0
    replicas: int = 1
    batch_limit: int = 64
    slo_ms: float = 1000.0
    coalesce: bool = True


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, and questions as they come: rows of all its inputs, in the order of a trace.

    Attributes:
        folder: the model folder, verified.
        rows: its inputs, (questions, ...) by name.
        key: the columns that make a key.
        represent: what represents inputs, by name; of the key, they are one in tables, too.
        environments: where environments of models with requirements are.
    """

    folder: Path
    rows: Batch
    key: tuple[str, ...]
    represent: Mapping[str, str] = field(default_factory=dict)
    environments: str = ""

    @cached_property
    def manifest(self) -> ModelManifest:
        """What the model folder says."""
        return read_manifest(self.folder)

    @property
    def count(self) -> int:
        """How many questions there are."""
        return len(next(iter(self.rows.values())))

    @cached_property
    def encoder(self) -> Keys:
        """What makes keys of rows.

        Raises:
            InvalidInput: a key column is no input of the model, or cannot be represented so.
        """
        types = {column.name: column.type for column in self.manifest.signature.inputs}
        unknown = [name for name in self.key if name not in types]
        if unknown or not self.key:
            raise InvalidInput(
                f"key column {unknown[0]!r} is no input of the model"
                if unknown
                else "there is no key",
                remedy=f"Choose among: {', '.join(types)}.",
            )
        check_represented(self.manifest.signature.inputs, self.represent)
        return keys_of([(name, types[name]) for name in self.key], self.represent)

    @property
    def past(self) -> int:
        """How many questions count as asked before: the earlier half, if there are two."""
        return max(1, self.count // 2)

    @cached_property
    def ranked(self) -> Array:
        """The first question of each key of the past, the most frequent key first; (keys,).

        Tables are made of these, and the later half is asked: a table knows no key that is asked
        for the first time, as it is in service. Where inputs are represented, that question stands
        for all of its key.
        """
        some = {name: array[: self.past] for name, array in self.rows.items()}
        keys = self.encoder.many([some[name] for name in self.encoder_names])
        counts: dict[bytes, list[int]] = {}
        for at, key in enumerate(keys):
            found = counts.get(key)
            if found is None:
                counts[key] = [0, at]
            else:
                found[0] -= 1
        return np.array([at for _, at in sorted(counts.values())])

    @property
    def encoder_names(self) -> tuple[str, ...]:
        """The key's columns in the order of its encoding."""
        return tuple(name for name, _ in self.encoder.columns)

    def take(self, at: Array) -> Batch:
        """Returns some of the rows."""
        return {name: array[at] for name, array in self.rows.items()}


@dataclass(frozen=True, slots=True)
class Used:
    """CPU seconds of a server, by what its processes are."""

    gateway_s: float
    worker_s: float

    def __sub__(self, other: Used) -> Used:
        return Used(self.gateway_s - other.gateway_s, self.worker_s - other.worker_s)

    @property
    def total_s(self) -> float:
        """Of all processes."""
        return self.gateway_s + self.worker_s


class Stage:
    """A running server with an application for each arrangement.

    Args:
        subject: the model and the questions.
        server: where it runs.
        tables: each arrangement's table; None without one.
        key_bytes: of a table's key, on average.
        value_bytes: of a table's answer, on average.
    """

    def __init__(
        self,
        subject: Subject,
        server: PrivateServer,
        tables: Sequence[TableInfo | None],
        key_bytes: float,
        value_bytes: float,
    ) -> None:
        self.subject = subject
        self.tables = tuple(tables)
        self.key_bytes = key_bytes
        self.value_bytes = value_bytes
        self._server = server

    def ask(self, arrangement: int, at: Array, due_s: Array) -> tuple[Offered, Used]:
        """Asks questions of an arrangement when they are due; returns what became of them.

        Args:
            arrangement: by its number.
            at: which questions; (n,).
            due_s: when; (n,), rising, in seconds from now.

        Returns:
            What became of them, and the CPU that the server used meanwhile.
        """
        requests = self._requests(f"stage-{arrangement}", at)
        before: list[Used] = []
        offered = offer(
            self._server.port, requests, due_s, begins=lambda: before.append(self.used())
        )
        return offered, self.used() - (before[0] if before else self.used())

    def rest(self, seconds: float) -> float:
        """Leaves the server alone; returns the cores that it uses meanwhile."""
        before, began = self.used(), SYSTEM_CLOCK.monotonic()
        time.sleep(seconds)
        return (self.used() - before).total_s / (SYSTEM_CLOCK.monotonic() - began)

    def used(self) -> Used:
        """Returns the CPU that the server has used up to now."""
        gateway_s = worker_s = 0.0
        for pid in family(self._server.pid):
            if any(_WORKER in word for word in command(pid)[1:4]):
                worker_s += cpu_seconds(pid)
            else:
                gateway_s += cpu_seconds(pid)
        return Used(gateway_s, worker_s)

    def _requests(self, application: str, at: Array) -> list[bytes]:
        rows = self.subject.take(at)
        columns = [
            (each, rows[each["name"]].tolist())
            for each in wire.describe(self.subject.manifest.signature.inputs)
        ]
        made = []
        for number in range(len(at)):
            inputs = [
                {
                    "name": each["name"],
                    "shape": [1, *each["shape"][1:]],
                    "datatype": each["datatype"],
                    "data": [values[number]],
                }
                for each, values in columns
            ]
            body = json.dumps({"inputs": inputs}, separators=(",", ":")).encode()
            made.append(
                b"POST /v2/models/%s/infer HTTP/1.1\r\nhost: 127.0.0.1\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (application.encode(), len(body), body)
            )
        return made


@contextmanager
def set_up(
    subject: Subject, arrangements: Sequence[Arrangement], *, entry_bytes: float
) -> Iterator[Stage]:
    """Builds the tables, serves every arrangement while the block runs, and takes all away.

    Args:
        subject: the model and the questions.
        arrangements: each is served as an application of its own.
        entry_bytes: what one answer takes in the cache.

    Raises:
        InvalidInput: the questions do not fit the model or its key.
        TidemillError: the model cannot be opened or served.
    """
    manifest = subject.manifest
    with tempfile.TemporaryDirectory(prefix="tidemill-stage-") as folder:
        sizes = sorted({each.head_keys for each in arrangements if each.head_keys})
        scored = _scored(subject, max(sizes)) if sizes else None
        tables = {} if scored is None else _tables(subject, sizes, scored, Path(folder))
        deployments = tuple(
            _deployment(number, each, subject, entry_bytes)
            for number, each in enumerate(arrangements)
        )
        document = CandidateFile(
            deployments=deployments,
            folders={f"{manifest.name}:1": str(subject.folder)},
            tables={_name(keys): str(path) for keys, (path, _) in tables.items()},
            environments=subject.environments,
            trust_code=True,
        )
        with private_server(document) as server:
            infos = {keys: info for keys, (_, info) in tables.items()}
            served = [infos.get(each.head_keys) for each in arrangements]
            yield Stage(subject, server, served, *_entry_bytes(scored))


def on_loop(manifest: ModelManifest) -> bool:
    """Says whether the gateway itself computes, unless a plan says otherwise."""
    return decide_placement(ServingPlan(), manifest) == "gateway"


def _name(keys: int) -> str:
    return f"head-{keys}"


def _deployment(
    number: int, arrangement: Arrangement, subject: Subject, entry_bytes: float
) -> Deployment:
    keys = arrangement.head_keys
    table = _name(keys) if keys else None
    return Deployment(
        application=f"stage-{number}",
        revision=number + 1,
        versions=(Live(model=subject.manifest.name, version=1, table=table),),
        slo_ms=arrangement.slo_ms,
        key=subject.encoder_names if keys else (),
        represent=dict(subject.represent),
        plan=ServingPlan(
            replicas=arrangement.replicas,
            max_batch=arrangement.batch_limit,
            cache_bytes=round(arrangement.cache_entries * entry_bytes),
            coalesce=arrangement.coalesce,
        ),
    )


def _tables(
    subject: Subject, sizes: Sequence[int], scored: Scored, folder: Path
) -> dict[int, tuple[Path, TableInfo]]:
    """Builds a table of each size, of the first so many."""
    keys, answers = scored
    own = tuple(
        (name, subject.represent[name]) for name in subject.key if name in subject.represent
    )
    found = {}
    for size in sizes:
        path = folder / _name(size)
        with TableBuilder(path) as builder:
            builder.put(keys[:size], answers[:size])
            info = builder.commit(
                TableInfo(
                    application="stage",
                    model=subject.manifest.name,
                    version=1,
                    key=subject.encoder.columns,
                    represent=own,
                    source="the most frequent keys",
                )
            )
        found[size] = (path, info)
    return found


def _scored(subject: Subject, count: int) -> Scored:
    """Returns the most frequent keys, at most so many, and the model's answers to them."""
    keys: list[bytes] = []
    answers: list[bytes] = []
    runtime = open_runtime(subject.folder, trust_code=True, threads=1)
    try:
        for start in range(0, min(count, len(subject.ranked)), _SCORED_AT_ONCE):
            rows = subject.take(subject.ranked[start : min(start + _SCORED_AT_ONCE, count)])
            keys += subject.encoder.many([rows[name] for name in subject.encoder_names])
            answers += encode_answers(runtime.predict(rows))
    finally:
        runtime.close()
    return keys, answers


def _entry_bytes(scored: Scored | None) -> tuple[float, float]:
    """Returns the bytes of a key and of an answer, on average, of the first hundred."""
    if scored is None:
        return 12.0, 24.0
    key, answer = (float(np.mean([len(each) for each in some[:100]])) for some in scored)
    return key, answer
