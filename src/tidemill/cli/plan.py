"""``tidemill plan``: where each prediction is best computed, and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console

from tidemill.cli.progress import count_progress
from tidemill.cli.represent_option import RepresentOption
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, Session, session, table
from tidemill.control.deployments import get_deployment, profiled
from tidemill.control.rescoring import measured_build
from tidemill.control.rollout import answering
from tidemill.data.representation import declarations
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.files import write_atomic
from tidemill.foundation.toml import toml_key, toml_value
from tidemill.models.format import read_manifest
from tidemill.models.registry import Registry
from tidemill.planning.alternatives import Alternative, Promise
from tidemill.planning.choose import Plan, choose
from tidemill.planning.costs import Costs
from tidemill.planning.latency import fit_law
from tidemill.planning.prices import Prices
from tidemill.planning.report import plan_page
from tidemill.planning.requirements import read_requirements
from tidemill.planning.traffic import Traffic
from tidemill.planning.workload.sources import read_served, read_trace
from tidemill.serving.placement import decide_placement

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


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan is made of, whoever said it."""

    subject: str
    traffic: Traffic
    costs: Costs
    promise: Promise
    prices: Prices
    represent: Mapping[str, str] = {}


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
        report: ReportOption = None,
        out: OutOption = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Choose static, dynamic or hybrid serving from traffic, costs and prices, and say why."""
        if (application is None) == (requirements is None):
            raise InvalidInput(
                "a plan is of an application or of requirements",
                remedy="Give an application, or --requirements FILE.",
            )
        if application is None and (out is not None or represent is not None):
            raise InvalidInput(
                "only the plan of an application can be applied, and its inputs represented",
                remedy="Leave --out and --represent away.",
            )
        given = None if represent is None else declarations(represent)
        promise = {"slo_ms": slo_ms, "max_age_s": max_age_s, "refresh_s": refresh_s}
        prices = {
            "cpu_hour": cpu_hour,
            "memory_gb_month": memory_gb_month,
            "disk_gb_month": disk_gb_month,
        }
        with session(home=home, config=config, json=json) as on:
            if requirements is not None:
                asked = _declared(requirements, promise, prices)
            else:
                assert application is not None
                asked = _measured(on, application, trace, key, given, promise, prices)
            with count_progress(on, "simulating alternatives") as progress:
                found = choose(
                    asked.traffic,
                    asked.costs,
                    prices=asked.prices,
                    promise=asked.promise,
                    aim=minimize,
                    budget_month=budget,
                    told=progress,
                )
            if report is not None:
                write_atomic(report, plan_page(found, asked.subject).encode())
            if out is not None:
                write_atomic(out, _document(asked, found).encode())
            shown: dict[str, Any] = {
                "subject": asked.subject,
                **msgspec.to_builtins(found.chosen),
                **msgspec.to_builtins(found),
            }
            on.show(shown, lambda console: _print(console, asked.subject, found))


def _declared(path: Path, promise: dict[str, Any], prices: dict[str, Any]) -> Asked:
    found = read_requirements(path)
    return Asked(
        subject=str(path),
        traffic=found.traffic.traffic(),
        costs=found.costs(),
        promise=_changed(found.promise, promise),
        prices=_changed(found.prices, prices),
    )


def _measured(
    on: Session,
    application: str,
    trace: Path | None,
    key: str | None,
    represent: Mapping[str, str] | None,
    promise: dict[str, Any],
    prices: dict[str, Any],
) -> Asked:
    deployment = get_deployment(on.home, application)
    named = tuple(part.strip() for part in key.split(",")) if key else None
    columns, represent = profiled(deployment, named, represent)
    with count_progress(on, "reading the traffic") as progress:
        if trace is not None:
            seen = read_trace(trace, columns or None, represent=represent, progress=progress)
        else:
            seen = read_served(
                on.home.ledger_path, application, columns, represent=represent, progress=progress
            )
    version = answering(deployment)
    manifest = read_manifest(Registry(on.home).fetch(version.model, version.version))
    if manifest.latency is None:
        raise InvalidInput(
            f"version {version.version} of {version.model!r} was never measured",
            remedy="Push it again: it is measured then.",
        )
    latency = manifest.latency
    costs = Costs(
        law=fit_law([1, 64], [latency.batch_1_s, latency.batch_64_s]),
        on_loop=decide_placement(deployment.plan, manifest) == "gateway",
    )
    build = measured_build(on.home, application, version)
    if build is not None:
        costs = costs.with_build(build.keys.scored, build.cpu_s)
    return Asked(
        subject=application,
        traffic=seen.result().traffic(),
        costs=costs,
        promise=_changed(
            Promise(slo_ms=deployment.slo_ms, max_age_s=deployment.max_age_s), promise
        ),
        prices=_changed(Prices(), prices),
        represent=represent,
    )


def _changed(record: Any, given: dict[str, Any]) -> Any:
    """Returns a record with the fields that were given, checked as it checks them."""
    fields = {name: value for name, value in given.items() if value is not None}
    try:
        return msgspec.convert({**msgspec.to_builtins(record), **fields}, type(record))
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error), remedy="Correct the flag.") from error


def _document(asked: Asked, plan: Plan) -> str:
    """Returns what ``tidemill apply`` takes, and how the table comes about."""
    application, represent = asked.subject, dict(asked.represent)
    chosen = plan.chosen
    cache_bytes = round(chosen.cache_entries * plan.costs.entry_bytes)
    lines = [f"# {each}" for each in plan.reasons]
    if chosen.head_keys:
        flags = "".join(f" --represent '{name}={how}'" for name, how in represent.items())
        lines.append(
            f"# tidemill table build {application} --ledger --head {chosen.head_keys}{flags}"
        )
    age_s = plan.promise.max_age_s
    if represent or age_s is not None:
        lines.append(f"[applications.{toml_key(application)}]")
        lines += [f"represent = {toml_value(represent)}"] if represent else []
        lines += [] if age_s is None else [f"max_age_s = {age_s!r}"]
        lines.append("")
    lines += [
        f"[applications.{toml_key(application)}.plan]",
        f"replicas = {chosen.replicas}",
        f"max_batch = {chosen.batch_limit}",
        f"cache_bytes = {cache_bytes}",
    ]
    if age_s is not None:
        lines.append(f"cache_ttl_s = {age_s!r}")
    return "\n".join(lines) + "\n"


def _print(out: Console, subject: str, plan: Plan) -> None:
    out.print(f"Plan of {subject}: {plan.chosen.choice}", markup=False)
    for reason in plan.reasons:
        out.print(f"  {reason}", markup=False)
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
            f"{each.cpu_us_per_query:.3g}",
            f"{each.bytes:,}",
            f"{each.mean_ms:.3g}",
            f"{each.p99_ms:.3g}",
            mark,
        )
    out.print(shown)


def _nearest(plan: Plan) -> list[Alternative]:
    """Returns the alternatives that a terminal has room for, by the size of their table."""
    ranked = sorted(plan.alternatives, key=lambda each: (not each.feasible, each.cost_month))
    kept = [plan.chosen, *(each for each in ranked if each != plan.chosen)][:_SHOWN]
    return sorted(kept, key=lambda each: (each.head_keys, each.cache_entries))
