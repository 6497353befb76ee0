"""Lineage: which run made what out of what, as rows in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from tidemill.foundation.errors import Conflict, NotFound
from tidemill.foundation.store import Store
from tidemill.pipeline.artifact import Artifact
from tidemill.pipeline.fingerprint import CodeFingerprint

StepStatus = Literal["finished", "reused", "failed", "timed_out", "skipped"]
RunStatus = Literal["running", "finished", "failed", "interrupted"]

TABLES = sa.MetaData()
RUN = sa.Table(
    "pipeline_run",
    TABLES,
    sa.Column("id", sa.String(100), primary_key=True),
    sa.Column("pipeline", sa.String(100), nullable=False, index=True),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
)
CODE = sa.Table(
    "pipeline_code",
    TABLES,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("parts", sa.Text, nullable=False),
)
ARTIFACT = sa.Table(
    "pipeline_artifact",
    TABLES,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("step", sa.String(100), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
)
STEP_RUN = sa.Table(
    "pipeline_step_run",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.ForeignKey("pipeline_run.id"), nullable=False, index=True),
    sa.Column("pipeline", sa.String(100), nullable=False),
    sa.Column("step", sa.String(100), nullable=False, index=True),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("key", sa.String(64), index=True),  # None: its inputs never came to be
    sa.Column("function", sa.Text, nullable=False),
    sa.Column("code", sa.ForeignKey("pipeline_code.hash"), nullable=False),
    sa.Column("inputs", sa.Text, nullable=False),
    sa.Column("artifact", sa.ForeignKey("pipeline_artifact.id")),
    sa.Column("reused_from", sa.String(100)),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("duration_s", sa.Float, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("note", sa.Text),  # a cause that no later look could find: damage, no caching
)
EDGE = sa.Table(
    "pipeline_edge",
    TABLES,
    sa.Column("step_run", sa.ForeignKey("pipeline_step_run.id"), primary_key=True),
    sa.Column("parameter", sa.String(200), primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True),  # in a list of inputs, else 0
    sa.Column("artifact", sa.ForeignKey("pipeline_artifact.id"), nullable=False, index=True),
)


class InputRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What one parameter of a step run was given.

    Args:
        kind: "value", "file", "output" or "handle".
        hash: of the content; empty for a handle, which does not count.
        shown: the value, path or ``step.item`` for people, shortened.
        artifact: the other step's artifact, of an output.
    """

    kind: Literal["value", "file", "output", "handle"]
    hash: str
    shown: str
    artifact: str | None = None


Inputs = dict[str, tuple[InputRecord, ...]]


