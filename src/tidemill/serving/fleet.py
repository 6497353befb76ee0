"""The gateways of one supervisor: as many as are wanted, all answering by the same assignment."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import Unavailable, WorkerLost
from tidemill.foundation.instruments import Snapshot
from tidemill.foundation.logs import log
from tidemill.serving.backoff import Deaths
from tidemill.serving.channel import Asked, Hello, Keys
from tidemill.serving.gateway_process import MODULE, Failure, GatewayProcess
from tidemill.serving.plan import Assignment
from tidemill.serving.statistics import Tally

_COMPLETE_WITHIN_S = 30.0
_GIVE_UP_AFTER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a gateway is to be: its name, the socket that its queries come in on, what it runs."""

    name: str
    socket: socket.socket
    module: str = MODULE


@dataclass(slots=True)
class _Slot:
    """One place for a gateway, and who is in it."""

    place: Place
    gateway: GatewayProcess | None = None
    deaths: Deaths = field(default_factory=Deaths)


class Fleet:
    """Keeps gateways running, and makes assignments live on all of them.

    A gateway that dies is replaced at once; the new one gets what is live before it accepts.

    Args:
        places: where a gateway is to be, each.
        hello: how gateways are to serve; each gets the name of its place.
        behind: called when a gateway could not be given what is live.
        asked: called when a gateway asks for something.
        said: told a gateway's name and each line of its log that is a warning or worse.
        clock: measures how long they lived.
    """

    def __init__(
        self,
        places: Sequence[Place],
        *,
        hello: Hello,
        behind: Callable[[], None],
        asked: Callable[[GatewayProcess, Asked], None],
        said: Callable[[str, str], None],
        clock: Clock,
    ) -> None:
        self._hello = hello
        self._slots = [_Slot(place) for place in places]
        self._behind = behind
        self._asked = asked
        self._said = said
        self._clock = clock
        self._members: set[GatewayProcess] = set()
        self._joined = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = False
        self._log = log("serving.fleet")
        self._keys: Keys | None = None
        self.live: Assignment | None = None
        self.restarts = 0

    @property
    def complete(self) -> bool:
        """Says whether every gateway answers by what is live."""
        return len(self._members) == len(self._slots) and all(
            member.assignment is self.live for member in self._members
        )

    @property
    def running(self) -> list[GatewayProcess]:
        """Every gateway process that was started, whether or not it answers yet."""
        return [slot.gateway for slot in self._slots if slot.gateway is not None]

    def start(self) -> None:
        """Starts the gateways; they accept once something is live."""
        self._keepers = [asyncio.create_task(self._keep(slot)) for slot in self._slots]

    async def broken(self) -> None:
        """Returns never; raises when gateways cannot be started at all.

        Raises:
            Unavailable: a gateway died again and again before anything was live.
        """
        done, _ = await asyncio.wait(self._keepers, return_when=asyncio.FIRST_COMPLETED)
        for keeper in done:
            keeper.result()

    async def go_live(self, assignment: Assignment) -> Failure | None:
        """Makes an assignment live on every gateway, or on none; returns why not, or None."""
        await self._all_joined()
        prepared: set[GatewayProcess] = set()
        while missing := list(self._members - prepared):
            outcomes = await asyncio.gather(*(each.prepare(assignment) for each in missing))
            failures = {
                gateway: failure
                for gateway, failure in zip(missing, outcomes, strict=True)
                if failure is not None
            }
            for gateway, failure in failures.items():
                if failure.died:
                    self._members.discard(gateway)
            if failures:
                return next(iter(failures.values()))
            prepared.update(missing)
        self.live = assignment
        outcome = await asyncio.gather(
            *(member.activate(assignment) for member in self._members), return_exceptions=True
        )
        for error in outcome:
            if isinstance(error, BaseException) and not isinstance(error, WorkerLost):
                raise error
        return None

    def admit(self, keys: Keys) -> None:
        """Has every gateway, and those still to come, let in those whose keys count."""
        self._keys = keys
        for slot in self._slots:
            if slot.gateway is not None:
                slot.gateway.admit(keys)

    async def drained(self, *, timeout_s: float) -> None:
        """Waits until no gateway uses any more what was live before."""
        await asyncio.gather(
            *(member.drained(member.activations, timeout_s=timeout_s) for member in self._members)
        )

    async def snapshots(self) -> list[Snapshot]:
        """Returns what every gateway's instruments show; those that do not say are left out."""
        shown = await asyncio.gather(*(member.snapshot() for member in self._members))
        return [snapshot for snapshot in shown if snapshot is not None]

    async def tallies(self) -> list[Tally]:
        """Returns the inference statistics of every gateway that says so."""
        told = await asyncio.gather(*(member.tallies() for member in self._members))
        return [tally for tallies in told for tally in tallies]

    async def inspect(self, application: str) -> list[dict[str, Any]]:
        """Returns what each gateway knows of an application; those that do not say are left out."""
        running = [
            (slot.place.name, slot.gateway) for slot in self._slots if slot.gateway is not None
        ]
        found = await asyncio.gather(*(gateway.inspect(application) for _, gateway in running))
        return [
            {"gateway": name, "pid": gateway.pid, "versions": versions}
            for (name, gateway), versions in zip(running, found, strict=True)
            if versions is not None
        ]

    async def stop(self, drain_s: float) -> None:
        """Has every gateway finish what is in flight, for at most so long, and end."""
        self._stopping = True
        running = self.running
        for gateway in running:
            gateway.drain(drain_s)
        await asyncio.gather(*(each.ended_within(drain_s + 2.0) for each in running))
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    def status(self) -> list[dict[str, Any]]:
        """Returns what runs, for people."""
        return [
            {
                "name": slot.place.name,
                "pid": None if slot.gateway is None else slot.gateway.pid,
                "restarts": slot.deaths.total,
                "revision": _revision(slot.gateway),
            }
            for slot in self._slots
        ]

    async def _keep(self, slot: _Slot) -> None:
        """Keeps one gateway running until the fleet is stopped."""
        while not self._stopping:
            delay_s = await self._life(slot)
            await asyncio.sleep(delay_s)

    async def _life(self, slot: _Slot) -> float:
        """Runs one gateway from start to end; returns how long to wait for the next one."""
        gateway = GatewayProcess(
            slot.place.socket,
            asked=self._asked,
            said=partial(self._said, slot.place.name),
            module=slot.place.module,
        )
        began = self._clock.monotonic()
        try:
            await gateway.start(_named(self._hello, slot.place.name))
        except OSError as error:  # no memory, processes or descriptors left: maybe later
            return self._died(slot, began, f"not started: {error}")
        slot.gateway = gateway
        if self._keys is not None:
            gateway.admit(self._keys)
        joining = asyncio.create_task(self._join(gateway))
        try:
            ended = await gateway.ended()
        finally:
            slot.gateway = None
            self._members.discard(gateway)
            joining.cancel()
            await asyncio.wait((joining,))
            self._members.discard(gateway)
        await gateway.ended_within(0.0)
        if self._stopping:
            return 0.0
        return self._died(slot, began, f"{ended} (pid {gateway.pid})")

    def _died(self, slot: _Slot, began: float, ended: str) -> float:
        delay_s = slot.deaths.update(self._clock.monotonic() - began)
        self.restarts += 1
        self._log.warning("gateway.ended", gateway=slot.place.name, ended=ended)
        if self.live is None and slot.deaths.in_a_row >= _GIVE_UP_AFTER:
            raise Unavailable(
                f"gateways cannot be started: the last one ended with {ended}",
                remedy="Look at the log above for why.",
            )
        return delay_s

    async def _join(self, gateway: GatewayProcess) -> None:
        """Makes a new gateway one of the fleet, once it answers by what is live."""
        with contextlib.suppress(WorkerLost):
            while (live := self.live) is not None and gateway.assignment is not live:
                failure = await gateway.prepare(live)
                if failure is not None:
                    self._log.warning("gateway.behind", pid=gateway.pid, reason=failure.reason)
                    self._behind()
                    break
                await gateway.activate(live)
            self._members.add(gateway)
            self._joined.set()

    async def _all_joined(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_COMPLETE_WITHIN_S):
                while len(self._members) < len(self._slots):
                    self._joined.clear()
                    await self._joined.wait()


def _named(hello: Hello, name: str) -> Hello:
    return Hello(
        gateway=name,
        serve=hello.serve,
        ledger=hello.ledger,
        logs=hello.logs,
        ledger_path=hello.ledger_path,
    )


def _revision(gateway: GatewayProcess | None) -> int | None:
    if gateway is None or gateway.assignment is None:
        return None
    return gateway.assignment.revision
