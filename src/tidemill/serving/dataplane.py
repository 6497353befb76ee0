"""The operations of the protocols, each as one function from an exchange to the processor."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from tidemill import __version__
from tidemill.data.ledger import LabelRecord, LedgerWriter, PlainRows, prediction_ids
from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import (
    InvalidInput,
    ModelFailed,
    NotReady,
    Unavailable,
)
from tidemill.foundation.instruments import Instruments
from tidemill.models.signature import Batch
from tidemill.serving import row_writer, wire
from tidemill.serving.answer_writer import AnswerWriter
from tidemill.serving.application import Application
from tidemill.serving.by_key import KeyReader
from tidemill.serving.classification import classified
from tidemill.serving.exchange import Caller, Exchange
from tidemill.serving.form import Form
from tidemill.serving.gate import Gate
from tidemill.serving.guard import Guard
from tidemill.serving.key_turn import KeyTurn, Values
from tidemill.serving.labels import judge, refusal
from tidemill.serving.model_turn import Asked
from tidemill.serving.pace import Pace
from tidemill.serving.processor import Processor
from tidemill.serving.query import DEFAULT_PRIORITY, Answers, Packed, Query
from tidemill.serving.row import Row, RowForm
from tidemill.serving.templates import Template, read_rows

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
]
_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class DataPlane:
    """Answers v2 and v1 requests, feedback and metrics.

    Args:
        processor: answers the queries.
        ledger: keeps the labels.
        instruments: counts the labels.
        clock: tells the time.
        collect: returns the metrics of all gateways, rendered.
        guard: counts the labels that each key sends.
        pace: tells how long what is read now has waited.
        max_label_age_s: how long after its prediction a label may come.
        server_name: what the server calls itself.
    """

    def __init__(
        self,
        processor: Processor,
        *,
        ledger: LedgerWriter,
        instruments: Instruments,
        clock: Clock,
        collect: Callable[[], Awaitable[bytes]],
        guard: Guard | None = None,
        pace: Pace | None = None,
        max_label_age_s: float = math.inf,
        server_name: str = "tidemill",
    ) -> None:
        self._server_name = server_name
        self._processor = processor
        self._ledger = ledger
        self._clock = clock
        self._collect = collect
        self._guard = guard
        self._pace = pace or Pace(clock)
        self._max_label_age_s = max_label_age_s
        self._labels_refused = instruments.counter(
            "tidemill_labels_refused", "Labels not taken, by why.", ("application", "reason")
        )
        self._labels = instruments.counter(
            "tidemill_labels", "Labels made durable.", ("application",)
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._forms: dict[str, Form] = {}

    # Inference

    def infer(self, exchange: Exchange, name: str, version: int | None) -> None:
        """Answers a v2 inference request."""
        form = self._form_of(name)
        application, arrived = form.application, exchange.arrived
        asks_any = version is None or len(application.versions) == 1
        if asks_any and form.gate.turns_away(arrived):
            form.refuse(exchange)
            return
        body, rows, pace = exchange.body, form.rows, self._pace
        if rows is not None and version is None:
            found = form.reader.plain(body, exchange.head.header_length)
            unseen_s = pace.now - arrived if pace.waited_s > 0.0 else 0.0
            if found is not None and rows.add(
                exchange, found[0], found[1], nbytes=len(body), arrived=arrived, unseen_s=unseen_s
            ):
                return
        try:
            asked, inputs, n = form.reader.read(body, exchange.head.header_length)
        except InvalidInput as error:
            if not application.deployment.key:
                raise
            self._infer_by_key(exchange, form, version, error)
            return
        query = self._query(exchange, application, asked, inputs, n)
        self._processor.submit(application, query, version)

    def _query(
        self,
        exchange: Exchange,
        application: Application,
        asked: wire.Asked,
        inputs: Batch | Packed,
        n: int,
    ) -> Query:
        """Returns a v2 request that was read as a query."""
        nbytes, exchange.body = len(exchange.body), b""  # one that waits holds its arrays, no more
        arrived, allowed_s = exchange.arrived, application.slo_s
        if asked.timeout_s is not None:
            allowed_s = application.allowed_s(asked.timeout_s)
        until = arrived + allowed_s
        query = Query(inputs, n, arrived, until, self._inferred, exchange, asked, asked.event_time)
        query.nbytes = nbytes
        if asked.priority != DEFAULT_PRIORITY:
            query.priority = asked.priority
        if self._pace.waited_s > 0.0:
            query.unseen_s = self._pace.now - arrived
        return query

    def row_query(self, context: Exchange, application: Application) -> Query:
        """Returns a request that was taken together with others as a query; see ``RowAsker``."""
        read = self._form(application).reader.read(context.body, context.head.header_length)
        return self._query(context, application, *read)

    def read_rows(self, form: Template, numbers: Sequence[bytes]) -> Batch | None:
        """Returns the rows of requests; see ``RowAsker``."""
        return read_rows(form, numbers)

    def predicted(self, asked: Sequence[Asked], rows: PlainRows, answers: Answers) -> None:
        """Answers those who asked for rows; see ``RowAsker``."""
        version, before, binary_bytes = rows.version, b"", 0
        last: Template | None = None
        after: list[bytes] = []
        for at, (one, name) in enumerate(zip(asked, rows.ids, strict=True)):
            exchange: Exchange = one[0]
            form: Template = one[1]
            try:
                if form is not last:
                    writer = self._writer(rows.application, form.asked)
                    halves = writer.halves(answers, version, rows.source)
                    last, before, after = form, halves.before, halves.after
                    binary_bytes = halves.binary_bytes
                body = b"%b%b%b" % (before, name.encode(), after[at])
                exchange.say(body, len(body) - binary_bytes if binary_bytes else None)
            except Exception as error:  # noqa: BLE001 - an exchange must end
                exchange.fail(unwritable(version, error))

    def predict(self, exchange: Exchange, name: str) -> None:
        """Answers a v1 prediction request."""
        form = self._form_of(name)
        application = form.application
        if form.gate.turns_away(exchange.arrived):
            form.refuse(exchange)
            return
        body_bytes = len(exchange.body)
        request = wire.decode_predict(exchange.body)
        instances, request.instances, exchange.body = request.instances, [], b""
        if application.deployment.key:
            reader = self.key_reader(application)
            if reader.holds(instances):
                self._predict_by_key(exchange, application, request, instances, body_bytes)
                return
        inputs, n = wire.read_rows(instances, application.signature)
        timeout_s = None if request.timeout_ms is None else request.timeout_ms / 1e3
        arrived = exchange.arrived
        query = Query(
            inputs=inputs,
            n=n,
            arrived=arrived,
            deadline=arrived + application.allowed_s(timeout_s),
            done=self._predicted,
            context=exchange,
            event_time=request.event_time,
        )
        query.nbytes = body_bytes
        if self._pace.waited_s > 0.0:
            query.unseen_s = self._pace.now - query.arrived
        self._processor.submit(application, query)

    def key_reader(self, application: Application) -> KeyReader:
        """Returns what reads requests that hold an application's key alone, whatever the protocol.

        Raises:
            InvalidInput: it has no key, or not of single values.
        """
        return self._form(application).key

    def lookup(self, exchange: Exchange, name: str) -> None:
        """Answers the key in the query string."""
        form = self._form_of(name)
        key, turn = (form.reads_key or form.key).read_query(exchange.query), form.turn
        if turn is None:
            application = form.application
            self._processor.look_up(application, self.query_of(exchange, application, key))
        else:
            exchange.head.keys = form.keys  # the next of the same head need not come so far
            turn.add(exchange, key, exchange.arrived)

    def query_of(self, context: Exchange, application: Application, key: Values) -> Query:
        """Returns one key as a query; see ``Asker``."""
        arrived, row = context.arrived, self._form(application).key.row(key)
        until = arrived + application.slo_s
        query = Query(row, 1, arrived, until, self._predicted, context=context)
        query.nbytes = context.nbytes
        return query

    def failed(self, context: Exchange, error: Exception) -> None:
        """Ends what nobody foresaw; see ``Asker``."""
        if not context.answered:
            context.failed(error)

    def looked_up(
        self,
        contexts: Sequence[Exchange],
        answers: PlainRows,
        said: Sequence[Values],
        form: RowForm,
    ) -> None:
        """Answers those who asked for keys; see ``Asker``."""
        writer = row_writer.RowWriter(form, version=answers.version, source=answers.source)
        try:
            bodies = writer.write_all(said, answers.ids)
        except Exception:  # noqa: BLE001 - whichever cannot be written, the others can
            bodies = None
        for at, (exchange, name) in enumerate(zip(contexts, answers.ids, strict=True)):
            try:
                exchange.say(writer.write(said[at], name) if bodies is None else bodies[at])
            except Exception as error:  # noqa: BLE001 - an exchange must end
                exchange.fail(unwritable(answers.version, error))

    def lookup_many(self, exchange: Exchange, name: str) -> None:
        """Answers the keys in a v1 request."""
        application, nbytes = self._processor.application(name), len(exchange.body)
        request = wire.decode_predict(exchange.body)
        instances, request.instances, exchange.body = request.instances, [], b""
        self._predict_by_key(exchange, application, request, instances, nbytes)

    def _predict_by_key(
        self,
        exchange: Exchange,
        application: Application,
        request: wire.PredictRequest,
        instances: list[Any],
        nbytes: int,
    ) -> None:
        """Answers a v1 request whose rows are keys."""
        form = self._form(application)
        reader, turn = form.key, form.turn
        inputs: Batch | Row
        key = reader.read_row(instances[0]) if len(instances) == 1 else None
        if key is None:
            inputs, n = wire.read_rows(instances, reader.signature)
        elif turn is not None and request.timeout_ms is None and request.event_time is None:
            turn.add(exchange, key, exchange.arrived)
            return
        else:
            inputs, n = reader.row(key), 1
        arrived = exchange.arrived
        timeout_s = None if request.timeout_ms is None else request.timeout_ms / 1e3
        query = Query(
            inputs,
            n,
            arrived,
            arrived + application.allowed_s(timeout_s),
            self._predicted,
            context=exchange,
            event_time=request.event_time,
        )
        query.nbytes = nbytes
        self._processor.look_up(application, query)

    def _infer_by_key(
        self, exchange: Exchange, form: Form, version: int | None, refusal: InvalidInput
    ) -> None:
        """Answers a v2 request of keys; ``refusal`` says why it is none of all inputs."""
        application, arrived, nbytes = form.application, exchange.arrived, len(exchange.body)
        asked, inputs, n = form.key.read_infer(exchange.body, exchange.head.header_length, refusal)
        exchange.body = b""
        query = Query(
            inputs,
            n,
            arrived,
            arrived + application.allowed_s(asked.timeout_s),
            self._inferred,
            context=exchange,
            request=asked,
            event_time=asked.event_time,
        )
        query.nbytes, query.priority = nbytes, asked.priority
        self._processor.look_up(application, query, version)

    def _form_of(self, name: str) -> Form:
        """Returns how the requests of what is live under a name are read.

        Raises:
            NotFound: nothing of that name is live.
        """
        form = self._forms.get(name)
        if form is not None and form.application is self._processor.applications.get(name):
            return form
        return self._form(self._processor.application(name))

    def _form(self, application: Application) -> Form:
        """Returns how an application's requests are read; it is kept for as long as that is live.

        What asked before another revision went live may end after that.
        """
        form, name = self._forms.get(application.name), application.name
        if form is None or form.application is not application:
            gate = Gate(application, self._processor, self._pace)
            rows = self._processor.model_turn(application, self)
            form = Form(application, gate, self._turn_of, rows)
            if self._processor.applications.get(name) is application:
                self._forms[name] = form
        return form

    def _turn_of(self, application: Application, key: tuple[str, ...]) -> KeyTurn | None:
        return self._processor.key_turn(application, key, self)

    def _inferred(self, query: Query) -> None:
        exchange: Exchange = query.context
        if query.error is not None:
            exchange.fail(query.error)
            return
        asked: wire.Asked = query.request
        application: Application = query.state
        if asked.classes:
            try:
                query = classified(query, asked.classes, application.classes_of(query.version))
            except Exception as error:  # noqa: BLE001 - an exchange must end
                exchange.fail(unwritable(query.version, error))
                return
        if query.row_sources is None:  # the usual request, whose rows all have one source
            writer = asked.writer or self._writer(application.name, asked)
            try:
                body, header_length = writer.write(query, asked.request.id)
            except Exception as error:  # noqa: BLE001 - an exchange must end
                exchange.fail(unwritable(query.version, error))
                return
            exchange.say(body, header_length)
            return
        parameters: dict[str, Any] = {
            "prediction_id": query.request_id,
            "source": "mixed",
            "version": query.version,
            "sources": ",".join(query.row_sources),
        }
        try:
            body, header_length = wire.write_infer(
                asked,
                model=application.name,
                version=query.version,
                outputs=query.outputs,
                parameters=parameters,
            )
        except Exception as error:  # noqa: BLE001 - an exchange must end
            exchange.fail(unwritable(query.version, error))
            return
        exchange.say(body, header_length)

    def _writer(self, name: str, asked: wire.Asked) -> AnswerWriter:
        if asked.writer is None:
            asked.writer = self._forms[name].writer(asked.wanted)
        found: AnswerWriter = asked.writer
        return found

    def _predicted(self, query: Query) -> None:
        exchange: Exchange = query.context
        if query.error is not None:
            exchange.fail(query.error)
            return
        plain = query.plain
        try:
            if plain is not None:
                body = row_writer.write_row(
                    plain[1], query.request_id, version=query.version, source=query.source
                )
            else:
                body = wire.write_predict(
                    query.outputs,
                    query.n,
                    prediction_ids=prediction_ids(query.request_id, query.n),
                    version=query.version,
                    sources=list(query.row_sources or [query.source] * query.n),
                )
        except Exception as error:  # noqa: BLE001 - an exchange must end
            exchange.fail(unwritable(query.version, error))
            return
        exchange.say(body)

    # Feedback

    def feedback(self, exchange: Exchange, name: str) -> None:
        """Takes labels; they are on disk before they are acknowledged.

        Those for what was not predicted here, or too long ago, are refused one by one.
        """
        application = self._processor.application(name)
        labels = wire.read_feedback(exchange.body)
        if self._guard is not None:
            self._guard.take_labels(exchange.principal, len(labels))
        now = self._clock.now()
        taken, refused = judge(
            labels, self._processor.ids, now=now, max_age_s=self._max_label_age_s
        )
        for each in refused:
            self._labels_refused.of(application.name, each.reason).value += 1
        if refused and not taken:
            raise refusal(refused[0], self._max_label_age_s)
        key = None if exchange.principal is None else exchange.principal.name
        records = [
            LabelRecord(
                prediction_id=label.prediction_id,
                application=application.name,
                label=label.label,
                observed_at=now if label.observed_at is None else label.observed_at,
                received_at=now,
                key=key,
            )
            for label in taken
        ]
        answer: dict[str, Any] = {"accepted": len(records)}
        if refused:
            answer["refused"] = refused
        self._append(exchange, records, application.name, msgspec.json.encode(answer))

    def _append(
        self, exchange: Exchange, records: list[LabelRecord], application: str, answer: bytes
    ) -> None:
        """Answers once the labels are on disk."""
        loop = asyncio.get_running_loop()
        counter = self._labels.of(application)

        def synced(error: BaseException | None) -> None:
            loop.call_soon_threadsafe(acknowledge, error)

        def acknowledge(error: BaseException | None) -> None:
            if error is not None:
                exchange.fail(
                    NotReady(
                        f"the labels could not be recorded: {getattr(error, 'what', error)}",
                        remedy="Free space on the ledger's disk, then send them again.",
                    )
                )
                return
            counter.value += len(records)
            exchange.answer(answer)

        self._ledger.append_labels(records, synced)

    # Metadata

    def server(self, exchange: Caller) -> None:
        """Describes the server."""
        _json(
            exchange, {"name": self._server_name, "version": __version__, "extensions": EXTENSIONS}
        )

    def live(self, exchange: Caller) -> None:
        """Says that the process answers."""
        _json(exchange, {"live": True})

    def ready(self, exchange: Caller) -> None:
        """Says whether an assignment is live."""
        if self._processor.revision == 0:
            raise NotReady("nothing is live yet", remedy="Wait, or deploy a model.")
        _json(exchange, {"live": True, "ready": True})

    def models(self, exchange: Exchange) -> None:
        """Lists the applications that the client's key is for."""
        names, principal = sorted(self._processor.applications), exchange.principal
        if principal is not None:
            names = [name for name in names if principal.denial("query", name) is None]
        _json(exchange, {"models": names})

    def model(self, exchange: Caller, name: str, version: int | None) -> None:
        """Describes an application as a v2 model."""
        application = self._processor.application(name)
        if version is not None:
            application.live_version(version)
        platform = application.versions[0].platform if application.versions else "none"
        _json(
            exchange,
            {
                "name": application.name,
                "versions": [str(each.version) for each in application.versions],
                "platform": f"tidemill_{platform}",
                "inputs": wire.describe(application.signature.inputs),
                "outputs": wire.describe(application.signature.outputs),
            },
        )

    def model_ready(self, exchange: Caller, name: str, version: int | None) -> None:
        """Says whether an application answers."""
        application = self._processor.application(name)
        chosen = application.answering if version is None else [application.live_version(version)]
        replicas = [replica for each in chosen for replica in each.batcher.replicas]
        if not any(replica.alive for replica in replicas):
            raise NotReady(f"model {name!r} has no live replica", remedy="Retry in a moment.")
        _json(exchange, {"name": application.name, "ready": True})

    def metrics(self, exchange: Exchange) -> None:
        """Gives the metrics of all gateways in Prometheus' text format."""

        async def collect() -> None:
            try:
                exchange.answer(await self._collect(), content_type=_METRICS_TYPE)
            except Exception as error:  # noqa: BLE001 - an exchange must end
                exchange.fail(Unavailable(f"the metrics cannot be collected: {error}"))

        task = asyncio.get_running_loop().create_task(collect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def unwritable(version: int, error: Exception) -> ModelFailed:
    """Returns the error of an answer that no protocol could carry."""
    return ModelFailed(
        f"version {version} of the model gave an answer that cannot be sent: {error}",
        remedy="Compare the model's outputs with its signature.",
    )


def _json(exchange: Caller, value: object) -> None:
    exchange.answer(msgspec.json.encode(value))
