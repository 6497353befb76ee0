"""Turns requests away that nobody could answer in time, before anybody has read them.

Under more load than can be borne, most requests are refused; whatever a refusal costs is lost to
those that could be answered. So an application has one gate, and one response, for all of them.
"""

from __future__ import annotations

import asyncio

from tidemill.foundation.errors import DeadlineExceeded
from tidemill.serving.application import Application
from tidemill.serving.batching import Patience
from tidemill.serving.exchange import Refusal
from tidemill.serving.pace import Pace
from tidemill.serving.processor import Processor


class Gate:
    """One application's, as long as it is live as it is now.

    Args:
        application: whom the requests ask.
        processor: counts those that are refused.
        pace: tells when what is read now was sent, and when it could be answered.
    """

    __slots__ = (
        "_application",
        "_open_turn",
        "_pace",
        "_patience",
        "_processor",
        "_shut_turn",
        "_times",
        "_waited_s",
        "refusal",
        "response",
    )

    def __init__(self, application: Application, processor: Processor, pace: Pace) -> None:
        self._application = application
        self._processor = processor
        self._pace = pace
        self._patience = Patience(application.slo_s)
        self._shut_turn: float | None = None
        self._open_turn: float | None = None  # in which nothing has waited unseen
        self._times = 0
        self._waited_s = 0.0
        self.refusal = Refusal(
            DeadlineExceeded(
                f"an answer is not possible within {application.deployment.slo_ms:g} ms: too much "
                "is asked",
                remedy="Send less, allow more time, add replicas or run more gateways.",
            )
        )
        self.response = self.refusal.response

    def turns_away(self, arrived: float) -> bool:
        """Says whether a request that arrived then is refused; it is counted as that.

        Where one is refused, so are all that are read after it in the same turn.
        """
        pace = self._pace
        if self._open_turn == pace.began and not self._application.closed_to(arrived):
            return False
        now = max(arrived, pace.now)
        if self._shut_turn != pace.began:
            if not self._is_shut(arrived, now):
                return False
            self._shut_turn, self._open_turn = pace.began, None
        if not self._times:
            asyncio.get_running_loop().call_soon(self._count)
        self._times += 1
        self._waited_s += now - arrived
        self._processor.refused_unread(
            self._application, self.refusal.error, arrived=arrived, now=now
        )
        return True

    def _is_shut(self, arrived: float, now: float) -> bool:
        application, pace, patience = self._application, self._pace, self._patience
        if patience.seen_at != pace.began:
            patience.update(pace.began, pace.waited_s)
            self._open_turn = pace.began if pace.waited_s <= 0.0 else None
        if pace.waited_s <= 0.0 and not application.closed_to(arrived):
            return False
        if self._processor.applications.get(application.name) is not application:
            return False  # another revision is live: whoever reads the request finds its gate
        return application.hopeless(
            arrived, now, soonest_s=pace.answers_in_s(now), patience_s=patience.left_s
        )

    def _count(self) -> None:
        """Counts those of a turn, each with their mean wait."""
        times, self._times = self._times, 0
        waited_s, self._waited_s = self._waited_s / times, 0.0
        self._processor.refuse(
            self._application, self.refusal.error, times=times, waited_s=waited_s
        )
