"""Finds the verb's file and runs it; only the verb that is asked for is imported."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer

from tidemill import __version__
from tidemill.cli.session import print_error
from tidemill.foundation.errors import TidemillError

VERBS = (
    "ingest",
    "run",
    "push",
    "watch",
    "serve",
    "models",
    "promote",
    "rollback",
    "table",
    "ledger",
    "quarantine",
    "explain",
    "snapshots",
    "deployments",
    "settings",
    "demo",
)


def build(argv: list[str]) -> typer.Typer:
    """Makes the command line for these arguments: one verb if they name it, else all of them."""
    app = typer.Typer(
        name="tidemill",
        help="Trains, validates, serves and retrains models, and says why.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def root(
        version: bool = typer.Option(  # noqa: FBT001 - a flag
            False, "--version", help="Print the version and end.", is_eager=True
        ),
    ) -> None:
        if version:
            sys.stdout.write(f"tidemill {__version__}\n")
            raise typer.Exit

    asked = argv[0] if argv else ""
    for verb in (asked,) if asked in VERBS else VERBS:
        module: Any = import_module(f"tidemill.cli.{verb}")
        module.register(app)
    return app


def main() -> None:
    """Runs one verb and ends the process with a code that means something.

    0 done, 1 failed, 2 usage, 3 data refused by the gate, 4 model not blessed.
    """
    argv = sys.argv[1:]
    json = "--json" in argv
    try:
        build(argv)(args=argv)
    except TidemillError as error:
        sys.exit(print_error(error, json=json))
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
