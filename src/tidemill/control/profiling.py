"""Measures the workload of what is live, again and again, and shows the result as metrics."""

from __future__ import annotations

from typing import Any

from tidemill.control.chores import failures_of
from tidemill.control.following import follow_ledger
from tidemill.foundation.home import Home
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.logs import log

INTERVAL_S = 60.0
AGAIN_S = 3600.0
"""After so long the day that counts is another one, even if nothing was asked since."""


class Profiler:
    """Keeps the profiles of what live applications are asked up to date while a server runs.

    Args:
        home: the installation.
        instruments: where the gauges are.
    """

    def __init__(self, home: Home, instruments: Instruments) -> None:
        self._home = home
        self._gauges = {
            field: instruments.gauge(f"tidemill_workload_{name}", text, ("application",))
            for field, name, text in (
                ("requests_per_s", "requests_per_second", "Requests a second since a day's first."),
                ("keys", "keys", "Distinct keys that were asked for within a day."),
                ("new_keys", "new_keys", "Part of the later half of a day whose keys are new."),
                ("head", "head", "Part of a day's requests for the hundred keys asked most."),
            )
        }
        self._failures = failures_of(instruments, "profile")
        self._failed: dict[str, str] = {}

    async def run(self) -> None:
        """Measures until it is cancelled: as the ledger grows, and as the day moves on."""
        await follow_ledger(
            self._home,
            "profile",
            self._show,
            self._failures,
            interval_s=INTERVAL_S,
            again_s=AGAIN_S,
        )

    def _show(self, profiles: dict[str, Any]) -> None:
        failed = {name: each["error"] for name, each in profiles.items() if each["error"]}
        for name, error in failed.items():
            if self._failed.get(name) != error:
                log("control.profiling").warning("profile.failed", application=name, error=error)
        self._failed = failed
        for field, gauge in self._gauges.items():
            gauge.clear()  # of whom nothing is known now, nothing is shown
            for name in profiles.keys() - failed.keys():
                gauge.of(name).value = profiles[name][field]
