"""Loads versions beside what is live, and keeps what an unchanged version has learned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec

from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import InvalidModel, NotFound, Unavailable
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.logs import log
from tidemill.models.format import read_manifest
from tidemill.models.signature import Signature
from tidemill.serving.batcher import Batcher
from tidemill.serving.cache import Cache
from tidemill.serving.features import open_features
from tidemill.serving.flight import NotedBatches
from tidemill.serving.lookups import Lookups
from tidemill.serving.measures import VersionMeasures
from tidemill.serving.plan import (
    ApplicationAssignment,
    Assignment,
    Deployment,
    ReplicaSpec,
    ServingPlan,
    VersionAssignment,
)
from tidemill.serving.query import Query
from tidemill.serving.replicas.address import RemoteModel
from tidemill.serving.replicas.inline import InlineReplica
from tidemill.serving.replicas.remote import RemoteReplica
from tidemill.serving.replicas.replica import Replica
from tidemill.serving.replicas.worker import WorkerReplica
from tidemill.serving.version import LiveVersion
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.redis import PassBy, RedisTable, is_place
from tidemill.tables.represented import Keys, keys_of
from tidemill.tables.table import Table, TableInfo

Finish = Callable[[LiveVersion, Query], None]


class Loader:
    """Turns an assignment into live versions, loading only what is not loaded already.

    A version that stays (same files, table, key and plan) keeps its cache, queue and learned law;
    only its replicas may change, and they do so when the assignment goes live.

    Args:
        clock: tells the time and the deadlines.
        finish: told of each query of a version that ended.
        instruments: where batches are counted.
        turned: called after a turn in which a queue had batches computed on the loop.
        landed: called with a queue one of whose batches has come back; see ``Batcher``.
        noted: somebody watches single queries: each is told of the batch that it was in.
    """

    def __init__(
        self,
        clock: Clock,
        finish: Finish,
        instruments: Instruments,
        *,
        turned: Callable[[], None],
        landed: Callable[[Batcher], None],
        noted: bool = False,
    ) -> None:
        self._clock = clock
        self._finish = finish
        self._instruments = instruments
        self._turned = turned
        self._landed = landed
        self._noted = noted
        self._loaded: list[LiveVersion] = []
        self._changes: dict[int, list[tuple[LiveVersion, list[Replica]]]] = {}
        self._started: dict[int, list[Replica]] = {}
        self._replaced: list[Replica] = []
        self._pass_by = PassBy(clock)
        self._specs: WeakKeyDictionary[Replica, ReplicaSpec] = WeakKeyDictionary()

    @property
    def loaded(self) -> list[LiveVersion]:
        """Every version that holds resources, live or not yet or no longer."""
        return self._loaded

    async def load(
        self, assignment: Assignment, live: Iterable[LiveVersion]
    ) -> list[tuple[LiveVersion, ...]]:
        """Returns the versions of each application, in order; loads what is missing.

        Raises:
            TidemillError: something could not be loaded; what was loaded here is given back.
        """
        known = {version.identity: version for version in live}
        changes: list[tuple[LiveVersion, list[Replica]]] = []
        fresh: list[LiveVersion] = []
        started: list[Replica] = []
        prepared: list[tuple[LiveVersion, ...]] = []
        try:
            for application in assignment.applications:
                versions = []
                for each in application.versions:
                    key = _identity_of(application.deployment, each)
                    version = known.get(key)
                    kept = [] if version is None else list(version.batcher.replicas)
                    replicas = await self._replicas(
                        each, application.deployment.plan, kept, started
                    )
                    if version is None:
                        version = await self._open(application, each)
                        fresh.append(version)
                        _give(version, replicas)
                    else:
                        changes.append((version, replicas))
                    versions.append(version)
                prepared.append(tuple(versions))
        except BaseException:
            await _give_back(fresh, started)
            raise
        self._loaded.extend(fresh)
        self._drop(assignment.revision)
        self._changes[assignment.revision] = changes
        self._started[assignment.revision] = started
        return prepared

    def adopt(self, revision: int) -> None:
        """Gives the versions that stay their replicas of this revision."""
        for version, replicas in self._changes.pop(revision, []):
            gone = [each for each in version.batcher.replicas if each not in replicas]
            _give(version, replicas)
            self._replaced.extend(gone)
        self._started.pop(revision, None)
        for given_up in list(self._changes):
            self._drop(given_up)

    async def close_replaced(self) -> None:
        """Closes replicas that live versions no longer use."""
        replaced, self._replaced = self._replaced, []
        for replica in replaced:
            await replica.aclose()

    def _drop(self, revision: int) -> None:
        """Gives up what was prepared for a revision that did not go live, to be closed."""
        changes = self._changes.pop(revision, [])
        started = self._started.pop(revision, [])
        self._replaced.extend(
            replica
            for _, replicas in changes
            for replica in replicas
            if any(replica is each for each in started)
        )

    def forget(self, version: LiveVersion) -> None:
        """Takes a version off the books; its owner closes it."""
        self._loaded.remove(version)

    async def _replicas(
        self,
        version: VersionAssignment,
        plan: ServingPlan,
        kept: list[Replica],
        started: list[Replica],
    ) -> list[Replica]:
        alive = [replica for replica in kept if replica.alive]
        replicas: list[Replica] = []
        for spec in version.replicas:
            same = next((r for r in alive if self._specs.get(r) == spec), None)
            if same is not None:
                alive.remove(same)
                replicas.append(same)
                continue
            replica = _replica(version, spec, plan)
            await replica.start()
            started.append(replica)
            self._specs[replica] = spec
            replicas.append(replica)
        return replicas

    async def _open(
        self, application: ApplicationAssignment, version: VersionAssignment
    ) -> LiveVersion:
        manifest = await asyncio.to_thread(read_manifest, Path(version.folder))
        deployment = application.deployment
        table: Table | None = None
        key = None
        if version.table is not None:
            table = await self._open_table(version.table, version.record)
            try:
                key = _encoder(table, manifest.signature)
            except BaseException:
                table.close()
                raise
        features = None
        if version.features is not None:
            folder = Path(version.features)
            try:
                features = await asyncio.to_thread(open_features, folder, manifest.signature)
            except BaseException:
                if table is not None:
                    table.close()
                raise
        plan = deployment.plan
        measures = VersionMeasures(self._instruments, deployment.application, version.live.version)
        batcher = Batcher(
            clock=self._clock,
            max_batch=plan.max_batch,
            max_queue=plan.max_queue,
            max_queue_bytes=plan.max_queue_bytes,
            finish=lambda query: self._finish(live, query),
            observer=NotedBatches(measures) if self._noted else measures,
            turned=self._turned,
            landed=self._landed,
        )
        live = LiveVersion(
            assignment=version,
            identity=_identity_of(deployment, version),
            signature=manifest.signature,
            platform=manifest.runtime,
            classes=manifest.classes,
            table=table,
            lookups=_lookups(table, self._clock, measures),
            key=key,
            features=features,
            represent=deployment.represent,
            cache=Cache(plan.cache_bytes, plan.cache_ttl_s),
            batcher=batcher,
            coalesces=plan.coalesce,
            clock=self._clock,
            measures=measures,
        )
        return live

    async def _open_table(self, place: str, record: TableInfo | None) -> Table:
        """Opens a table; one that is to be in Redis and is not yet is looked for time and again."""
        if not is_place(place):
            return await asyncio.to_thread(LmdbTable.open, Path(place))
        if record is None:
            return await asyncio.to_thread(RedisTable.open, place)
        if self._pass_by.on:
            return RedisTable(place, record)
        try:
            return await asyncio.to_thread(RedisTable.open, place, soon=True)
        except (Unavailable, NotFound) as error:
            if isinstance(error, Unavailable):
                self._pass_by.begin()
            log("serving.loading").warning("table.awaited", table=record.id, reason=str(error))
            return RedisTable(place, record)


def retired_versions(loader: Loader, live: Iterable[LiveVersion]) -> list[LiveVersion]:
    """Takes the versions that are no longer live off the loader's books and returns them."""
    staying = {id(version) for version in live}
    gone = [version for version in loader.loaded if id(version) not in staying]
    for version in gone:
        loader.forget(version)
    return gone


