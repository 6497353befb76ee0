"""A case from its seed to its verdict: model, traffic, measured costs, plan, rehearsal, flips."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.errors import Conflict, Unavailable
from tidemill.foundation.files import write_atomic
from tidemill.foundation.locks import hold
from tidemill.models.signature import Column, Signature
from tidemill.planning.alternatives import Alternative, Choice
from tidemill.planning.choose import choose
from tidemill.planning.workload.sources import read_trace
from tidemill.recipes.demo.cases.case import Case, Flip, Question
from tidemill.recipes.demo.commands import Commands
from tidemill.recipes.demo.story import Teller
from tidemill.recipes.rehearsal.comparison import Rehearsed

QUESTIONS_S = 60.0
"""The traffic that is looked at lasts so long."""

_FLIP_QUERIES = 4000


class Flipped(msgspec.Struct, frozen=True, kw_only=True):
    """One input moved: what was expected, what is chosen then, and whether that agrees."""

    what: str
    expected: tuple[Choice, ...]
    choice: Choice
    agrees: bool


class CaseSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a case.

    Args:
        case: its name.
        title: in a few words.
        expected: what theory allows.
        choice: what was chosen.
        agrees: whether theory allows it.
        reasons: why, in two sentences.
        chosen: the alternative.
        rehearsed: it and its rivals, predicted and measured.
        flips: one input moved each time.
        costs_from: how the costs are known.
        report: the page with the curves; None where nothing can draw them.
        folder: where everything is.
        took_s: seconds.
    """

    case: str
    title: str
    expected: tuple[Choice, ...]
    choice: Choice
    agrees: bool
    reasons: tuple[str, ...]
    chosen: Alternative
    rehearsed: tuple[Rehearsed, ...]
    flips: tuple[Flipped, ...]
    costs_from: str
    report: str | None
    folder: str
    took_s: float


def tell_case(case: Case, folder: Path, teller: Teller, *, seed: int = 0) -> CaseSummary:
    """Runs a case in a folder, from the beginning, and returns what came of it.

    Args:
        case: which.
        folder: what is in it from an earlier run of the case is made again.
        teller: how it is told.
        seed: of all data.

    Raises:
        Conflict: another demo is under way there.
        TidemillError: a part of it failed.
    """
    began = SYSTEM_CLOCK.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    busy = Conflict(
        f"another demo is under way in {folder}", remedy="Wait for it, or choose --folder."
    )
    with hold(folder / "lock", busy=busy):
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        teller.say(f"{case.name}: {case.title} {case.told}")
        commands = Commands(work, folder / "log")
        _make(case, work, commands, teller, seed)
        planned = _plan(case, folder, commands, teller)
        question = _question(planned)
        trace = work / "trace.parquet"
        flips = tuple(_flipped(flip, question, trace, teller) for flip in case.flips)
        summary = CaseSummary(
            case=case.name,
            title=case.title,
            expected=case.expected,
            choice=planned["choice"],
            agrees=planned["choice"] in case.expected,
            reasons=tuple(planned["reasons"]),
            chosen=msgspec.convert(planned["chosen"], Alternative),
            rehearsed=msgspec.convert(planned["rehearsed"], tuple[Rehearsed, ...]),
            flips=flips,
            costs_from=planned["costs_from"],
            report=planned["report"],
            folder=str(folder),
            took_s=SYSTEM_CLOCK.monotonic() - began,
        )
        write_atomic(folder / "summary.json", msgspec.json.encode(summary))
        return summary


def _make(case: Case, work: Path, commands: Commands, teller: Teller, seed: int) -> None:
    """Makes the model and the traffic, and registers the model as anybody would."""
    joblib = _joblib()
    rng = np.random.default_rng([seed, 1])
    rows, labels = case.examples(rng)
    model = case.model()
    with teller.bar("training the model"):
        model.fit(rows.to_pandas(), labels)
    joblib.dump(model, work / "model.joblib")
    pq.write_table(rows.slice(0, 500), work / "sample.parquet")
    count = int(QUESTIONS_S * case.rate_rps)
    asked = case.questions(rng, count)
    times = np.cumsum(rng.exponential(1.0 / case.rate_rps, count))
    pq.write_table(asked.append_column("time", pa.array(times)), work / "trace.parquet")
    with teller.bar("registering the model"):
        pushed = commands.run(
            *("push", "model.joblib", "--name", case.name, "--sample", "sample.parquet"),
            *("--trust-code", *_signature(rows, model)),
        )
    found = pushed["model"]
    where = "compiled" if found["compiled"] else "not compiled"
    teller.say(f"model: {where}, one row takes {found['batch_1_ms']:.3g} ms")
    teller.say(f"traffic: {count:,} questions, {case.rate_rps:g} a second")


def _signature(rows: pa.Table, model: Any) -> list[str]:
    """Returns what a classifier of texts takes and gives; of numbers, that can be inferred."""
    inputs = tuple(Column(name, "string") for name in rows.column_names)
    if not all(pa.types.is_string(each.type) for each in rows.schema):
        return []
    classes = len(model.classes_)
    outputs = (Column("label", "int64"), Column("probabilities", "float64", (classes,)))
    return ["--signature", Signature(inputs, outputs).to_json().decode()]


def _plan(case: Case, folder: Path, commands: Commands, teller: Teller) -> dict[str, Any]:
    promise = {"slo-ms": case.promise.slo_ms, "refresh-s": case.promise.refresh_s}
    promise["max-age-s"] = case.promise.max_age_s
    flags = [f"--{name}={value}" for name, value in promise.items() if value is not None]
    flags += ["--trace", "trace.parquet", "--key", ",".join(_key(folder))]
    report = folder / "report.html"
    drawn = ["--report", str(report)] if _can_draw() else []
    with teller.bar("measuring this machine, simulating, serving static, dynamic and hybrid"):
        planned = commands.run("plan", case.name, *flags, "--calibrate", "--rehearse", *drawn)
    for reason in planned["reasons"]:
        teller.say(reason)
    return {**planned, "report": str(report) if drawn else None}


def _key(folder: Path) -> list[str]:
    names = pq.read_schema(folder / "work" / "trace.parquet").names
    return [name for name in names if name != "time"]


def _question(planned: dict[str, Any]) -> Question:
    parts = {name: planned[name] for name in ("traffic", "costs", "prices", "promise")}
    return msgspec.convert(parts, Question)


def _flipped(flip: Flip, question: Question, trace: Path, teller: Teller) -> Flipped:
    changed = flip.change(question)
    if flip.represent:
        key = tuple(flip.represent)
        seen = read_trace(trace, key, represent=flip.represent)
        changed = msgspec.structs.replace(changed, traffic=seen.result().traffic())
    plan = choose(
        changed.traffic,
        changed.costs,
        prices=changed.prices,
        promise=changed.promise,
        queries=_FLIP_QUERIES,
    )
    choice = plan.chosen.choice
    teller.say(f"if {flip.what}: {choice}")
    return Flipped(
        what=flip.what, expected=flip.expected, choice=choice, agrees=choice in flip.expected
    )


def _can_draw() -> bool:
    from tidemill.foundation.pages import altair  # noqa: PLC0415 - an extra

    try:
        altair()
    except Unavailable:
        return False
    return True


def _joblib() -> Any:
    try:
        import joblib  # noqa: PLC0415 - an extra
        import sklearn  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"the demo needs {error.name}", remedy="pip install 'tidemill[demo]'."
        ) from error
    return joblib
