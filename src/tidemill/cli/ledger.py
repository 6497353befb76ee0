"""``tidemill ledger``: what was served, and how it fared once the labels came."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, session, table
from tidemill.control.scores import ServedReport, score_application
from tidemill.control.withdrawals import Withdrawn, withdraw_labels
from tidemill.data.ledger import Problem, export_parquet
from tidemill.data.ledger import compact as compact_ledger
from tidemill.monitoring.served_score import ServedScore


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    group = typer.Typer(help="Score, export and compact what was served.", no_args_is_help=True)
    app.add_typer(group, name="ledger")
    _register_score(group)
    _register_withdraw(group)

    @group.command("export")
    def export(
        folder: Annotated[Path, typer.Argument(help="Where the two Parquet files go.")],
        application: Annotated[str | None, typer.Option(help="One application only.")] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Write predictions.parquet and labels.parquet, for questions in SQL."""
        with session(home=home, config=config, json=json) as on:
            folder.mkdir(parents=True, exist_ok=True)
            done = export_parquet(on.home.ledger_path, folder, application)
            on.show(
                {
                    "predictions": str(done.predictions),
                    "labels": str(done.labels),
                    "prediction_rows": done.prediction_rows,
                    "label_rows": done.label_rows,
                    "withdrawn_labels": done.withdrawn_labels,
                    "problems": done.problems,
                },
                lambda out: _print_work(
                    out,
                    f"{done.prediction_rows:,} predictions in {done.predictions}\n"
                    f"{done.label_rows:,} labels in {done.labels}",
                    done.problems,
                ),
            )

    @group.command("compact")
    def compact(
        home: HomeOption = None, config: ConfigOption = None, json: JsonOption = False
    ) -> None:
        """Turn sealed segments into Parquet."""
        with session(home=home, config=config, json=json) as on:
            done = compact_ledger(on.home.ledger_path)
            on.show(
                done,
                lambda out: _print_work(
                    out,
                    f"{done.segments} segments compacted: {done.predictions:,} predictions and "
                    f"{done.labels:,} labels are in Parquet",
                    done.problems,
                ),
            )


def _register_score(group: typer.Typer) -> None:
    @group.command("score")
    def score(
        application: Annotated[str, typer.Argument(help="The application.")],
        horizon_s: Annotated[
            float | None, typer.Option(help="Only predictions older than this count.", min=0.0)
        ] = None,
        since: Annotated[
            float | None, typer.Option(help="Only what was answered since then (epoch seconds).")
        ] = None,
        until: Annotated[
            float | None, typer.Option(help="Only what was answered before (epoch seconds).")
        ] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Score the predictions as they were served, in prediction order, by their labels."""
        with session(home=home, config=config, json=json) as on:
            found = score_application(
                on.home, application, horizon_s=horizon_s, since=since, until=until
            )
            on.show(found, lambda out: _print(out, found))


def _register_withdraw(group: typer.Typer) -> None:
    @group.command("withdraw")
    def withdraw(
        key: Annotated[str, typer.Option("--key", help="The key's name.")],
        reason: Annotated[str, typer.Option("--reason", help="Why, for the audit.")],
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Let no label that this key brought, or will bring, count in scores and exports."""
        with session(home=home, config=config, json=json) as on:
            done = withdraw_labels(on.home, key, by="cli", reason=reason)
            on.show(done, lambda out: _print_withdrawn(out, done))


def _print_withdrawn(out: Console, done: Withdrawn) -> None:
    out.print(f"{done.labels:,} labels of key {done.key} count no more", markup=False)
    if done.state == "in force":
        out.print(f"The key is still in force: tidemill keys revoke {done.key}", markup=False)


def _print(out: Console, found: ServedReport) -> None:
    report = found.report
    rows = table(
        f"Served by {found.application}",
        *("", "predictions", "labelled", "coverage", "loss", "constant", "AUC", "Brier"),
    )
    rows.add_row("all", *_cells(report.overall))
    for version, each in report.versions.items():
        rows.add_row(f"version {version}", *_cells(each))
    for source, each in report.sources.items():
        rows.add_row(f"from {source}", *_cells(each))
    out.print(rows)
    delay = report.overall.label_delay_s
    if delay is not None:
        out.print(f"labels came after {delay['p50']:,.0f} s (median), {delay['p99']:,.0f} s (p99)")
    labels = found.labels
    if labels.replaced or labels.unmatched:
        out.print(
            f"{labels.replaced:,} labels were replaced, {labels.unmatched:,} match nothing here"
        )
    if labels.withdrawn:
        out.print(f"{labels.withdrawn:,} labels were withdrawn with their keys")
    for reason in report.overall.reasons:
        out.print(f"  {reason}", markup=False)
    print_problems(out, found.problems)


def _print_work(out: Console, done: str, problems: Sequence[Problem]) -> None:
    out.print(done, markup=False)
    print_problems(out, problems)


def print_problems(out: Console, problems: Sequence[Problem]) -> None:
    """Prints each damaged place, and what to do."""
    for problem in problems:
        out.print(str(problem.error()), style="bold red", markup=False)


def _cells(score: ServedScore) -> list[str]:
    numbers = (score.loss, score.baseline_loss, score.auc, score.brier)
    return [
        f"{score.predictions:,}",
        f"{score.labelled:,}",
        "-" if score.coverage is None else f"{score.coverage:.1%}",
        *("-" if value is None else f"{value:.4f}" for value in numbers),
    ]
