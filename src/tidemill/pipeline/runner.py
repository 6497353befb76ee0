"""The runner: ready steps run, side by side where they can; what was done is not done again.

look       the step's inputs and code make a key; is there a kept, undamaged result?
execute    in a thread, or, with a timeout, in a process of its own; again, if that may help
store      its files first, durable
commit     then one transaction: from here on it counts as done
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from tidemill.foundation.clock import SYSTEM_CLOCK, Clock
from tidemill.foundation.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Refused,
    StepFailed,
    TidemillError,
)
from tidemill.foundation.files import Files
from tidemill.foundation.names import check_name, new_id
from tidemill.foundation.store import Store
from tidemill.pipeline.artifact import Artifact, Shelf, put_artifact
from tidemill.pipeline.call import call
from tidemill.pipeline.child import Children, Request, check_not_importing, preload, said
from tidemill.pipeline.fingerprint import CodeFingerprint, fingerprint
from tidemill.pipeline.graph import downstream, ready
from tidemill.pipeline.inputs import Resolver, check_unchanged, key_of
from tidemill.pipeline.lineage import (
    TABLES,
    Inputs,
    RunStatus,
    StepRecord,
    StepStatus,
    add_step,
    end_run,
    find_result,
    start_run,
)
from tidemill.pipeline.reference import Reference, reference_of
from tidemill.pipeline.result import RunResult, StepResult
from tidemill.pipeline.step import Pipeline, Step
from tidemill.pipeline.tokens import name_of
from tidemill.pipeline.workspace import workspace

EventKind = Literal["started", "finished", "reused", "retrying", "failed", "skipped", "timed_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvent:
    """What just happened to a step.

    Args:
        step: its name.
        kind: what.
        attempt: which try, from 1; 0 where there was none.
        duration_s: since the step started.
        message: one sentence; empty where the kind says all.
    """

    step: str
    kind: EventKind
    attempt: int
    duration_s: float
    message: str


def run(
    pipeline: Pipeline,
    *,
    store: Store,
    files: Files,
    work: Path,
    parallel: int = 2,
    clock: Clock = SYSTEM_CLOCK,
    on_event: Callable[[StepEvent], None] | None = None,
    run_id: str | None = None,
) -> RunResult:
    """Runs the pipeline and returns what became of each step.

    A step that was done before, with the same code, parameters and inputs, is not done again: its
    result is taken. A failed step takes down only those that need it. After a kill, the same call
    goes on where the last one ended; with the same ``run_id``, as the same run. Several processes
    may run the same pipeline at once.

    Args:
        pipeline: what to run.
        store: where runs and lineage are kept.
        files: where artifacts are kept.
        work: a local folder for scratch files.
        parallel: how many steps run at once.
        clock: for times and durations.
        on_event: is called in this thread with each event.
        run_id: a name of 1 to 100 characters; a fresh one by default.

    Raises:
        InvalidInput: a step cannot run as it is declared. Nothing has run then.
        Conflict: the run id is taken by another pipeline.
        KeyboardInterrupt: the children are killed, and the run can be gone on with. A step in a
            thread cannot be killed: it lasts until it returns or the process ends, and its
            result is dropped.
    """
    check_not_importing()
    run_id = check_name("run", run_id or new_id())
    if parallel < 1:
        raise InvalidInput(f"parallel is {parallel}", remedy="Run at least one step at once.")
    codes = {one.name: fingerprint(one.function) for one in pipeline.steps}
    references = {
        one.name: reference_of(one.function, one.name)
        for one in pipeline.steps
        if one.timeout_s is not None
    }
    if references:
        preload(list(references.values()))
    with workspace(work) as folder:
        return _Run(
            pipeline=pipeline,
            store=store,
            shelf=Shelf(files),
            files=files,
            folder=folder,
            parallel=parallel,
            clock=clock,
            on_event=on_event or _ignore,
            run_id=run_id,
            codes=codes,
            references=references,
        ).result()


def _ignore(event: StepEvent) -> None:
    """Shows nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a step's thread found out, to be committed."""

    step: str
    status: StepStatus
    started_at: float
    duration_s: float
    key: str | None = None
    inputs: Inputs = field(default_factory=dict)
    artifact: Artifact | None = None
    kept_in: str | None = None
    attempt: int = 0
    note: str | None = None
    error: BaseException | None = None
    message: str = ""


