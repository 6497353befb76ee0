"""The brain behind every edge: selection, table, cache, queue, replica, or the stated default.

A query enters by ``submit`` and ends exactly once, through its ``done``: as an answer with its
source, or as a typed error. What was answered is in the ledger before the client hears of it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

from tidemill.data.ledger import SECRET_BYTES, LedgerWriter, PredictionIds
from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    NotReady,
    Overloaded,
    TidemillError,
    WorkerLost,
)
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.logs import log
from tidemill.models.signature import Batch
from tidemill.serving.application import Application
from tidemill.serving.batcher import Batcher
from tidemill.serving.inspection import inspect_versions
from tidemill.serving.key_turn import Asker, KeyTurn
from tidemill.serving.levels import Levels
from tidemill.serving.loading import Loader, retired_versions
from tidemill.serving.measures import Measures
from tidemill.serving.model_turn import ModelTurn, RowAsker
from tidemill.serving.pace import Pace
from tidemill.serving.plan import ApplicationAssignment, Assignment
from tidemill.serving.query import Query
from tidemill.serving.recording import Recorder
from tidemill.serving.row import Row
from tidemill.serving.selection import check_weights
from tidemill.serving.statistics import Tally
from tidemill.serving.turn import Teller, Turn
from tidemill.serving.version import (
    LiveVersion,
    check_default,
    constant_rows,
    fill_rows,
    merge_part,
    missing_rows,
    signature_of,
)
from tidemill.serving.watching import QueryWatch

_BROKEN_PROMISE = (DeadlineExceeded, Overloaded, WorkerLost, NotReady)
"""What the stated default stands in for; a wrong request is never answered with it."""


class Processor:
    """Answers queries for every application of one gateway.

    Args:
        ledger: where predictions are written before they are answered.
        instruments: where they are counted.
        clock: tells the time and the deadlines.
        watch: who is told of single queries, if anybody.
        ids: names the predictions; by default with a secret that nobody else has.
        pace: told when this loop has worked.
    """

    def __init__(
        self,
        ledger: LedgerWriter,
        instruments: Instruments,
        clock: Clock,
        watch: QueryWatch | None = None,
        ids: PredictionIds | None = None,
        *,
        pace: Pace | None = None,
    ) -> None:
        self._ledger = ledger
        self._instruments = instruments
        self._clock = clock
        self.applications: dict[str, Application] = {}
        """What is live, by name."""
        self._staged: dict[int, dict[str, Application]] = {}
        self._watch = watch
        self._pace = pace or Pace(clock)
        noted = watch is not None and watch.every
        self._landed: list[Batcher] = []
        turned, landed = self._flush_due, self._landed.append
        self._loader = Loader(
            clock, self._from_replica, instruments, turned=turned, landed=landed, noted=noted
        )
        self._recorder = Recorder(ledger, clock)
        self._ended: list[Query] = []
        self._turns: list[KeyTurn | ModelTurn] = []
        self._open_turns: list[KeyTurn] = []
        self._flushing = False
        self._due: asyncio.Handle | None = None
        self.ids = ids or PredictionIds(secrets.token_bytes(SECRET_BYTES), clock)
        self._levels = Levels(instruments)
        self._log = log("serving.processor")
        self.revision = 0

    def application(self, name: str) -> Application:
        """Returns a live application.

        Raises:
            NotFound: nothing of that name is live.
        """
        found = self.applications.get(name)
        if found is None:
            known = ", ".join(sorted(self.applications)[:10]) or "none yet"
            raise NotFound(
                f"Request for unknown model: {name[:100]!r} is not found",
                remedy=f"Live applications: {known}.",
            )
        return found

    def inspect(self, name: str) -> list[dict[str, Any]]:
        """Returns the present state of an application's versions, for people."""
        found = self.applications.get(name)
        return [] if found is None else inspect_versions(found.versions)

    async def prepare(self, assignment: Assignment) -> None:
        """Loads all that an assignment needs beside what is live; nothing changes for clients.

        Raises:
            TidemillError: something could not be loaded; what was loaded is given back.
        """
        live = [v for app in self.applications.values() for v in app.versions]
        prepared = await self._loader.load(assignment, live)
        self._staged[assignment.revision] = {
            each.deployment.application: self._application(each, versions)
            for each, versions in zip(assignment.applications, prepared, strict=True)
        }

    def activate(self, revision: int) -> None:
        """Makes a prepared assignment live, between two queries."""
        self._flush_due()  # keys that were asked for are of what was live then
        self._close_turns()
        self.applications = self._staged.pop(revision)
        self._staged.clear()  # whatever else was prepared was given up
        for application in self.applications.values():
            for version in application.versions:
                version.limit_age(application.deployment.max_age_s)
        self.revision = revision
        self._loader.adopt(revision)
        self._log.info("revision.live", revision=revision, applications=list(self.applications))

    async def retire(self) -> None:
        """Gives back what is no longer live, once its last queries have ended."""
        self._flush_due()  # keys that were asked for before are answered by their table
        staged = [app for stage in self._staged.values() for app in stage.values()]
        needed = [v for app in (*self.applications.values(), *staged) for v in app.versions]
        retired = retired_versions(self._loader, needed)
        for version in retired:
            await version.aclose()
        self._levels.retired(retired, needed)
        await self._loader.close_replaced()

    async def drain(self, timeout_s: float) -> None:
        """Lets queries in flight end, for at most so long, and gives everything back."""
        self.applications = {}
        self._close_turns()
        try:
            async with asyncio.timeout(timeout_s):
                await self.retire()
        except TimeoutError:
            self._log.warning("drain.timeout", timeout_s=timeout_s)
        self._flush()

    def tallies(self) -> list[Tally]:
        """Returns what was counted of every live version since it was loaded."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        return [
            version.measures.tally(caches=version.caches, now=now, monotonic=monotonic)
            for application in self.applications.values()
            for version in application.versions
        ]

    def show_levels(self) -> None:
        """Has the instruments show how full the queues are now, and who answers."""
        self._levels.show(v for app in self.applications.values() for v in app.versions)

    def submit(self, application: Application, query: Query, version: int | None = None) -> None:
        """Takes a query of checked inputs; it ends through ``query.done``, exactly once.

        Args:
            application: whom it asks.
            query: what it asks.
            version: the model version that the client insists on, if any.

        Raises:
            NotFound: that version is not live.
        """
        chosen = application.only if version is None else application.live_version(version)
        query.state = application
        query.application = application.name
        query.request_id = self.ids.next(query.arrived)
        try:
            if chosen is None:
                chosen = self._select(application, query)
            query.version = chosen.version
            if chosen.table is None and not chosen.keyed:
                chosen.batcher.offer(query)
            else:
                self._answer(chosen, query)
        except TidemillError as error:
            query.error, query.refused = error, True
            self._end(query)

    def look_up(self, application: Application, query: Query, version: int | None = None) -> None:
        """Takes a query of an application's key columns alone; it ends as one of ``submit``'s.

        It is answered from the table of the version that is chosen. A key that this lacks goes to
        the model with its stored features. Where there are none, it gets the default, or a
        ``NotFound``: without its other inputs the model cannot be asked. A table that is too old
        lacks all: the default, or a ``Stale``.

        Raises:
            NotFound: that version is not live.
        """
        asked = query.asked if isinstance(query.asked, Row) else query.inputs
        if len(asked) == len(application.signature.inputs):  # all that the model takes
            names = [column.name for column in application.signature.inputs]
            query.asked = {name: query.inputs[name] for name in names}
            self.submit(application, query, version)
            return
        chosen = application.only if version is None else application.live_version(version)
        query.state, query.application = application, application.name
        query.request_id = self.ids.next(query.arrived)
        try:
            if chosen is None:
                chosen = self._select(application, query)
            query.version = chosen.version
            if chosen.lookups is not None:
                chosen.check_alone(query)
                chosen.ask_table(query, lambda whole: self._told_alone(chosen, query, whole=whole))
                return
            whole = chosen.table is not None and chosen.look_up_alone(query)
            if self._goes_on_alone(chosen, query, whole=whole):
                return
        except TidemillError as error:
            query.error, query.refused = error, True
        self._end(query)

    def key_turn(
        self, application: Application, key: tuple[str, ...], asker: Asker
    ) -> KeyTurn | None:
        """Returns what answers an application's keys of these columns together, turn by turn.

        None where each is a query of its own: watched singly, or answered by one of several
        versions, a table on another host, or a model that takes nothing else.
        """
        turn = self._turn(application, asker)
        if turn is None or len(key) == len(application.signature.inputs):
            return None
        if not turn.version.looks_up_rows(key):
            return None
        keys = KeyTurn(turn, asker, self, self._begin_turn)
        self._open_turns.append(keys)
        return keys

    def model_turn(self, application: Application, asker: RowAsker) -> ModelTurn | None:
        """Returns what answers rows of all inputs together, turn by turn.

        None where each is a query of its own: watched singly, or answered by one of several
        versions, or by anything but the model.
        """
        turn = self._turn(application, asker)
        if turn is None or application.deployment.key:
            return None
        if turn.version.table is not None or turn.version.keyed:
            return None
        return ModelTurn(turn, asker, self, self._begin_turn)

    def _turn(self, application: Application, teller: Teller) -> Turn | None:
        version, watch = application.only, self._watch
        if version is None or (watch is not None and watch.every):
            return None
        return Turn(
            application,
            version,
            teller,
            self,
            ledger=self._ledger,
            ids=self.ids,
            clock=self._clock,
        )

    def _close_turns(self) -> None:
        while self._open_turns:
            self._open_turns.pop().open = False

    def _begin_turn(self, turn: KeyTurn | ModelTurn) -> None:
        self._turns.append(turn)
        if not self._flushing:
            self._flush_soon()

    def lacks(self, application: Application, version: LiveVersion, query: Query) -> None:
        """Takes a query of keys alone of which the table of a version holds nothing."""
        self._name(application, version, query)
        self._told_alone(version, query, whole=False)

    def unrecorded(
        self,
        application: Application,
        version: LiveVersion,
        queries: Sequence[Query],
        error: Exception,
    ) -> None:
        """Takes queries that a version has answered, and that could not be recorded."""
        for query in queries:
            self._name(application, version, query)
            query.ended = True
        if not isinstance(error, InvalidInput):  # else it is the fault of one, as will be seen
            self._recorder.fail(queries, error)
        self._ended += queries

    def take(self, application: Application, query: Query) -> Query:
        """Returns the query with its name: it is about to wait for the only version."""
        assert application.only is not None
        self._name(application, application.only, query)
        return query

    def _name(self, application: Application, version: LiveVersion, query: Query) -> None:
        query.state, query.application = application, application.name
        query.version = version.version
        query.request_id = self.ids.next(query.arrived)

    def _told_alone(self, chosen: LiveVersion, query: Query, *, whole: bool | None) -> None:
        """As ``_told``, with a query of keys alone."""
        try:
            if self._goes_on_alone(chosen, query, whole=whole):
                return
        except TidemillError as error:
            query.error, query.refused = error, True
        self._end(query)

    def _goes_on_alone(self, chosen: LiveVersion, query: Query, *, whole: bool | None) -> bool:
        """Answers what the table held, or has the model asked; says whether it was.

        Raises:
            NotReady: the table does not answer, and no features are stored, or these do not.
            NotFound: there is no table, or it lacks a key, and there is no default.
        """
        if whole:
            query.source = "table"
            return False
        inputs = chosen.complete(query)
        if inputs is not None:
            self._answer_completed(chosen, query, inputs)
            return True
        if whole is None:
            raise NotReady(
                f"the table of version {chosen.version} does not answer",
                remedy="Retry in a moment, or send all inputs of the model.",
            )
        if chosen.table is None:
            chosen.check_alone(query)
        self._fill(query.state, query, chosen.lacking(query))
        return False

    def _fill(self, application: Application, query: Query, lacking: NotFound) -> None:
        """Gives the default for the rows that the table lacks.

        Raises:
            NotFound: there is no default.
        """
        default = application.deployment.default
        if default is None:
            raise lacking
        application.measures.defaulted(query, lacking, self._clock.monotonic())
        fill_rows(query, default, application.signature)

    def refuse(
        self, application: Application, error: TidemillError, *, times: int, waited_s: float
    ) -> None:
        """Counts queries that nobody has read, each of which waited so long."""
        version = 0 if application.only is None else application.only.version
        application.measures.refused(version, error, waited_s, times)

    def refused_unread(
        self, application: Application, error: TidemillError, *, arrived: float, now: float
    ) -> None:
        """Tells whoever watches single queries of one of them, if that is wanted."""
        watch = self._watch
        if watch is None or not watch.wants(now):
            return
        query = Query({}, 0, arrived, arrived + application.slo_s, _told_already)
        query.state, query.application = application, application.name
        query.version = 0 if application.only is None else application.only.version
        query.request_id = self.ids.next(arrived)
        query.error, query.refused = error, True
        watch.ended(query, now)

    def catch_up(self) -> None:
        """Sends the batches that are due, and tells clients what has ended, at once."""
        for application in self.applications.values():
            for version in application.versions:
                version.batcher.catch_up()
        self._flush_due()

    def _answer(self, chosen: LiveVersion, query: Query) -> None:
        if chosen.lookups is not None:
            chosen.ask_table(query, lambda whole: self._told(chosen, query, whole=whole))
        elif chosen.table is not None and chosen.look_up(query):
            query.source = "table"
            self._end(query)
        else:
            self._answer_else(chosen, query)

    def _told(self, chosen: LiveVersion, query: Query, *, whole: bool | None) -> None:
        """Goes on with a query by what a table on another host said."""
        try:
            if whole:
                query.source = "table"
                self._end(query)
            else:
                self._answer_else(chosen, query)
        except TidemillError as error:
            query.error, query.refused = error, True
            self._end(query)

    def _answer_else(self, chosen: LiveVersion, query: Query) -> None:
        """Has those rows answered that the table lacks."""
        if query.table_rows is not None:
            chosen.batcher.offer(self._partial(chosen, query, missing_rows(query)))
        elif chosen.keyed:
            self._answer_keyed(chosen, query)
        else:
            chosen.batcher.offer(query)

    def _answer_completed(self, chosen: LiveVersion, query: Query, inputs: Batch) -> None:
        """Asks the model for the rows of a query by key that the table lacks, by all inputs."""
        if query.table_rows is not None:
            chosen.batcher.offer(self._partial(chosen, query, inputs))
            return
        query.asked = inputs
        if chosen.keyed:
            self._answer_keyed(chosen, query)
        else:
            chosen.batcher.offer(query)

    def _answer_keyed(self, chosen: LiveVersion, query: Query) -> None:
        """Answers what was answered before, or is being answered now, without asking again."""
        if chosen.from_cache(query):
            query.source = "cache"
            self._end(query)
            return
        coalescing = chosen.coalescing
        if coalescing is not None and coalescing.follow(query):
            chosen.measures.coalesced.value += 1
            return
        try:
            chosen.batcher.offer(query)
        except TidemillError:
            if coalescing is not None:
                coalescing.release(query)
            raise

    def _partial(self, chosen: LiveVersion, query: Query, inputs: Batch) -> Query:
        """Makes the query for the rows that the table lacks; its end completes the whole."""

        def complete(part: Query) -> None:
            query.error, query.notes = part.error, part.notes
            if part.error is None:
                merge_part(query, part)
            self._end(query)

        part = Query(
            inputs=inputs,
            n=len(next(iter(inputs.values()))),
            arrived=query.arrived,
            deadline=query.deadline,
            done=complete,
        )
        part.state = chosen
        part.nbytes = query.nbytes
        return part

    def _select(self, application: Application, query: Query) -> LiveVersion:
        if application.policy is None:
            raise NotReady(
                f"application {application.name!r} has no model that answers yet",
                remedy="Link a version to it, with a weight.",
            )
        return application.versions[application.policy.choose(query.request_id, query.inputs)]

    def _from_replica(self, version: LiveVersion, query: Query) -> None:
        """Ends a query that the batcher gives back with outputs or an error."""
        if query.state is version:  # a part of a query: its own ``done`` completes the whole
            query.ended = True
            query.done(query)
            return
        if query.error is None and version.caches:
            version.keep(query)
        if version.coalescing is not None:
            for follower in version.coalescing.release(query):
                self._follow(version, query, follower)
        self._end(query)

    def _follow(self, version: LiveVersion, leader: Query, follower: Query) -> None:
        """Ends a query with the answer to its equal, or has it ask for itself after all."""
        follower.notes = leader.notes
        folds = version.coalescing is not None and version.coalescing.folds
        if leader.error is None:
            follower.answer_as(leader)
            if folds:  # the model was asked what represents it
                follower.source = "cache"
        elif folds or isinstance(leader.error, DeadlineExceeded | Overloaded | NotReady):
            # The leader's time was up, or its luck out, or its input another's: the follower's
            # may not be.
            try:
                self._answer_keyed(version, follower)
            except TidemillError as error:
                follower.error = error
            else:
                return
        else:  # an equal input would break the model, or its worker, as the leader's did
            follower.error = leader.error
        self._end(follower)

    def _end(self, query: Query) -> None:
        """Ends a query: with the default if the promise was broken; answered at the turn's end."""
        if query.ended:
            return
        query.ended = True
        if query.error is not None:
            self._default(query)
        self._ended.append(query)
        if not self._flushing:
            self._flush_soon()

    def _flush_soon(self) -> None:
        self._flushing = True
        self._pace.computed()  # more is read before the flush
        self._due = asyncio.get_running_loop().call_soon(self._flush)

    def _default(self, query: Query) -> None:
        application: Application = query.state
        default = application.deployment.default
        if default is None or not isinstance(query.error, _BROKEN_PROMISE):
            return
        signature = application.signature
        application.measures.defaulted(query, query.error, self._clock.monotonic())
        query.outputs = constant_rows(default, signature, query.n)
        query.error, query.source, query.row_sources = None, "default", None
        query.version = 0

    def _flush_due(self) -> None:
        """Has the flush that is due at once."""
        if self._flushing and self._due is not None:
            self._due.cancel()
            self._flush()

    def _flush(self) -> None:
        """Writes what ended in this turn to the ledger, then tells the clients."""
        turns, self._turns = self._turns, []
        for turn in turns:
            turn.end()
        self._flushing = False
        if self._turns:  # whoever was answered made room for more of its own
            self._flush_soon()
        ended, self._ended = self._ended, []
        watch = self._watch
        self._recorder.record([query for query in ended if query.error is None])
        monotonic = self._clock.monotonic()
        for query in ended:
            try:
                query.state.measures.ended(query, monotonic)
                query.done(query)
                if watch is not None and (watch.every or query.error is not None):
                    watch.ended(query, monotonic)
            except Exception:  # noqa: BLE001 - the others of this turn are told all the same
                self._log.exception("query.untold", request=query.request_id)
        while self._landed:
            self._landed.pop().told()
        self._pace.worked()

    def _application(
        self, assignment: ApplicationAssignment, versions: tuple[LiveVersion, ...]
    ) -> Application:
        deployment = assignment.deployment
        signature = signature_of(deployment, [version.signature for version in versions])
        check_weights(deployment, signature)
        check_default(deployment, signature)
        return Application(
            deployment=deployment,
            versions=versions,
            signature=signature,
            measures=Measures(self._instruments, deployment.application),
        )


def _told_already(_: Query) -> None:
    """Whoever asked was told before anybody looked at the query."""
