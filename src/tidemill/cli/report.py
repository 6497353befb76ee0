"""``tidemill report``: a page about a snapshot, for a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, plain, session
from tidemill.cli.validate import SnapshotOption
from tidemill.data.report_page import report_page
from tidemill.data.snapshot_report import snapshot_report
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.files import write_atomic


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("report")
    def report(
        name: Annotated[str, typer.Argument(help="The dataset.")],
        out: Annotated[
            Path | None,
            typer.Option(help="The HTML file to write.", show_default="NAME.html"),
        ] = None,
        snapshot: SnapshotOption = None,
        against: Annotated[
            str | None,
            typer.Option(help="The id of a snapshot to put beside it.", show_default="none"),
        ] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Write a page about a snapshot: anomalies, drift, held rows, and every column's histogram.

        One file, without a script; it needs no network.
        """
        out = out or Path(f"{name}.html")
        if out.is_dir():
            raise InvalidInput(f"{out} is a folder", remedy="Name a file to write, by --out.")
        with session(home=home, config=config, json=json) as on:
            told = snapshot_report(on.home, name, snapshot=snapshot, against=against)
            data = report_page(told).encode("utf-8", "replace")
            write_atomic(out, data)
            on.show(
                {
                    "dataset": name,
                    "snapshot": told.snapshot.id,
                    "against": None if told.against is None else told.against.id,
                    "columns": len(told.statistics.columns),
                    "anomalies": len(told.anomalies),
                    "path": str(out),
                    "bytes": len(data),
                },
                lambda to: to.print(plain(f"written to {out}"), markup=False, soft_wrap=True),
            )