def _give(version: LiveVersion, replicas: list[Replica]) -> None:
    """Gives a version its replicas; one that comes back wakes the version's queue."""
    for replica in replicas:
        if isinstance(replica, RemoteReplica):
            replica.revived = version.batcher.wake
    version.batcher.set_replicas(replicas)


def _replica(version: VersionAssignment, spec: ReplicaSpec, plan: ServingPlan) -> Replica:
    if spec.remote is not None:
        model = RemoteModel(url=spec.remote.url, binary=spec.remote.binary)
        return RemoteReplica(
            Path(version.folder),
            model,
            timeout_s=spec.remote.timeout_s,
            token=spec.remote.token,
        )
    if spec.kind == "worker":
        assert spec.socket is not None
        return WorkerReplica(Path(spec.socket))
    return InlineReplica(Path(version.folder), trust_code=version.trust_code, threads=plan.threads)


def _lookups(table: Table | None, clock: Clock, measures: VersionMeasures) -> Lookups | None:
    """Returns what asks a table that is on another host."""
    if isinstance(table, RedisTable):
        return Lookups(table, clock, measures.table_failures)
    return None


def _encoder(table: Table, signature: Signature) -> Keys:
    """Returns the encoder of the table's own key, whatever the deployment's key is by now.

    So it is with what represents it.
    """
    types = {column.name: column.type for column in signature.inputs}
    key = table.info.key
    if not all(types.get(name) == kind for name, kind in key):
        raise InvalidModel(
            f"table {table.info.id} has the key {', '.join(name for name, _ in key)}, "
            "which are not inputs of the model that it stands before",
            remedy="Build a table with this version.",
        )
    return keys_of(key, dict(table.info.represent))


def _identity_of(deployment: Deployment, version: VersionAssignment) -> tuple[object, ...]:
    """Returns what a version must have in common with a live one to go on as that one.

    How many replicas it has is no part of it: they come and go under a queue that stays.
    """
    return (
        deployment.application,
        version.live.model,
        version.live.version,
        version.folder,
        version.table,
        version.features,
        tuple(deployment.represent.items()),
        msgspec.structs.replace(deployment.plan, replicas=1),
    )


async def _give_back(versions: list[LiveVersion], replicas: list[Replica]) -> None:
    for version in versions:
        version.batcher.set_replicas([])
        await version.aclose()
    for replica in replicas:
        await replica.aclose()
