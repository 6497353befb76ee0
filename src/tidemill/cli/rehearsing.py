"""What ``tidemill plan`` measures: costs on this machine, and a plan's alternatives as served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from tidemill.cli.key_option import key_columns
from tidemill.cli.progress import count_progress
from tidemill.cli.session import Session, table
from tidemill.control.deployments import get_deployment, profiled
from tidemill.control.rescoring import measured_build
from tidemill.control.rollout import answering
from tidemill.foundation.errors import InvalidInput
from tidemill.models.environments import environments_path
from tidemill.models.format import read_manifest
from tidemill.models.registry import Registry
from tidemill.planning.alternatives import Alternative
from tidemill.planning.choose import Plan
from tidemill.planning.costs import Costs
from tidemill.planning.figures import number
from tidemill.recipes.rehearsal.calibration import calibrate, registered_law
from tidemill.recipes.rehearsal.comparison import Rehearsed, rehearse
from tidemill.recipes.rehearsal.kept import keep_costs, kept_costs, was_measured
from tidemill.recipes.rehearsal.questions import questions_of_ledger, questions_of_trace
from tidemill.recipes.rehearsal.stage import Subject
from tidemill.serving.placement import decide_placement
from tidemill.serving.plan import Deployment, Live

_REPEATS = 3


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """The application that is planned: what is live of it, and where its traffic is read."""

    name: str
    deployment: Deployment
    live: Live
    folder: Path
    key: tuple[str, ...]
    represent: dict[str, str]
    trace: Path | None


def application_of(
    on: Session,
    name: str,
    trace: Path | None,
    key: str | None,
    represent: Mapping[str, str] | None,
) -> Application:
    """Finds out what is live under a name, and how its keys are made.

    Args:
        on: the session.
        name: the application's.
        trace: a file with its traffic, instead of the ledger.
        key: the columns of the key, with commas, instead of the declared ones.
        represent: of those, instead of what is declared.

    Raises:
        NotFound: nothing is live under that name.
    """
    deployment = get_deployment(on.home, name)
    named = key_columns(key)
    columns, represented = profiled(deployment, named, represent)
    live = answering(deployment)
    return Application(
        name=name,
        deployment=deployment,
        live=live,
        folder=Registry(on.home).fetch(live.model, live.version),
        key=tuple(columns),
        represent=dict(represented),
        trace=trace,
    )


def costs_of(on: Session, known: Application, *, calibrate: bool) -> tuple[Costs, str]:
    """Returns what serving takes, and how that is known: measured now, before, or typical.

    What the last build of a table took counts, too, if there was one.

    Raises:
        InvalidInput: the model was never measured, or there is nothing to ask it.
    """
    costs, how = _costs_of(on, known, calibrate=calibrate)
    build = measured_build(on.home, known.name, known.live)
    if build is not None:
        costs = costs.with_build(build.keys.scored, build.cpu_s)
    return costs, how


def _costs_of(on: Session, known: Application, *, calibrate: bool) -> tuple[Costs, str]:
    live = known.live
    if calibrate:
        costs = _calibrated(on, known)
        kept = keep_costs(on.home, live.model, live.version, costs)
        return costs, f"measured on this machine at {kept.measured_at}"
    before = kept_costs(on.home, live.model, live.version)
    if before is not None:
        return before.costs, f"measured on this machine at {before.measured_at}"
    manifest = read_manifest(known.folder)
    law = registered_law(manifest)
    if law is None:
        raise InvalidInput(
            f"version {live.version} of {live.model!r} was never measured",
            remedy="Push it again: it is measured then.",
        )
    on_loop = decide_placement(known.deployment.plan, manifest) == "gateway"
    costs = Costs(law=law, on_loop=on_loop)
    how = "the model's as registered, the rest typical of two cores; "
    if was_measured(on.home, live.model, live.version):
        return costs, how + (
            "what was measured here was fitted to another simulation than this one's: "
            "run --calibrate again"
        )
    return costs, how + "see --calibrate"


def rehearse_plan(on: Session, known: Application, plan: Plan) -> tuple[Rehearsed, ...]:
    """Serves what was chosen, and the best of each other kind, and measures all of them.

    Raises:
        InvalidInput: there is nothing to ask.
    """
    with count_progress(on, "rehearsing") as progress:
        return rehearse(
            _subject(on, known),
            rivals(plan),
            traffic=plan.traffic,
            costs=plan.costs,
            slo_ms=plan.promise.slo_ms,
            repeats=_REPEATS,
            told=progress,
        )


def rivals(plan: Plan) -> list[Alternative]:
    """Returns the chosen alternative, and the cheapest of no, some and all keys."""
    found = [plan.chosen]
    every = plan.traffic.cardinality
    for low, high in ((0, 0), (1, every - 1), (every, every)):
        kind = [each for each in plan.alternatives if low <= each.head_keys <= high]
        if kind:
            best = min(kind, key=lambda each: (not each.feasible, each.cost_month))
            if best not in found:
                found.append(best)
    return found


def print_rehearsed(out: Console, rehearsed: Sequence[Rehearsed]) -> None:
    """Prints what was predicted beside what was measured."""
    shown = table(
        "Predicted, and measured (median of the repeats)",
        *("choice", "keys", "cache", "CPU µs", "mean ms", "p50 ms", "p99 ms", "bytes", "failed"),
    )
    for each in rehearsed:
        told = [
            f"{number(getattr(each.predicted, name))}, {number(each.median(name))}"
            for name in ("cpu_us", "mean_ms", "p50_ms", "p99_ms")
        ]
        shown.add_row(
            each.choice,
            f"{each.head_keys:,}",
            f"{each.cache_entries:,}",
            *told,
            f"{each.predicted.table_bytes:,}, {each.median('table_bytes'):,.0f}",
            f"{sum(run.failed for run in each.measured):,}",
        )
    out.print(shown)


def _calibrated(on: Session, known: Application) -> Costs:
    with count_progress(on, "measuring what serving takes here") as progress:
        return calibrate(_subject(on, known), told=progress)


def _subject(on: Session, known: Application) -> Subject:
    signature = read_manifest(known.folder).signature
    if known.trace is not None:
        rows = questions_of_trace(known.trace, signature)
    else:
        rows = questions_of_ledger(on.home.ledger_path, known.name, signature)
    key = known.key or tuple(column.name for column in signature.inputs)
    return Subject(
        folder=known.folder,
        rows=rows,
        key=key,
        represent=_represented(known),
        environments=str(environments_path(on.home.cache_path)),
    )


def _represented(known: Application) -> dict[str, str]:
    """Returns what represents inputs: of the key as it is planned, of others as it is live."""
    others = {
        name: how for name, how in known.deployment.represent.items() if name not in known.key
    }
    return {**(others if known.key else {}), **known.represent}
