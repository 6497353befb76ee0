"""``tidemill push``: from a model file to an application."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from tidemill.control import pushing
from tidemill.foundation.errors import InvalidInput
from tidemill.recipes.push import read_signature


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("push")
    def push(
        name: Annotated[str, typer.Option(help="The model's name, and its application's.")],
        path: Annotated[
            Path | None,
            typer.Argument(help="What a framework saved, module:function, or a model folder."),
        ] = None,
        remote: Annotated[
            str | None,
            typer.Option("--remote", help="The URL of a model in another v2 server, as it is."),
        ] = None,
        trust_code: TrustCodeOption = False,
        sample: Annotated[
            Path | None,
            typer.Option(help="Rows (CSV, Parquet, .npy) on which a compiled model must agree."),
        ] = None,
        signature: SignatureOption = None,
        compiles: CompileOption = True,
        requirements: RequirementsOption = None,
        deploy: Annotated[
            bool, typer.Option("--deploy/--no-deploy", help="Make it live under its name.")
        ] = True,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Register a model file, compile it if that changes no answer, and make it live."""
        if (path is None) == (remote is None):
            raise InvalidInput(
                "push takes a file or --remote URL, one of the two", remedy="See --help."
            )
        with session(home=home, config=config, json=json) as on:
            if path is None:
                done = pushing.push_url(on.home, remote or "", name, go_live=deploy, by="cli")
            else:
                done = pushing.push(
                    on.home,
                    path,
                    name,
                    trust_code=trust_code,
                    sample=sample,
                    signature=None if signature is None else read_signature(signature),
                    compiles=compiles,
                    requirements=requirements,
                    go_live=deploy,
                    by="cli",
                    say=lambda words: on.err.print(words, markup=False) if on.progress_on else None,
                )
            on.show(done, lambda out: _print(out, done))


def _print(out: Console, done: pushing.Live) -> None:
    model = done.model
    out.print(f"{model.name} version {model.version} ({model.runtime})", style="bold")
    out.print(f"  takes {', '.join(model.inputs)}; gives {', '.join(model.outputs)}", markup=False)
    if model.compiled:
        out.print(f"  compiled: {model.verified}", markup=False)
    elif model.reason:
        out.print(f"  not compiled: {model.reason}", markup=False)
    if model.batch_1_ms is not None:
        out.print(f"  one row takes {model.batch_1_ms:.3f} ms")
    if model.environment is not None:
        print_environment(out, model.environment)
    if done.revision is None:
        out.print(
            f"  not live; make it so with: tidemill promote {done.application} {model.version}"
        )
    else:
        out.print(f"  live as application {done.application}; serve it with: tidemill serve")
