"""The demo's report: one HTML page with plots, which needs nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from tidemill.recipes.demo.summary import Summary


def write_report(folder: Path, summary: Summary) -> Path:
    return folder / "report.html"
