"""What clients ask of all gateways together: metrics, statistics, the index, load and unload."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import msgspec

from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import InvalidModel, NotReady, Refused
from tidemill.serving.channel import Asked, Told
from tidemill.serving.gateway_process import GatewayProcess
from tidemill.serving.model_control import KnownModel, ModelControl
from tidemill.serving.questions import fault_of
from tidemill.serving.statistics import Tally, merge_tallies

SETTLED_WITHIN_S = 50.0
_LOOK_EVERY_S = 0.02


class Inquiries:
    """Answers gateways; one question never holds up another.

    Args:
        metrics: gives the metrics of all processes.
        tallies: gives the statistics of all gateways.
        status: gives what the supervisor says of itself.
        wake: has the supervisor look at its source at once.
        control: changes what is live; without one, nobody here may.
        clock: measures how long a change takes.
    """

    def __init__(
        self,
        *,
        metrics: Callable[[], Awaitable[bytes]],
        tallies: Callable[[], Awaitable[list[Tally]]],
        status: Callable[[], dict[str, Any]],
        wake: Callable[[], None],
        control: ModelControl | None,
        clock: Clock,
    ) -> None:
        self._metrics = metrics
        self._tallies = tallies
        self._status = status
        self._wake = wake
        self._control = control
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    def asked(self, gateway: GatewayProcess, question: Asked) -> None:
        """Takes a question; the gateway is told, whatever comes of it."""
        task = asyncio.create_task(self._tell(gateway, question))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Gives up what is not answered yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _tell(self, gateway: GatewayProcess, question: Asked) -> None:
        try:
            body = await self._answer(question)
        except Exception as error:  # noqa: BLE001 - who asked is told what went wrong
            gateway.tell(Told(request=question.request, fault=fault_of(error)))
        else:
            gateway.tell(Told(request=question.request, body=body))

    async def _answer(self, question: Asked) -> bytes:
        if question.about == "metrics":
            return await self._metrics()
        if question.about == "statistics":
            return msgspec.json.encode(merge_tallies(await self._tallies()))
        control = self._control or _nobody()
        if question.about == "index":
            known = await asyncio.to_thread(control.index)
            return msgspec.json.encode(describe_index(known, self._status()))
        if question.about == "load":
            loaded = await asyncio.to_thread(
                control.load, question.model, max_batch=question.max_batch, by=question.by
            )
            await self._settled(question.model, loaded, live=True)
        else:
            gone = await asyncio.to_thread(control.unload, question.model, by=question.by)
            if gone is not None:
                await self._settled(question.model, gone, live=False)
        return b""

    async def _settled(self, name: str, revision: int, *, live: bool) -> None:
        """Waits until a change is live in every gateway.

        Raises:
            InvalidModel: it cannot be served.
            NotReady: it takes too long.
        """
        self._wake()
        until = self._clock.monotonic() + SETTLED_WITHIN_S
        while self._clock.monotonic() < until:
            status = self._status()
            for refused in status["refused"]:
                if (refused["application"], refused["revision"]) == (name, revision):
                    raise InvalidModel(f"failed to load {name!r}, {refused['reason']}")
            served = status["applications"].get(name)
            if (served is not None and served >= revision) if live else served is None:
                return
            await asyncio.sleep(_LOOK_EVERY_S)
        raise NotReady(
            f"revision {revision} of {name!r} is written, and not live after "
            f"{SETTLED_WITHIN_S:.0f} s",
            remedy="Look at the index, or at the server's log.",
        )


def describe_index(known: list[KnownModel], status: dict[str, Any]) -> list[dict[str, str]]:
    """Returns the entries of a repository index: what is known, and what the server makes of it."""
    served: dict[str, int] = status["applications"]
    refused = {each["application"]: each["reason"] for each in status["refused"]}
    entries = []
    for model in known:
        state, reason = "UNAVAILABLE", "unloaded"
        if model.revision is not None:
            if model.name in refused:
                reason = refused[model.name]
            elif served.get(model.name, 0) >= model.revision:
                state, reason = "READY", ""
            else:
                state, reason = "LOADING", ""
        elif model.name in served:
            state, reason = "UNLOADING", ""
        entries.append(
            {"name": model.name, "version": str(model.version), "state": state, "reason": reason}
        )
    return entries


def _nobody() -> NoReturn:
    raise Refused(
        "this server has no model repository",
        remedy="Ask a server that tidemill serve has started.",
    )
