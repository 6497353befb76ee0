"""How full the queues are and who answers, looked up when somebody asks; and what is forgotten."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from tidemill.foundation.instruments import Instruments
from tidemill.serving.version import LiveVersion

REMEMBERED = 64
"""Retired versions whose numbers are kept, so that the last of them are still scraped."""


class Levels:
    """Shows the present state of live versions, and bounds how many are remembered.

    Args:
        instruments: where it is shown.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._retired: OrderedDict[tuple[str, int], None] = OrderedDict()
        named = ("application", "version")
        self._queue_rows = instruments.gauge("tidemill_queue_rows", "Rows that wait.", named)
        self._queue_bytes = instruments.gauge(
            "tidemill_queue_bytes", "Bytes of input that wait.", named
        )
        self._batches = instruments.gauge(
            "tidemill_batches_in_flight", "Batches that replicas have.", named
        )
        self._alive = instruments.gauge(
            "tidemill_replicas_alive",
            "Replicas that answer, as the gateway sees it that sees the fewest.",
            named,
            merge="min",
        )
        self._table_age = instruments.gauge(
            "tidemill_table_age_seconds", "How old a table's answers are.", named, merge="max"
        )
        self._table_answers = instruments.gauge(
            "tidemill_table_answers",
            "Whether a table on another host answered when it was asked last, in every gateway.",
            named,
            merge="min",
        )

    def show(self, live: Iterable[LiveVersion]) -> None:
        """Sets every level to what it is now."""
        families = (self._queue_rows, self._queue_bytes, self._batches, self._alive)
        for family in (*families, self._table_age, self._table_answers):
            family.clear()
        for each in live:
            labels = (each.measures.application, str(each.version))
            batcher = each.batcher
            self._queue_rows.of(*labels).value = batcher.queued_rows
            self._queue_bytes.of(*labels).value = batcher.queued_bytes
            self._batches.of(*labels).value = batcher.batches_out
            self._alive.of(*labels).value = sum(r.alive for r in batcher.replicas)
            if (age_s := each.table_age_s) is not None:
                self._table_age.of(*labels).value = age_s
            if each.lookups is not None and each.lookups.answers is not None:
                self._table_answers.of(*labels).value = int(each.lookups.answers)

    def retired(self, gone: Iterable[LiveVersion], live: Iterable[LiveVersion]) -> None:
        """Drops the numbers of the versions that were retired longest ago, if they are many."""
        for each in gone:
            self._retired[each.measures.application, each.version] = None
        for each in live:
            self._retired.pop((each.measures.application, each.version), None)
        while len(self._retired) > REMEMBERED:
            (application, version), _ = self._retired.popitem(last=False)
            self._instruments.forget(application=application, version=str(version))