@dataclass(slots=True, kw_only=True)
class _Run:
    pipeline: Pipeline
    store: Store
    shelf: Shelf
    files: Files
    folder: Path
    parallel: int
    clock: Clock
    on_event: Callable[[StepEvent], None]
    run_id: str
    codes: Mapping[str, CodeFingerprint]
    references: Mapping[str, Reference]
    children: Children = field(default_factory=Children)
    stop: threading.Event = field(default_factory=threading.Event)
    news: queue.SimpleQueue[_Work | StepEvent] = field(default_factory=queue.SimpleQueue)
    results: dict[str, StepResult] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    # One transaction at a time: an in-memory store has one connection for all threads.
    database: threading.Lock = field(default_factory=threading.Lock)

    def result(self) -> RunResult:
        with self.database, self.store.write(TABLES) as conn:
            start_run(conn, run=self.run_id, pipeline=self.pipeline.name, at=self.clock.now())
        try:
            self._run_all()
            failed = any(one.error for one in self.results.values())
            status: Literal["finished", "failed"] = "failed" if failed else "finished"
            self._end(status)
        except BaseException:
            self.stop.set()
            self.children.kill()
            with contextlib.suppress(TidemillError, sa.exc.SQLAlchemyError):
                self._end("interrupted")
            raise
        return RunResult(
            run_id=self.run_id,
            pipeline=self.pipeline,
            status=status,
            steps={name: self.results[name] for name in self.pipeline.order},
            shelf=self.shelf,
        )

    def _end(self, status: RunStatus) -> None:
        with self.database, self.store.write(TABLES) as conn:
            end_run(conn, run=self.run_id, status=status, at=self.clock.now())

    def _run_all(self) -> None:
        running: set[str] = set()
        needs = {name: self.pipeline.dependencies[name] for name in self.pipeline.order}
        while len(self.results) < len(self.pipeline.steps):
            taken = running | set(self.results)
            free = ready(needs, self.artifacts, taken)[: self.parallel - len(running)]
            for name in free:
                running.add(name)
                step = self.pipeline.step(name)
                threading.Thread(
                    target=self._work, args=(step,), name=f"step {name}", daemon=True
                ).start()
            news = self.news.get()
            if isinstance(news, StepEvent):
                self.on_event(news)
            else:
                running.discard(news.step)
                self._settle(news)

    # In the caller's thread: decisions, commits and events.

    def _settle(self, work: _Work) -> None:
        if work.kept_in != self.run_id:  # else this run has its row already
            self._commit(work)
        self.results[work.step] = StepResult(
            step=work.step,
            status=work.status,
            attempt=work.attempt,
            duration_s=work.duration_s,
            artifact=work.artifact,
            error=_as_ours(work),
        )
        if work.artifact is not None:
            self.artifacts[work.step] = work.artifact
        self._tell(work, work.status, work.message)
        if work.error is not None:
            self._skip_after(work.step)

    def _skip_after(self, failed: str) -> None:
        for name in downstream(self.pipeline.dependencies, failed):
            if name not in self.results:
                message = f"step {failed!r} failed"
                at = self.clock.now()
                work = _Work(
                    step=name, status="skipped", started_at=at, duration_s=0.0, message=message
                )
                self._commit(work)
                self.results[name] = StepResult(step=name, status="skipped")
                self._tell(work, "skipped", message)

    def _commit(self, work: _Work) -> None:
        record = StepRecord(
            run=self.run_id,
            pipeline=self.pipeline.name,
            step=work.step,
            status=work.status,
            key=work.key,
            function=name_of(self.pipeline.step(work.step).function),
            code=self.codes[work.step],
            inputs=work.inputs,
            artifact=work.artifact,
            reused_from=work.kept_in,
            attempt=work.attempt,
            started_at=work.started_at,
            duration_s=work.duration_s,
            message=work.message,
            note=work.note,
        )
        with self.database, self.store.write(TABLES) as conn:
            add_step(conn, record)

    def _tell(self, work: _Work, kind: EventKind, message: str) -> None:
        self.on_event(
            StepEvent(
                step=work.step,
                kind=kind,
                attempt=work.attempt,
                duration_s=work.duration_s,
                message=message,
            )
        )

    # In the step's thread: reading, hashing, running, storing.

    def _work(self, step: Step) -> None:
        attempt = _Attempt(run=self, step=step)
        try:
            work = attempt.work()
        except BaseException as error:  # noqa: BLE001 - sys.exit in a step is a failure too
            work = attempt.failed(error)
        self.news.put(work)


