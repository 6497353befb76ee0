"""``tidemill native``: compiles the gateway's way of a query to machine code."""

from __future__ import annotations

import time

import typer
from rich.console import Console

from tidemill.cli.printing import print_json
from tidemill.cli.session import JsonOption
from tidemill.serving.native import COMPILED, compile_gateway


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("native")
    def native(json: JsonOption = False) -> None:
        """Compile what every query passes through; gateways that start from then on run it."""
        out, err, began = Console(), Console(stderr=True), time.monotonic()
        with err.status(f"compiling {len(COMPILED)} modules, half a minute or so ..."):
            folder, made = compile_gateway()
        seconds = time.monotonic() - began if made else 0.0
        if json:
            print_json({"folder": str(folder), "compiled": made, "seconds": round(seconds, 1)})
        elif made:
            out.print(f"  compiled {len(COMPILED)} modules in {seconds:.0f} s", markup=False)
        else:
            out.print("  compiled already, of these sources and for this Python", markup=False)