# Made on the thread that imports: where two threads are the first to need a record type, msgspec
# may crash.
_artifact_decoder = msgspec.json.Decoder(Artifact)
_inputs_decoder = msgspec.json.Decoder(Inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step of one run, as it is committed."""

    run: str
    pipeline: str
    step: str
    status: StepStatus
    key: str | None
    function: str
    code: CodeFingerprint
    inputs: Inputs
    artifact: Artifact | None
    reused_from: str | None
    attempt: int
    started_at: float
    duration_s: float
    message: str
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run, for lists.

    Args:
        id: the run.
        pipeline: its pipeline's name.
        status: a run whose process was killed stays "running" until it is run again.
        started_at: seconds since the epoch; of the first start.
        ended_at: of the end, if there was one.
        steps: how many steps came to which status.
    """

    id: str
    pipeline: str
    status: RunStatus
    started_at: float
    ended_at: float | None
    steps: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """One artifact that another was made of.

    Args:
        artifact: its id.
        step: the step that made it.
        run: the run in which it was made.
        inputs: what the step was given.
    """

    artifact: str
    step: str
    run: str
    inputs: Mapping[str, tuple[InputRecord, ...]]


def list_runs(store: Store, pipeline: str | None = None, limit: int = 50) -> list[RunSummary]:
    """Returns the newest runs first."""
    query = sa.select(RUN).order_by(RUN.c.started_at.desc(), RUN.c.id).limit(limit)
    if pipeline is not None:
        query = query.where(RUN.c.pipeline == pipeline)
    with store.read(TABLES) as conn:
        return [
            RunSummary(
                id=row.id,
                pipeline=row.pipeline,
                status=row.status,
                started_at=row.started_at,
                ended_at=row.ended_at,
                steps=_counts(conn, row.id),
            )
            for row in conn.execute(query).all()
        ]


def _counts(conn: Connection, run: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in latest_steps(conn, run):
        counts[row.status] = counts.get(row.status, 0) + 1
    return counts


def latest_steps(conn: Connection, run: str) -> list[Any]:
    """Returns the last row of each step of the run, in the order of the commits."""
    last = sa.select(sa.func.max(STEP_RUN.c.id)).where(STEP_RUN.c.run == run)
    query = sa.select(STEP_RUN).where(STEP_RUN.c.id.in_(last.group_by(STEP_RUN.c.step)))
    return list(conn.execute(query.order_by(STEP_RUN.c.id)).all())


def get_artifact(store: Store, artifact_id: str) -> Artifact:
    """Returns the artifact.

    Raises:
        NotFound: there is none of that id.
    """
    with store.read(TABLES) as conn:
        text = conn.execute(
            sa.select(ARTIFACT.c.manifest).where(ARTIFACT.c.id == artifact_id)
        ).scalar_one_or_none()
    if text is None:
        raise NotFound(f"artifact {artifact_id!r} does not exist")
    return _artifact_decoder.decode(text)


def ancestors(store: Store, artifact_id: str) -> list[Ancestor]:
    """Returns the artifact and all that it was made of, the nearest first.

    Raises:
        NotFound: there is no such artifact.
    """
    get_artifact(store, artifact_id)
    found: dict[str, Ancestor] = {}
    waiting = [artifact_id]
    with store.read(TABLES) as conn:
        while waiting:
            one = waiting.pop(0)
            row = conn.execute(_maker(one)).first()
            if one in found or row is None:
                continue
            inputs = decode_inputs(row.inputs)
            found[one] = Ancestor(artifact=one, step=row.step, run=row.run, inputs=inputs)
            waiting += [i.artifact for given in inputs.values() for i in given if i.artifact]
    return list(found.values())


def _maker(artifact: str) -> sa.Select[Any]:
    made = sa.and_(STEP_RUN.c.artifact == artifact, STEP_RUN.c.status == "finished")
    return sa.select(STEP_RUN).where(made).order_by(STEP_RUN.c.id).limit(1)


def decode_inputs(text: str) -> Inputs:
    """Returns the inputs of a row."""
    return _inputs_decoder.decode(text)


def start_run(conn: Connection, *, run: str, pipeline: str, at: float) -> None:
    """Writes that the run is on; one of the same id goes on.

    Raises:
        Conflict: the id is of a run of another pipeline.
    """
    values = {"id": run, "pipeline": pipeline, "status": "running", "started_at": at}
    _insert_new(conn, RUN, values)
    known = conn.execute(sa.select(RUN.c.pipeline).where(RUN.c.id == run)).scalar_one()
    if known != pipeline:
        raise Conflict(
            f"run {run!r} is of pipeline {known!r}, not {pipeline!r}", remedy="Take a new run id."
        )
    conn.execute(RUN.update().where(RUN.c.id == run).values(status="running", ended_at=None))


def end_run(conn: Connection, *, run: str, status: RunStatus, at: float) -> None:
    """Writes how the run ended."""
    conn.execute(RUN.update().where(RUN.c.id == run).values(status=status, ended_at=at))


def add_step(conn: Connection, record: StepRecord) -> None:
    """Writes one step of a run, with its artifact and what that was made of."""
    parts = {"parts": record.code.parts, "packages": record.code.packages}
    text = msgspec.json.encode(parts).decode()
    _insert_new(conn, CODE, {"hash": record.code.hash, "parts": text})
    if record.artifact is not None:
        made = {
            "id": record.artifact.id,
            "step": record.artifact.step,
            "created_at": record.started_at,
            "manifest": msgspec.json.encode(record.artifact).decode(),
        }
        _insert_new(conn, ARTIFACT, made)
    added = conn.execute(
        STEP_RUN.insert()
        .returning(STEP_RUN.c.id)
        .values(
            run=record.run,
            pipeline=record.pipeline,
            step=record.step,
            status=record.status,
            key=record.key,
            function=record.function,
            code=record.code.hash,
            inputs=msgspec.json.encode(record.inputs).decode(),
            artifact=record.artifact.id if record.artifact else None,
            reused_from=record.reused_from,
            attempt=record.attempt,
            started_at=record.started_at,
            duration_s=record.duration_s,
            message=record.message,
            note=record.note,
        )
    ).scalar_one()
    edges = [
        {"step_run": added, "parameter": name, "place": n, "artifact": one}
        for name, given in record.inputs.items()
        for n, one in enumerate(record.artifact for record in given)
        if one is not None
    ]
    if edges:
        conn.execute(EDGE.insert(), edges)


def find_result(
    conn: Connection, *, step: str, key: str, run: str | None
) -> tuple[str, Artifact] | None:
    """Returns the newest kept result of exactly this work, and the run that made it.

    Args:
        conn: a transaction.
        step: the step's name.
        key: of its code, parameters and inputs.
        run: only what was made in this run.
    """
    query = (
        sa.select(STEP_RUN.c.run, ARTIFACT.c.manifest)
        .join(ARTIFACT, ARTIFACT.c.id == STEP_RUN.c.artifact)
        .where(STEP_RUN.c.key == key, STEP_RUN.c.step == step, STEP_RUN.c.status == "finished")
        .order_by(STEP_RUN.c.id.desc())
        .limit(1)
    )
    if run is not None:
        query = query.where(STEP_RUN.c.run == run)
    row = conn.execute(query).first()
    return None if row is None else (row.run, _artifact_decoder.decode(row.manifest))


def _insert_new(conn: Connection, table: sa.Table, values: Mapping[str, Any]) -> None:
    """Inserts the row unless its key is there: two runs may write the same at once."""
    dialect = postgresql if conn.dialect.name == "postgresql" else sqlite
    conn.execute(dialect.insert(table).values(**values).on_conflict_do_nothing())
