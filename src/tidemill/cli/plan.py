"""``tidemill plan``: where each prediction is best computed, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console

from tidemill.cli.plan_watch import (
    ApplyOption,
    ConfirmOption,
    ExaminationsOption,
    GainOption,
    IntervalOption,
    WatchOption,
    WindowOption,
    watch_plan,
    watching,
)
from tidemill.cli.progress import count_progress
from tidemill.cli.rehearsing import (
    Application,
    application_of,
    costs_of,
    print_rehearsed,
    rehearse_plan,
)
from tidemill.cli.represent_option import RepresentOption
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, Session, session, table
from tidemill.control.profiles import WINDOW_S, kept_profile
from tidemill.data.representation import declarations
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.files import write_atomic
from tidemill.foundation.toml import toml_key, toml_value
from tidemill.models.format import read_manifest
from tidemill.planning.alternatives import Alternative, Promise
from tidemill.planning.choose import Aim, Plan, choose, settings_of
from tidemill.planning.costs import Costs
from tidemill.planning.demands import Demands, demands
from tidemill.planning.figures import number
from tidemill.planning.prices import Prices
from tidemill.planning.report import plan_page
from tidemill.planning.requirements import read_requirements
from tidemill.planning.traffic import Traffic
from tidemill.planning.workload import WorkloadProfile
from tidemill.planning.workload.sources import read_served, read_trace
from tidemill.recipes.rehearsal.comparison import Rehearsed

_SHOWN = 16


TraceOption = Annotated[
    Path | None, typer.Option(help="Its traffic, instead of what the ledger has.")
]
RequirementsOption = Annotated[
    Path | None, typer.Option(help="A file that declares all, before there is a model.")
]
KeyOption = Annotated[
    str | None, typer.Option(help="The key's columns, with commas; as deployed by default.")
]
SloMsOption = Annotated[float | None, typer.Option(help="99 of 100 answers within that.")]
MaxAgeSOption = Annotated[
    float | None, typer.Option(help="How old an answer may be; any age if not given.")
]
RefreshSOption = Annotated[
    float | None, typer.Option(help="How often model or features change; never by default.")
]
CpuHourOption = Annotated[float | None, typer.Option(help="Price of a core for an hour.")]
MemoryGbMonthOption = Annotated[
    float | None, typer.Option(help="Price of a GB of memory for a month.")
]
DiskGbMonthOption = Annotated[float | None, typer.Option(help="Price of a GB of disk for a month.")]
MinimizeOption = Annotated[Literal["cost", "latency"], typer.Option(help="What is to be lowest.")]
BudgetOption = Annotated[float | None, typer.Option(help="What a month may cost, at most.")]
ReportOption = Annotated[
    Path | None, typer.Option(help="Also write a page with curves to this file.")
]
OutOption = Annotated[
    Path | None, typer.Option(help="Also write the plan as a document for tidemill apply.")
]
CalibrateOption = Annotated[
    bool,
    typer.Option("--calibrate", help="First measure what serving takes on this machine."),
]
RehearseOption = Annotated[
    bool,
    typer.Option("--rehearse", help="Then serve the choice and its rivals, and measure them."),
]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan is made of, whoever said it; ``costs_from`` says how the costs are known."""

    subject: str
    traffic: Traffic
    costs: Costs
    costs_from: str
    promise: Promise
    prices: Prices
    key: tuple[str, ...] = ()
    traced: bool = False
    represent: Mapping[str, str] = {}
    late: tuple[str, ...] = ()


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("plan")
    def plan(
        application: Annotated[
            str | None, typer.Argument(help="The application, with its model and its promise.")
        ] = None,
        trace: TraceOption = None,
        requirements: RequirementsOption = None,
        key: KeyOption = None,
        represent: RepresentOption = None,
        slo_ms: SloMsOption = None,
        max_age_s: MaxAgeSOption = None,
        refresh_s: RefreshSOption = None,
        cpu_hour: CpuHourOption = None,
        memory_gb_month: MemoryGbMonthOption = None,
        disk_gb_month: DiskGbMonthOption = None,
        minimize: MinimizeOption = "cost",
        budget: BudgetOption = None,
        calibrate: CalibrateOption = False,
        rehearse: RehearseOption = False,
        report: ReportOption = None,
        out: OutOption = None,
        watch: WatchOption = False,
        apply: ApplyOption = False,
        interval_s: IntervalOption = 300.0,
        window_s: WindowOption = WINDOW_S,
        gain: GainOption = 0.1,
        confirm: ConfirmOption = 3,
        examinations: ExaminationsOption = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Choose static, dynamic or hybrid serving from traffic, costs and prices, and say why."""
        measures = calibrate or rehearse
        applies = out is not None or represent is not None
        _check_subject(application, requirements, applies=applies, measures=measures)
        given = None if represent is None else declarations(represent)
        files = out is not None or report is not None
        served = application is not None and trace is None
        own = key is None and represent is None and not measures
        _check_watch(watch, apply=apply, served=served, own=own, writes=files)
        promise = {"slo_ms": slo_ms, "max_age_s": max_age_s, "refresh_s": refresh_s}
        prices = {
            "cpu_hour": cpu_hour,
            "memory_gb_month": memory_gb_month,
            "disk_gb_month": disk_gb_month,
        }
        known: Application | None = None
        with session(home=home, config=config, json=json) as on:
            if watch:
                how = watching(
                    interval_s=interval_s, window_s=window_s, gain=gain, confirm=confirm,
                    examinations=examinations, applies=apply,
                )  # fmt: skip
                name = str(application)
                again = partial(_planned_since, on, name, promise, prices, minimize, budget)
                watch_plan(on, name, again, how)
                return
            if requirements is not None:
                asked = _declared(requirements, promise, prices)
            else:
                known = application_of(on, str(application), trace, key, given)
                asked = _measured(on, known, promise, prices, calibrate=calibrate)
            found = _chosen(on, asked, minimize, budget)
            demanded = None if requirements is None else _demanded(on, found)
            rehearsed = rehearse_plan(on, known, found) if rehearse and known else ()
            _show(on, asked, found, demanded, rehearsed, report=report, out=out)


def _show(
    on: Session,
    asked: Asked,
    found: Plan,
    demanded: Demands | None,
    rehearsed: Sequence[Rehearsed],
    *,
    report: Path | None,
    out: Path | None,
) -> None:
    if report is not None:
        write_atomic(report, plan_page(found, asked.subject).encode())
    if out is not None:
        write_atomic(out, _document(asked, found).encode())
    shown: dict[str, Any] = {
        "subject": asked.subject,
        **msgspec.to_builtins(found.chosen),
        **msgspec.to_builtins(found),
        "costs_from": asked.costs_from,
        **({} if demanded is None else {"demands": msgspec.to_builtins(demanded)}),
        "rehearsed": msgspec.to_builtins(rehearsed),
    }

    def show(console: Console) -> None:
        _print(console, asked, found)
        if demanded is not None:
            console.print("What that demands of training:", markup=False)
            for each in demanded.sentences:
                console.print(f"  {each}", markup=False)
        if rehearsed:
            print_rehearsed(console, rehearsed)

    on.show(shown, show)


def _check_subject(
    application: str | None, requirements: Path | None, *, applies: bool, measures: bool
) -> None:
    if (application is None) == (requirements is None):
        raise InvalidInput(
            "a plan is of an application or of requirements",
            remedy="Give an application, or --requirements FILE.",
        )
    if application is None and applies:
        raise InvalidInput(
            "only the plan of an application can be applied, and its inputs represented",
            remedy="Leave --out and --represent away.",
        )
    if application is None and measures:
        raise InvalidInput(
            "only an application can be measured",
            remedy="Leave --calibrate and --rehearse away.",
        )


def _check_watch(watch: bool, *, apply: bool, served: bool, own: bool, writes: bool) -> None:  # noqa: FBT001
    if apply and not watch:
        raise InvalidInput("--apply is of --watch only", remedy="Write --out, and apply that.")
    if watch and (writes or not served):
        raise InvalidInput(
            "--watch is of an application's ledger, and writes no file",
            remedy="Leave --trace, --report and --out away.",
        )
    if watch and not own:
        raise InvalidInput(
            "--watch goes by the application's own key, representations and costs",
            remedy="Leave --key, --represent, --calibrate and --rehearse away.",
        )


def _planned_since(
    on: Session,
    application: str,
    promise: dict[str, Any],
    prices: dict[str, Any],
    aim: Aim,
    budget: float | None,
    since: float,
    kept_since: float | None,
) -> Plan:
    known = application_of(on, application, None, None, None)
    asked = _measured(on, known, promise, prices, since=since, kept_since=kept_since)
    return _chosen(on, asked, aim, budget)


def _chosen(on: Session, asked: Asked, aim: Aim, budget: float | None) -> Plan:
    with count_progress(on, "simulating alternatives") as progress:
        return choose(
            asked.traffic,
            asked.costs,
            prices=asked.prices,
            promise=asked.promise,
            aim=aim,
            budget_month=budget,
            late=asked.late,
            told=progress,
        )


def _demanded(on: Session, found: Plan) -> Demands:
    with count_progress(on, "looking at slower and faster models") as progress:
        return demands(found, told=progress)


def _declared(path: Path, promise: dict[str, Any], prices: dict[str, Any]) -> Asked:
    found = read_requirements(path)
    return Asked(
        subject=str(path),
        traffic=found.traffic.traffic(),
        costs=found.costs(),
        costs_from="declared, and typical of a machine of two cores",
        promise=_changed(found.promise, promise),
        prices=_changed(found.prices, prices),
        late=found.late,
    )


def _measured(
    on: Session,
    known: Application,
    promise: dict[str, Any],
    prices: dict[str, Any],
    *,
    calibrate: bool = False,
    since: float | None = None,
    kept_since: float | None = None,
) -> Asked:
    costs, costs_from = costs_of(on, known, calibrate=calibrate)
    return Asked(
        subject=known.name,
        traffic=_profile(on, known, since, kept_since).traffic(),
        costs=costs,
        costs_from=costs_from,
        promise=_changed(
            Promise(slo_ms=known.deployment.slo_ms, max_age_s=known.deployment.max_age_s), promise
        ),
        prices=_changed(Prices(), prices),
        key=known.key or _inputs(known),
        traced=known.trace is not None,
        represent=known.represent,
    )


def _profile(
    on: Session, known: Application, since: float | None, kept_since: float | None
) -> WorkloadProfile:
    """Returns the workload of a trace or the ledger, or what a server measured since a moment."""
    if kept_since is not None:
        kept = kept_profile(
            on.home, known.name, key=known.key, represent=known.represent, since=kept_since
        )
        if kept is not None:
            return kept.profile
    with count_progress(on, "reading the traffic") as progress:
        if known.trace is not None:
            columns = known.key or None
            seen = read_trace(known.trace, columns, represent=known.represent, progress=progress)
        else:
            seen = read_served(
                on.home.ledger_path,
                known.name,
                known.key,
                represent=known.represent,
                since=since,
                progress=progress,
            )
    return seen.result()


def _inputs(known: Application) -> tuple[str, ...]:
    """Returns the key of an application that has none: all that its model takes."""
    return tuple(column.name for column in read_manifest(known.folder).signature.inputs)


def _changed(record: Any, given: dict[str, Any]) -> Any:
    """Returns a record with the fields that were given, checked as it checks them."""
    fields = {name: value for name, value in given.items() if value is not None}
    try:
        return msgspec.convert({**msgspec.to_builtins(record), **fields}, type(record))
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error), remedy="Correct the flag.") from error


def _document(asked: Asked, plan: Plan) -> str:
    """Returns what ``tidemill apply`` takes: it builds the table, and declares the rest."""
    application, represent = asked.subject, dict(asked.represent)
    age_s, head = plan.promise.max_age_s, plan.chosen.head_keys
    lines = [f"# {each}" for each in plan.reasons]
    builds = head > 0 and not asked.traced
    if head and not builds:
        flags = "".join(f" --represent '{name}={how}'" for name, how in represent.items())
        lines.append("# The ledger need not know the trace: build the table once it was asked.")
        lines.append(f"# tidemill table build {application} --ledger --head {head}{flags}")
    lines.append(f"[applications.{toml_key(application)}]")
    lines += [f"key = {toml_value(list(asked.key))}"] if asked.key and builds else []
    lines += [f"represent = {toml_value(represent)}"] if represent else []
    lines += [] if age_s is None else [f"max_age_s = {age_s!r}"]
    if builds or not head:
        lines.append(f"head_keys = {head}")
    lines.append("")
    lines.append(f"[applications.{toml_key(application)}.plan]")
    lines += [f"{name} = {value!r}" for name, value in settings_of(plan).items()]
    return "\n".join(lines) + "\n"


def _print(out: Console, asked: Asked, plan: Plan) -> None:
    out.print(f"Plan of {asked.subject}: {plan.chosen.choice}", markup=False)
    for reason in plan.reasons:
        out.print(f"  {reason}", markup=False)
    out.print(f"  Costs are {asked.costs_from}.", markup=False)
    shown = table(
        "Alternatives", "keys", "cache", "choice", "a million", "CPU µs", "bytes", "mean ms",
        "p99 ms", "promise",
    )  # fmt: skip
    for each in _nearest(plan):
        mark = "chosen" if each == plan.chosen else "kept" if each.feasible else "broken"
        shown.add_row(
            f"{each.head_keys:,}",
            f"{each.cache_entries:,}",
            each.choice,
            f"{each.cost_per_million:.4g}",
            number(each.cpu_us_per_query),
            f"{each.bytes:,}",
            number(each.mean_ms),
            number(each.p99_ms),
            mark,
        )
    out.print(shown)


def _nearest(plan: Plan) -> list[Alternative]:
    """Returns the alternatives that a terminal has room for, by the size of their table."""
    ranked = sorted(plan.alternatives, key=lambda each: (not each.feasible, each.cost_month))
    kept = [plan.chosen, *(each for each in ranked if each != plan.chosen)][:_SHOWN]
    return sorted(kept, key=lambda each: (each.head_keys, each.cache_entries))
