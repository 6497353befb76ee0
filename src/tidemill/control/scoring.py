"""Scores what was served, again and again, and shows the result as metrics."""

from __future__ import annotations

import asyncio
from typing import Any

from tidemill.control.chores import do_chore, ledger_stamp
from tidemill.foundation.errors import TidemillError
from tidemill.foundation.home import Home
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.logs import log

INTERVAL_S = 15.0
SHARE = 0.05
"""Of one core, at most, goes into scoring: a slow one waits accordingly longer."""


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
        self._log = log("control.scoring")

    async def run(self) -> None:
        """Scores until it is cancelled, whenever the ledger has grown."""
        clock = self._home.clock
        seen: tuple[int, int, int] | None = None
        while True:
            began = clock.monotonic()
            stamp = await asyncio.to_thread(ledger_stamp, self._home.ledger_path)
            if stamp != seen:
                try:
                    self._show(await do_chore(self._home, "score"))
                    seen = stamp
                except (TidemillError, OSError, TimeoutError) as error:
                    self._log.warning("scoring.failed", error=str(error))
            took = clock.monotonic() - began
            await asyncio.sleep(max(INTERVAL_S, took / SHARE))

    def _show(self, scores: dict[str, Any]) -> None:
        for name, score in scores.items():
            for version, figures in score["versions"].items():
                for key, value in figures.items():
                    if value is not None:
                        self._gauges[key].of(name, version).value = value
            if score["label_delay_s"] is not None:
                self._delay.of(name).value = score["label_delay_s"]
