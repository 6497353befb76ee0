"""``tidemill settings``: every setting, its value, and where the value came from."""

from __future__ import annotations

import typer
from rich.console import Console

from tidemill.cli.printing import print_json
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, table
from tidemill.foundation.settings import load_settings


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("settings")
    def settings(
        home: HomeOption = None, config: ConfigOption = None, json: JsonOption = False
    ) -> None:
        """Show each setting, its value, and where the value came from."""
        loaded = load_settings(flags={"home": str(home) if home else None}, file=config)
        rows = loaded.rows()
        if json:
            print_json({row.key: {"value": row.value, "origin": row.origin} for row in rows})
            return
        shown = table("Settings", "key", "value", "from")
        for row in rows:
            shown.add_row(row.key, row.value, row.origin)
        Console().print(shown)
