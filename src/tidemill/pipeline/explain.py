"""Why each step of a run ran, or did not: by comparing it with the step's last run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tidemill.foundation.errors import NotFound
from tidemill.foundation.store import Store
from tidemill.pipeline.lineage import (
    CODE,
    RUN,
    STEP_RUN,
    TABLES,
    InputRecord,
    StepStatus,
    decode_inputs,
    latest_steps,
)

CauseKind = Literal[
    "first_time",
    "code",
    "package",
    "parameter",
    "input",
    "source",
    "damaged",
    "always",
    "not_kept",
    "reused",
    "skipped",
]
_SHOWN = 3
_SAID: Mapping[CauseKind, str] = {
    "package": "package {subject} changed from {before} to {after}",
    "parameter": "parameter '{subject}' changed from {before} to {after}",
    "input": "input '{subject}' from step {after} changed",
    "source": "source file {after} (input '{subject}') changed",
    "damaged": "its stored result was damaged ({subject})",
    "always": "it always runs (cache=False)",
    "not_kept": "no kept result of step '{step}' fits its inputs",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One reason.

    Args:
        kind: of which sort.
        subject: the function, package, parameter, file, step or run that it is about.
        before: what it was; None where there was none.
        after: what it is.
    """

    kind: CauseKind
    subject: str
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepExplanation:
    """Why a step ran, or did not.

    Args:
        step: its name.
        status: what became of it.
        sentence: the reasons for people.
        causes: all of them, structured.
    """

    step: str
    status: StepStatus
    sentence: str
    causes: tuple[Cause, ...]


def explain(store: Store, run_id: str) -> list[StepExplanation]:
    """Returns why each step of the run ran or did not, in the order in which they ended.

    Raises:
        NotFound: there is no such run.
    """
    with store.read(TABLES) as conn:
        if conn.execute(sa.select(RUN.c.id).where(RUN.c.id == run_id)).first() is None:
            raise NotFound(f"run {run_id!r} does not exist", remedy="List the runs.")
        return [_explain(conn, row) for row in latest_steps(conn, run_id)]


def _explain(conn: Connection, row: Any) -> StepExplanation:
    causes = tuple(_causes(conn, row))
    return StepExplanation(
        step=row.step, status=row.status, sentence=_sentence(row, causes), causes=causes
    )


def _causes(conn: Connection, row: Any) -> Iterator[Cause]:
    if row.status == "reused":
        yield Cause(kind="reused", subject=row.reused_from)
    elif row.status == "skipped":
        yield Cause(kind="skipped", subject=row.message)
    elif row.key is not None:
        yield from _why_it_ran(conn, row)


def _why_it_ran(conn: Connection, row: Any) -> Iterator[Cause]:
    if row.note is not None:
        kind, _, subject = row.note.partition(" ")
        yield Cause(kind="damaged" if kind == "damaged" else "always", subject=subject or row.step)
        return
    last = _last(conn, row)
    if last is None:
        tried = _last(conn, row, ("failed", "timed_out")) is not None
        yield Cause(kind="not_kept" if tried else "first_time", subject=row.step)
        return
    changes = [*_code_changes(conn, last.code, row.code)]
    changes += _input_changes(decode_inputs(last.inputs), decode_inputs(row.inputs))
    yield from changes or [Cause(kind="not_kept", subject=row.step)]


def _last(
    conn: Connection, row: Any, statuses: tuple[StepStatus, ...] = ("finished", "reused")
) -> Any:
    same = sa.and_(
        STEP_RUN.c.pipeline == row.pipeline,
        STEP_RUN.c.step == row.step,
        STEP_RUN.c.id < row.id,
        STEP_RUN.c.status.in_(statuses),
    )
    return conn.execute(
        sa.select(STEP_RUN).where(same).order_by(STEP_RUN.c.id.desc()).limit(1)
    ).first()


def _code_changes(conn: Connection, before: str, after: str) -> Iterator[Cause]:
    if before == after:
        return
    old, new = _code(conn, before), _code(conn, after)
    for subject, was, now in _differences(old["parts"], new["parts"]):
        yield Cause(kind="code", subject=subject, before=was, after=now)
    for subject, was, now in _differences(old["packages"], new["packages"]):
        yield Cause(kind="package", subject=subject, before=was, after=now)


def _code(conn: Connection, code: str) -> dict[str, dict[str, str]]:
    text = conn.execute(sa.select(CODE.c.parts).where(CODE.c.hash == code)).scalar_one()
    return msgspec.json.decode(text, type=dict[str, dict[str, str]])


def _differences(
    old: Mapping[str, str], new: Mapping[str, str]
) -> Iterator[tuple[str, str | None, str | None]]:
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield name, old.get(name), new.get(name)


def _input_changes(
    old: Mapping[str, tuple[InputRecord, ...]], new: Mapping[str, tuple[InputRecord, ...]]
) -> Iterator[Cause]:
    for name in sorted({*old, *new}):
        was, now = old.get(name, ()), new.get(name, ())
        if [(one.kind, one.hash) for one in was] == [(one.kind, one.hash) for one in now]:
            continue
        kinds = {one.kind for one in now or was}
        kind: CauseKind = "parameter"
        if kinds == {"output"}:
            kind = "input"
        elif kinds == {"file"}:
            kind = "source"
        yield Cause(kind=kind, subject=name, before=_shown(was), after=_shown(now))


def _shown(given: tuple[InputRecord, ...]) -> str | None:
    return ", ".join(one.shown for one in given) if given else None


def _sentence(row: Any, causes: tuple[Cause, ...]) -> str:
    if row.status == "reused":
        return f"reused from run {row.reused_from} (same code, parameters and inputs)"
    if row.status == "skipped":
        return f"skipped because {row.message}"
    if row.key is None:
        return f"failed before it started: {row.message}"
    told = [_said(one, row) for one in causes]
    more = f", and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    because = "; ".join(told[:_SHOWN]) + more
    ran = "ran for the first time" if causes[0].kind == "first_time" else f"ran because {because}"
    if row.status == "finished":
        return ran
    tries = f" after {row.attempt} tries" if row.attempt > 1 else ""
    ended = "timed out" if row.status == "timed_out" else "failed"
    return f"{ran}, and {ended}{tries}: {row.message}"


def _said(cause: Cause, row: Any) -> str:
    text = _SAID.get(cause.kind, "{subject}")
    if cause.kind == "code":
        text = "helper {subject} changed"
        if cause.subject == row.function:
            text = "its own code changed ({subject})"
        elif cause.before is None:
            text = "it now uses {subject}"
        elif cause.after is None:
            text = "it no longer uses {subject}"
    return text.format(subject=cause.subject, before=cause.before, after=cause.after, step=row.step)