@dataclass(slots=True, kw_only=True)
class _Attempt:
    """One step's way through its thread."""

    run: _Run
    step: Step
    number: int = 0
    key: str | None = None
    inputs: Inputs = field(default_factory=dict)
    note: str | None = None
    started_at: float = 0.0
    begun: float = 0.0

    def work(self) -> _Work:
        run, step = self.run, self.step
        self.started_at, self.begun = run.clock.now(), run.clock.monotonic()
        resolver = Resolver(
            step=step,
            contract=run.pipeline.contracts[step.name],
            artifacts=run.artifacts,
            shelf=run.shelf,
        )
        self.inputs = resolver.records()
        self.key = key_of(step, run.codes[step.name].hash, self.inputs)
        kept = self._kept()
        if kept is not None:
            same = kept[0] == run.run_id
            message = "finished earlier in this run" if same else f"reused from run {kept[0]}"
            return self._done("reused", artifact=kept[1], kept_in=kept[0], message=message)
        return self._done("finished", artifact=self._execute(resolver))

    def failed(self, error: BaseException) -> _Work:
        late = isinstance(error, DeadlineExceeded) and self.step.timeout_s is not None
        return self._done("timed_out" if late else "failed", error=error, message=said(error))

    def _done(self, status: StepStatus, **more: Any) -> _Work:
        return _Work(
            step=self.step.name,
            status=status,
            started_at=self.started_at,
            duration_s=self._since(),
            key=self.key,
            inputs=self.inputs,
            attempt=self.number,
            note=self.note,
            **more,
        )

    def _kept(self) -> tuple[str, Artifact] | None:
        """Returns an earlier result, if it may be taken and is as it was stored."""
        run, step = self.run, self.step
        within = None if step.cache else run.run_id
        with run.database, run.store.read(TABLES) as conn:
            kept = find_result(conn, step=step.name, key=str(self.key), run=within)
        if kept is None:
            self.note = None if step.cache else "always"
            return None
        damaged = run.shelf.check(kept[1])
        if damaged is not None:
            self.note = f"damaged {damaged}"
            return None
        return kept

    def _execute(self, resolver: Resolver) -> Artifact:
        self._tell("started", "")
        while True:
            self.number += 1
            try:
                return self._once(resolver)
            except BaseException as error:
                lost = self.number > self.step.retries or not _may_mend(error)
                if lost or self.run.stop.is_set():
                    raise
                self._tell("retrying", said(error))
                if self.run.stop.wait(self.step.retry_delay_s):
                    raise

    def _once(self, resolver: Resolver) -> Artifact:
        step, run = self.step, self.run
        folder = run.folder / f"{step.name}-{self.number}"
        out = folder / "out" if resolver.contract.writes_files else None
        (out or folder).mkdir(parents=True)
        try:
            before = resolver.marks()
            arguments = resolver.arguments(folder / "inputs")
            if step.timeout_s is None:
                value = call(step.function, arguments, out=out, step=step.name)
            else:
                request = Request(step=step.name, arguments=arguments, out=out)
                value = run.children.call(run.references[step.name], request, step.timeout_s)
            check_unchanged(resolver, before)
            return put_artifact(run.files, step=step.name, key=str(self.key), value=value, out=out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _since(self) -> float:
        return self.run.clock.monotonic() - self.begun

    def _tell(self, kind: EventKind, message: str) -> None:
        self.run.news.put(
            StepEvent(
                step=self.step.name,
                kind=kind,
                attempt=max(self.number, 1),
                duration_s=self._since(),
                message=message,
            )
        )


def _may_mend(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, InvalidInput | NotFound | Refused)


def _as_ours(work: _Work) -> TidemillError | None:
    if work.error is None or isinstance(work.error, TidemillError):
        return work.error
    failed = StepFailed(f"step {work.step!r} failed: {said(work.error)}")
    failed.__cause__ = work.error
    return failed
