"""The supervisor: owns the listening socket, keeps gateways and workers alive, and makes what they
serve follow the deployments.

A revision goes live in two steps: every gateway prepares it beside what is live, then every one
activates it. What cannot be prepared changes nothing; ``status`` and the log say why.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from tidemill.foundation.clock import SYSTEM_CLOCK, Clock, iso
from tidemill.foundation.errors import TidemillError, Unavailable
from tidemill.foundation.instruments import Instruments, render
from tidemill.foundation.logs import log
from tidemill.foundation.settings import LedgerSettings, LogSettings, ServeSettings
from tidemill.serving.channel import Hello
from tidemill.serving.convergence import Placed, assign, is_superseded, place
from tidemill.serving.fleet import Fleet, Place
from tidemill.serving.gateway_process import MODULE, Failure
from tidemill.serving.inquiries import Inquiries
from tidemill.serving.key_feed import KeyFeed
from tidemill.serving.key_store import KeySource
from tidemill.serving.listening import open_listener, reserve_port
from tidemill.serving.live import DeploymentSource
from tidemill.serving.log_ring import LogRing, said
from tidemill.serving.model_control import ModelControl
from tidemill.serving.plan import Deployment
from tidemill.serving.process_measures import show_processes
from tidemill.serving.statistics import Tally
from tidemill.serving.tls import certificate_of
from tidemill.serving.tracing import check_tracing
from tidemill.serving.watchdog import Watched, watch_stopped
from tidemill.serving.worker_pool import WorkerPool, describe
from tidemill.serving.worker_process import LOADER, WorkerProcess

GRPC_MODULE = "tidemill.serving.rpc.gateway"
_POLL_S = 0.2
_RETRY_S = 2.0
_DRAINED_WITHIN_S = 60.0
_TOGETHER_S = 0.5
"""Changes that are ready so soon go live together; nobody waits longer for another's worker."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why an application's deployment is not live; it is tried again when it changes.

    Where this machine lacks what may come in a moment, it is tried again every few seconds.
    """

    application: str
    revision: int
    reason: str
    at: str


class Supervisor:
    """Serves what a source says is live, until it is told to stop.

    Args:
        source: tells what is to be live.
        settings: how to listen and how long to wait.
        ledger: how the gateways write their ledger.
        run_path: an existing folder that nobody else may enter; sockets go into a new one in it.
        ledger_path: the ledger's folder.
        logs: how the gateways log.
        keys: tells whose keys count; without it, nobody has one.
        clock: tells the time.
        gateway_module: what a gateway process runs.
        loader: "module:function" that opens a model inside a worker.
        control: loads and unloads models for clients; without one, nobody does.

    Run it on the thread that outlives it: workers die with the thread that started them.
    """

    def __init__(
        self,
        source: DeploymentSource,
        settings: ServeSettings,
        ledger: LedgerSettings,
        *,
        run_path: Path,
        ledger_path: Path,
        logs: LogSettings = LogSettings(),  # noqa: B008 - frozen
        keys: KeySource | None = None,
        clock: Clock = SYSTEM_CLOCK,
        gateway_module: str = MODULE,
        loader: str = LOADER,
        control: ModelControl | None = None,
    ) -> None:
        self._source = source
        self._settings = settings
        self._hello = Hello(
            gateway="", serve=settings, ledger=ledger, logs=logs, ledger_path=str(ledger_path)
        )
        self._keys = keys
        self._feed: KeyFeed | None = None
        self._run_path = run_path
        self._clock = clock
        self._gateway_module = gateway_module
        self._loader = loader
        self._ring = LogRing(clock)
        self._placed: dict[str, Placed] = {}
        self._refusals: dict[str, Refusal] = {}
        self._placing: dict[str, tuple[Deployment, asyncio.Task[Placed | None]]] = {}
        self._mending: dict[str, asyncio.Task[None]] = {}
        self._lacking: set[str] = set()  # refused for what this machine may have in a moment
        self._retrying: asyncio.TimerHandle | None = None
        self._wanted: int | None = None
        self._port: int | None = None
        self._grpc_port: int | None = None
        self._fleet: Fleet | None = None
        self._pool: WorkerPool | None = None
        self._wake = asyncio.Event()
        self._first = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._inquiries = Inquiries(
            metrics=self.metrics,
            tallies=self._tallies,
            status=self.status,
            wake=self._wake.set,
            control=control,
            clock=clock,
        )
        self._log = log("serving.supervisor")

    async def run(self, ready: Callable[[int], None], stop: asyncio.Event) -> None:
        """Serves until ``stop`` is set, then finishes what is in flight.

        Args:
            ready: called once, with the port, when queries are answered. A deployment that could
                not be made live does not hold it up: see ``status``.
            stop: set it to end the server.

        Raises:
            Refused: the address can be reached from elsewhere, and nobody said that it may be.
            Conflict: the port is taken.
            Unavailable: gateways cannot be started, or OpenTelemetry or gRPC is not installed.
            InvalidSettings: the certificate or its key cannot be used, or traces cannot be sent
                where the settings say.
        """
        check_tracing(self._settings)
        check_grpc(self._settings)
        secured = certificate_of(self._settings) is not None
        guarded = secured and await self._needs_key()
        listener = open_listener(self._settings, guarded=guarded)
        try:
            reserved = reserve_port(self._settings, guarded=guarded)
        except BaseException:
            listener.close()
            raise
        sockets = Path(tempfile.mkdtemp(prefix="serve-", dir=self._run_path))
        try:
            self._port = listener.getsockname()[1]
            self._grpc_port = None if reserved is None else reserved.getsockname()[1]
            self._pool = WorkerPool(
                sockets,
                wanted=self._wake.set,
                clock=self._clock,
                ring=self._ring,
                loader=self._loader,
            )
            self._fleet = Fleet(
                self._places(listener, reserved),
                hello=self._hello,
                behind=self._wake.set,
                asked=self._inquiries.asked,
                said=lambda gateway, line: self._ring.add(None, gateway, line),
                clock=self._clock,
            )
            self._feed = KeyFeed(
                self._keys,
                require=self._settings.require_keys,
                tell=self._fleet.admit,
                shown=self._fleet.snapshots,
                clock=self._clock,
            )
            self._fleet.start()
            await self._serve(self._fleet, ready, stop)
        finally:
            listener.close()
            if reserved is not None:
                reserved.close()
            await self._shut_down()
            shutil.rmtree(sockets, ignore_errors=True)

    def _places(self, listener: socket.socket, reserved: socket.socket | None) -> list[Place]:
        settings = self._settings
        places = [
            Place(name=f"gateway-{number}", socket=listener, module=self._gateway_module)
            for number in range(settings.gateways)
        ]
        if reserved is not None:
            places += [
                Place(name=f"grpc-{number}", socket=reserved, module=GRPC_MODULE)
                for number in range(settings.grpc_gateways)
            ]
        return places

    def status(self) -> dict[str, Any]:
        """Returns what is wanted, what is live, who runs, and what was refused and why."""
        live = None if self._fleet is None else self._fleet.live
        return {
            "port": self._port,
            "grpc_port": self._grpc_port,
            "revision_wanted": self._wanted,
            "revision_live": None if live is None else live.revision,
            "applications": {
                name: placed.deployment.revision for name, placed in sorted(self._placed.items())
            },
            "gateways": [] if self._fleet is None else self._fleet.status(),
            "workers": [] if self._pool is None else self._pool.status(),
            "refused": [msgspec.to_builtins(self._refusals[name]) for name in self._refusals],
        }

    async def inspect(self, application: str) -> dict[str, Any]:
        """Returns what the running server has of an application: live, refused, who answers it."""
        placed = self._placed.get(application)
        refusal = self._refusals.get(application)
        workers = [] if self._pool is None else self._pool.status()
        return {
            "revision_live": None if placed is None else placed.deployment.revision,
            "refused": None if refusal is None else refusal.reason,
            "gateways": [] if self._fleet is None else await self._fleet.inspect(application),
            "workers": [each for each in workers if each["application"] == application],
        }

    def logs(self, application: str | None, *, after: int, limit: int) -> dict[str, Any]:
        """Returns the newest lines that an application's processes have said, or all processes."""
        return said(self._ring.read(application, after=after, limit=limit), self._ring.newest)

    async def metrics(self) -> bytes:
        """Returns the metrics of all gateways and of the supervisor, as Prometheus's text."""
        if self._fleet is None:
            return render([self._own_metrics().snapshot()])
        return render([*await self._fleet.snapshots(), self._own_metrics().snapshot()])

    async def _serve(self, fleet: Fleet, ready: Callable[[int], None], stop: asyncio.Event) -> None:
        assert self._feed is not None
        feed = self._feed
        ends = [
            asyncio.create_task(work)
            for work in (
                stop.wait(),
                fleet.broken(),
                feed.run(),
                self._watch(),
                self._follow(),
                watch_stopped(self._running),
            )
        ]
        first = asyncio.create_task(self._first.wait())
        try:
            await asyncio.wait((first, *ends), return_when=asyncio.FIRST_COMPLETED)
            if first.done() and self._port is not None:
                ready(self._port)
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (first, *ends):
                task.cancel()
            await asyncio.gather(first, *ends, return_exceptions=True)

    def _running(self) -> list[Watched]:
        workers = [] if self._pool is None else self._pool.running
        return [*workers, *([] if self._fleet is None else self._fleet.running)]

    async def _needs_key(self) -> bool:
        """Says whether a query needs a key, as far as is known before anything runs."""
        if self._settings.require_keys or self._keys is None:
            return self._settings.require_keys
        with contextlib.suppress(TidemillError):  # a store that is not there yet knows no key
            return await asyncio.to_thread(self._keys.revision) > 0
        return False

    async def _shut_down(self) -> None:
        if self._fleet is not None:
            await self._fleet.stop(self._settings.drain_s)
        await self._inquiries.aclose()
        placing = [task for _, task in self._placing.values()]
        ending = [*self._tasks, *placing, *self._mending.values()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self._pool is not None:
            await self._pool.stop_all()

    # Following the source

    async def _watch(self) -> None:
        """Notices changes of the source."""
        seen: int | None = None
        complained = False
        while True:
            try:
                revision = await asyncio.to_thread(self._source.revision)
            except Exception as error:  # noqa: BLE001 - whatever ails the source, serving goes on
                if not complained:
                    self._log.warning("source.unreadable", reason=describe(error))
                complained = True
            else:
                complained = False
                if revision != seen:
                    seen = revision
                    self._wake.set()
            await asyncio.sleep(_POLL_S)

    async def _follow(self) -> None:
        """Makes what is served follow the source, again and again."""
        assert self._feed is not None
        await self._feed.known.wait()  # nobody is let in before it is known who may
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                revision = await asyncio.to_thread(self._source.revision)
                deployments = await asyncio.to_thread(self._source.deployments)
            except Exception as error:  # noqa: BLE001 - as in _watch
                self._log.warning("source.unreadable", reason=describe(error))
                self._retry_later()
                continue
            await self._converge(revision, deployments)
            self._first.set()

    async def _converge(self, revision: int, deployments: tuple[Deployment, ...]) -> None:
        self._wanted = revision
        names = {each.application for each in deployments}
        self._refusals = {name: r for name, r in self._refusals.items() if name in names}
        wanted, late = await self._place_all(deployments)
        whole = len(wanted) == len(names) and not self._refusals and not late
        failure = await self._go_live(wanted, revision if whole else None)
        if failure is not None:
            await self._go_live_apart(wanted, failure)
        if not self._placing and not self._mending:  # else it is not known yet who is of use
            self._drop_unused()
        self._lacking &= self._refusals.keys()
        if self._lacking:
            self._retry_later()

    async def _place_all(
        self, deployments: tuple[Deployment, ...]
    ) -> tuple[dict[str, Placed], bool]:
        """Returns what can be served of each application, and whether more is on its way.

        One whose files or workers take long keeps what it has until they are there, also where a
        worker of that dies, and holds up no other; only the very first time, all are waited for.
        """
        assert self._fleet is not None
        for each in deployments:
            placing = self._placing.get(each.application)
            present = self._placed.get(each.application)
            live = None if present is None else present.deployment
            if placing is not None and is_superseded(placing[0], each, live):
                self._give_up(placing[1])
                placing = None
            if placing is None or (placing[1].done() and placing[0] != each):
                task = asyncio.create_task(self._place(each))
                self._placing[each.application] = (each, task)
        tasks = [task for _, task in self._placing.values()]
        if tasks:
            within_s = None if self._fleet.live is None else _TOGETHER_S
            await asyncio.wait(tasks, timeout=within_s)
        wanted: dict[str, Placed] = {}
        late = False
        for each in deployments:
            name = each.application
            begun, task = self._placing[name]
            there = task.done() and begun == each
            late |= not there
            placed = task.result() if there else self._placed.get(name)
            if placed is not None:
                wanted[name] = placed
                if begun != placed.deployment and not there and name not in self._mending:
                    self._mending[name] = asyncio.create_task(self._mend(placed))
        for name, (_, task) in list(self._placing.items()):
            if task.done():
                del self._placing[name]
            else:
                task.add_done_callback(lambda _: self._wake.set())
        return wanted, late

    async def _mend(self, placed: Placed) -> None:
        """Starts the workers that an application lacks of what it keeps meanwhile."""
        assert self._pool is not None
        name, plan = placed.deployment.application, placed.deployment.plan
        before = [self._pool.alive(key) for key in placed.worker_keys]
        try:
            for key in placed.worker_keys:
                await self._pool.ensure(key, plan.replicas)
        except Exception as error:  # noqa: BLE001 - the pool asks for it again
            self._log.warning("worker.start_failed", application=name, reason=describe(error))
        finally:
            del self._mending[name]
        if before != [self._pool.alive(key) for key in placed.worker_keys]:
            self._wake.set()

    async def _place(self, deployment: Deployment) -> Placed | None:
        """Returns what can be served of an application: the wanted deployment or the present."""
        assert self._pool is not None
        name, plan = deployment.application, deployment.plan
        present = self._placed.get(name)
        refusal = self._refusals.get(name)
        if refusal is not None and refusal.revision != deployment.revision:
            del self._refusals[name]
            refusal = None
        tried = refusal is not None and name not in self._lacking
        changed = not tried and (present is None or present.deployment != deployment)
        wanted = present
        try:
            if changed:
                wanted = await asyncio.to_thread(place, self._source, deployment, self._settings)
                self._lacking.discard(name)
                self._refusals.pop(name, None)
            if wanted is not None:
                for key in wanted.worker_keys:
                    await self._pool.ensure(key, plan.replicas, patient=changed)
        except Exception as error:  # noqa: BLE001 - one application's trouble is its own
            if changed:
                if wanted is present and isinstance(error, Unavailable):
                    self._lacking.add(name)
                self._refuse(deployment, describe(error))
            else:
                self._log.warning("worker.start_failed", application=name, reason=describe(error))
            return present
        return wanted

    async def _go_live(
        self, wanted: dict[str, Placed], revision: int | None, *, again: bool = False
    ) -> Failure | None:
        """Makes this live, and nothing else; tried once more if a gateway died over it.

        ``revision`` is the source's, if this is all that it wants; ``again`` makes live what is
        live already, so that gateways forget what they prepared in vain.
        """
        assert self._fleet is not None
        assert self._pool is not None
        assignment = assign(wanted, self._pool, revision=self._number(wanted, revision))
        if assignment == self._fleet.live and self._fleet.complete and not again:
            return None
        failure = await self._fleet.go_live(assignment)
        if failure is not None and failure.died:
            failure = await self._fleet.go_live(assignment)
        if failure is None:
            self._placed = dict(wanted)
            self._log.info("revision.live", revision=assignment.revision, wanted=self._wanted)
        return failure

    async def _go_live_apart(self, wanted: dict[str, Placed], failure: Failure) -> None:
        """Finds out which application's change cannot be prepared; the others go live."""
        changed = [name for name in wanted if wanted[name] is not self._placed.get(name)]
        kept = {
            name: self._placed[name] if name in changed else placed
            for name, placed in wanted.items()
            if name not in changed or name in self._placed
        }
        stuck = await self._go_live(kept, None, again=True)
        if stuck is not None:
            self._log.error("revision.stuck", reason=stuck.reason)
            self._retry_later()
        for name in changed:
            reason: Failure | None = failure
            if len(changed) > 1:
                trial = {**kept, name: wanted[name]}
                reason = await self._go_live(trial, None)
                kept = trial if reason is None else kept
            if reason is not None:
                self._refuse(wanted[name].deployment, reason.reason)

    def _number(self, wanted: dict[str, Placed], revision: int | None) -> int:
        """Returns the source's revision if all of it is in, else the newest that is."""
        if revision is not None:
            return revision
        assert self._fleet is not None
        live = 0 if self._fleet.live is None else self._fleet.live.revision
        return max(live, *(each.deployment.revision for each in wanted.values()), 0)

    def _refuse(self, deployment: Deployment, reason: str) -> None:
        name = deployment.application
        before = self._refusals.get(name)
        if before is not None and before.reason == reason:
            return  # it still lacks what it lacked
        self._refusals[name] = Refusal(
            application=name,
            revision=deployment.revision,
            reason=reason,
            at=iso(self._clock.now()),
        )
        self._ring.add(name, "supervisor", f"revision {deployment.revision} is refused: {reason}")
        self._log.error(
            "deployment.refused", application=name, revision=deployment.revision, reason=reason
        )

    def _drop_unused(self) -> None:
        """Stops workers that nothing live uses, once no gateway uses them either."""
        assert self._pool is not None
        used = {
            key: placed.deployment.plan.replicas
            for placed in self._placed.values()
            for key in placed.worker_keys
        }
        unused = self._pool.take_unused(used)
        if unused:
            self._keep(asyncio.create_task(self._retire(unused)))

    def _give_up(self, placing: asyncio.Task[Placed | None]) -> None:
        """Ends the start of workers that nobody wants any more."""
        placing.cancel()
        self._keep(placing)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _retire(self, workers: list[WorkerProcess]) -> None:
        assert self._fleet is not None
        assert self._pool is not None
        await self._fleet.drained(timeout_s=_DRAINED_WITHIN_S)
        await self._pool.stop(workers)

    def _retry_later(self) -> None:
        if self._retrying is not None:
            self._retrying.cancel()
        self._retrying = asyncio.get_running_loop().call_later(_RETRY_S, self._wake.set)

    # Metrics

    async def _tallies(self) -> list[Tally]:
        return [] if self._fleet is None else await self._fleet.tallies()

    def _own_metrics(self) -> Instruments:
        own = Instruments()
        restarts = own.counter(
            "tidemill_process_restarts", "Processes started again after they died.", ("kind",)
        )
        live = own.gauge("tidemill_revision", "The revision that is live.")
        refused = own.gauge("tidemill_deployments_refused", "Deployments that are not live.")
        if self._fleet is not None and self._pool is not None:
            restarts.of("gateway").value = self._fleet.restarts
            restarts.of("worker").value = self._pool.restarts
            live.of().value = 0 if self._fleet.live is None else self._fleet.live.revision
        refused.of().value = len(self._refusals)
        status = self.status()
        restarted = {} if self._pool is None else self._pool.restarted()
        show_processes(own, status["gateways"], status["workers"], restarted)
        return own


def check_grpc(settings: ServeSettings) -> None:
    """Does nothing where gRPC is off, or can be served.

    Raises:
        Unavailable: the extra ``grpc`` is not installed.
    """
    if settings.grpc_port is None:
        return
    if not all(map(find_spec, ("grpc", "google"))) or find_spec("google.protobuf") is None:
        raise Unavailable(
            "serve.grpc_port is set, and gRPC is not installed",
            remedy="Install the extra: pip install 'tidemill[grpc]'.",
        )


def stop_on_signals(stop: asyncio.Event) -> None:
    """Sets the event when this process gets SIGTERM or SIGINT; call it on the main thread."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
