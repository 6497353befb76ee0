"""A gateway whose way of a query is compiled: ``python -m tidemill.serving.native MODULE ...``.

Runs a gateway's module with what ``tidemill native`` has compiled of these sources, or, where there
is nothing, with the sources.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from runpy import run_module

from tidemill.foundation.native import compile_native, prefer_native

MODULE = "tidemill.serving.native"
COMPILED = (
    "tidemill.data.ledger_floats",
    "tidemill.data.ledger_ids",
    "tidemill.data.ledger_rows",
    "tidemill.foundation.instruments",
    *(
        f"tidemill.serving.{name}"
        for name in (
            *("answer_writer", "application", "batcher", "batching", "by_key", "cache"),
            *("coalescing", "connection", "crew", "dataplane", "edge", "exchange", "flight"),
            *("form", "gate", "guard", "joining", "keeping", "key_turn", "measures"),
            *("model_turn", "pace", "processor", "query", "recording", "row", "same_get"),
            *("routes", "row_writer", "sampling", "sending", "shared"),
            *("templates", "turn", "unanswered", "waiting"),
        )
    ),
)
"""What every query passes through. None holds a record of msgspec's, which needs the sources."""

_PACKAGE = Path(__file__).parent.parent


def compile_gateway() -> tuple[Path, bool]:
    """Compiles the way of a query, unless that was done; returns where it is, and if it was now.

    Raises:
        InvalidInput: what compiles is missing, or the environment cannot be written to.
        Unavailable: it could not be compiled.
    """
    return compile_native(_PACKAGE, COMPILED)


def is_native() -> bool:
    """Says whether this process runs what was compiled."""
    return not str(import_module(COMPILED[0]).__file__).endswith(".py")


def main() -> None:
    """Runs the gateway's module that the first argument names, with the rest."""
    prefer_native(_PACKAGE)
    del sys.argv[0]
    run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
