"""Scores what was served, again and again, and shows the result as metrics."""

from __future__ import annotations

from typing import Any

from tidemill.control.chores import failures_of
from tidemill.control.following import follow_ledger
from tidemill.foundation.home import Home
from tidemill.foundation.instruments import Instruments

INTERVAL_S = 15.0


class Scorer:
    """Keeps the gauges of progressive validation up to date while a server runs.

    Args:
        home: the installation.
        instruments: where the gauges are.
    """

    def __init__(self, home: Home, instruments: Instruments) -> None:
        self._home = home
        labels = ("application", "version")
        self._gauges = {
            name: instruments.gauge(f"tidemill_served_{name}", text, labels)
            for name, text in (
                ("predictions", "Predictions served."),
                ("coverage", "Part of the predictions that have their label."),
                ("auc", "Area under the ROC curve of the predictions as served."),
                ("loss", "Log loss of the predictions as served."),
            )
        }
        self._delay = instruments.gauge(
            "tidemill_label_delay_seconds", "Median time until a label comes.", ("application",)
        )
        self._failures = failures_of(instruments, "score")

    async def run(self) -> None:
        """Scores until it is cancelled, whenever the ledger has grown."""
        await follow_ledger(self._home, "score", self._show, self._failures, interval_s=INTERVAL_S)

    def _show(self, scores: dict[str, Any]) -> None:
        for name, score in scores.items():
            for version, figures in score["versions"].items():
                for key, value in figures.items():
                    if value is not None:
                        self._gauges[key].of(name, version).value = value
            if score["label_delay_s"] is not None:
                self._delay.of(name).value = score["label_delay_s"]
