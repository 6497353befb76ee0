"""Scores what was served, again and again, and shows the result as metrics."""

from __future__ import annotations

import asyncio

from tidemill.control.scores import score_application
from tidemill.foundation.errors import NotFound
from tidemill.foundation.home import Home
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.logs import log
from tidemill.serving import live

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
        """Scores until it is cancelled."""
        clock = self._home.clock
        while True:
            began = clock.monotonic()
            try:
                await asyncio.to_thread(self._score)
            except Exception as error:  # noqa: BLE001 - a metric that fails is told, not fatal
                self._log.warning("scoring.failed", error=str(error))
            took = clock.monotonic() - began
            await asyncio.sleep(max(INTERVAL_S, took / SHARE))

    def _score(self) -> None:
        with self._home.store.read(live.TABLES) as conn:
            names = [each.application for each in live.live_deployments(conn)]
        for name in names:
            try:
                report = score_application(self._home, name).report
            except NotFound:
                continue  # nothing served yet
            for version, score in report.versions.items():
                for key, family in self._gauges.items():
                    value = getattr(score, key)
                    if value is not None:
                        family.of(name, version).value = value
            if report.overall.label_delay_s is not None:
                self._delay.of(name).value = report.overall.label_delay_s["p50"]
