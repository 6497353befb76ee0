"""What a gateway asks its supervisor for a client: calls that end in an answer or an error."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Literal

from tidemill.foundation import errors
from tidemill.foundation.errors import NotReady, Overloaded, TidemillError, Unavailable
from tidemill.serving.channel import Asked, Fault, Told

About = Literal["metrics", "statistics", "index", "load", "unload"]

MAX_WAITING = 64
"""Questions of one gateway that may wait for their answers, at most."""


class Questions:
    """Asks, and gives the answers to who asked.

    Args:
        send: sends a question to the supervisor.
    """

    def __init__(self, send: Callable[[Asked], None]) -> None:
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    async def ask(
        self,
        about: About,
        *,
        model: str = "",
        max_batch: int | None = None,
        by: str = "",
        within_s: float,
    ) -> bytes:
        """Returns the supervisor's answer.

        Raises:
            Overloaded: too many questions wait already.
            NotReady: there is no answer in time.
            TidemillError: whatever the supervisor says.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded(
                f"{len(self._waiting)} questions wait for the supervisor",
                remedy="Ask again in a moment.",
            )
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send(Asked(request=number, about=about, model=model, max_batch=max_batch, by=by))
        try:
            return await asyncio.wait_for(waiting, within_s)
        except TimeoutError:
            raise NotReady(
                f"the supervisor has not answered about {about} within {within_s:g} s",
                remedy="See whether it is done, then try again.",
            ) from None
        finally:
            del self._waiting[number]

    def told(self, answer: Told) -> None:
        """Gives an answer to who waits for it, if somebody still does."""
        waiting = self._waiting.get(answer.request)
        if waiting is None or waiting.done():
            return
        if answer.fault is None:
            waiting.set_result(answer.body)
        else:
            waiting.set_exception(error_of(answer.fault))


def fault_of(error: BaseException) -> Fault:
    """Returns an error as it travels; one that is not ours says its class and words.

    Example:
        >>> fault_of(NotReady("not yet", remedy="Wait."))
        Fault(kind='NotReady', what='not yet', remedy='Wait.')
    """
    if isinstance(error, TidemillError):
        return Fault(kind=type(error).__name__, what=error.what, remedy=error.remedy)
    return Fault(kind="Unavailable", what=f"it failed: {type(error).__name__}: {error}")


def error_of(fault: Fault) -> TidemillError:
    """Returns the error that travelled.

    Example:
        >>> error_of(Fault(kind="NotFound", what="no model 'x'"))
        NotFound("no model 'x'", '')
    """
    kind = getattr(errors, fault.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, TidemillError)):
        kind = Unavailable
    return kind(fault.what, remedy=fault.remedy)
