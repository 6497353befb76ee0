"""``tidemill try``: asks a model as it would be served, before it goes live; nothing is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from tidemill.cli.environment import print_environment
from tidemill.cli.packaging_options import (
    CompileOption,
    RequirementsOption,
    SignatureOption,
    TrustCodeOption,
)
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, session
from tidemill.control.applications import find_version
from tidemill.foundation.errors import InvalidInput
from tidemill.models.sources import split_reference
from tidemill.recipes.dry_run import Asking, DryRun, read_input, try_file, try_version
from tidemill.recipes.push import Source, read_signature

_SHOWN = 10
_NAME = "candidate"
_WHERE = {"gateway": "in the gateways", "worker": "in workers", "remote": "in another server"}


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("try")
    def try_(
        model: Annotated[
            str, typer.Argument(help="What push takes, or NAME, NAME:VERSION, NAME@ALIAS.")
        ],
        asked: Annotated[
            str | None,
            typer.Option("--input", help="A v1 or v2 body or a list of rows: JSON or a file."),
        ] = None,
        sample: Annotated[
            Path | None, typer.Option(help="Rows (CSV, Parquet, .npy) to ask for instead.")
        ] = None,
        trust_code: TrustCodeOption = False,
        signature: SignatureOption = None,
        compiles: CompileOption = True,
        requirements: RequirementsOption = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Serve a model privately, ask it, and show answers and times; nothing is kept."""
        if asked is not None and sample is not None:
            raise InvalidInput(
                "try takes --input or --sample, one of the two", remedy="See --help."
            )
        asking = Asking(body=None if asked is None else read_input(asked), sample=sample)
        with session(home=home, config=config, json=json) as on:

            def say(words: str) -> None:
                if on.progress_on:
                    on.err.print(words, markup=False)

            path = Path(model)
            # No version is called as a function is.
            is_file = path.exists() or split_reference(path) is not None
            found = None if is_file else find_version(on.home, model)
            if found is not None:
                done = try_version(on.home, *found, asking, say=say)
            else:
                source = Source(
                    path=path,
                    name=_NAME,
                    sample=sample,
                    signature=None if signature is None else read_signature(signature),
                    compiles=compiles,
                    requirements=requirements,
                )
                done = try_file(on.home, source, asking, trust_code=trust_code, say=say)
            on.show(done, lambda out: _print(out, done, model))


def _print(out: Console, done: DryRun, model: str) -> None:
    where = _WHERE[done.placement]
    out.print(f"{model} ({done.runtime}) would run {where}", style="bold", markup=False)
    for what, columns in (("takes", done.inputs), ("gives", done.outputs)):
        named = [f"{each['name']} {each['datatype']} {each['shape']}" for each in columns]
        out.print(f"  {what} {', '.join(named)}", markup=False)
    if done.compiled:
        out.print(f"  compiled: {done.verified}", markup=False)
    elif done.reason:
        out.print(f"  not compiled: {done.reason}", markup=False)
    if done.environment is not None:
        print_environment(out, done.environment)
    row, many = f"{done.row_ms:.2f} ms", f"{done.batch_rows} rows in {done.batch_ms:.2f} ms"
    out.print(f"  one row in {row}, {many}, as a client sees it")
    asked = "a made-up row" if done.made_up else f"{done.rows} rows"
    out.print(f"  asked {asked}:")
    for answer in done.answers[:_SHOWN]:
        out.print(f"    {msgspec.json.encode(answer).decode()}", markup=False)
    if done.rows > _SHOWN:
        out.print(f"    and {done.rows - _SHOWN} more; all with --json")
    out.print("  nothing was registered, and nothing is live of it")
