"""Finds the verb's file and runs it; only the verb that is asked for is imported."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer

from tidemill import __version__
from tidemill.cli.session import print_error
from tidemill.foundation.errors import InvalidInput, TidemillError
from tidemill.foundation.logs import log

VERBS = (
    "ingest",
    "run",
    "push",
    "try",
    "watch",
    "serve",
    "top",
    "models",
    "environment",
    "promote",
    "rollback",
    "table",
    "sql",
    "ledger",
    "workload",
    "plan",
    "schema",
    "validate",
    "drift",
    "skew",
    "stats",
    "report",
    "quarantine",
    "explain",
    "snapshots",
    "apply",
    "describe",
    "applications",
    "logs",
    "deployments",
    "keys",
    "settings",
    "native",
    "demo",
)
_MODULES = {"try": "try_"}
"""Verbs that Python has a use of its own for."""


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
        module: Any = import_module(f"tidemill.cli.{_MODULES.get(verb, verb)}")
        module.register(app)
    return app


def main() -> None:
    """Runs one verb and ends the process with a code that means something.

    0 done, 1 failed, 2 usage, 3 data refused by the gate, 4 model not blessed.
    """
    argv = sys.argv[1:]
    json = "--json" in argv
    try:
        # Asked for JSON, a wrong usage is an error like others; else typer tells it at length.
        sys.exit(build(argv)(args=argv, standalone_mode=not json))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        sys.exit(failed(error, json=json))


def failed(error: Exception, *, json: bool) -> int:
    """Tells why a verb failed, in one sentence; returns what its process ends with."""
    if isinstance(error, TidemillError):
        return print_error(error, json=json)
    if isinstance(error, BrokenPipeError):
        sys.stderr.close()
        return 1
    log("cli").debug("verb.failed", exc_info=error)  # the log has the rest
    return print_error(_unexpected(error), json=json)


def _unexpected(error: Exception) -> TidemillError:
    wrong_usage = getattr(error, "format_message", None)  # whichever click this typer uses
    if wrong_usage is not None:
        return InvalidInput(wrong_usage(), remedy="See tidemill --help.")
    if isinstance(error, OSError):
        return TidemillError(str(error), remedy="See that it is there, yours, and has space left.")
    return TidemillError(
        f"{type(error).__name__}: {error}",
        remedy="This is not foreseen; with TIDEMILL_LOGS_LEVEL=debug the log shows where.",
    )
