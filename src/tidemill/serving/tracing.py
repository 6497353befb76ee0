"""Traces of queries by OTLP, from the edge to the replica; nothing is imported unless they are on.

A trace is made when its query has ended, from the times that were noted on its way, so that a query
that nobody traces costs a comparison. Whether it is traced is the client's decision, if its
``traceparent`` says so, else a matter of chance.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from tidemill import __version__
from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import InvalidSettings, Unavailable
from tidemill.foundation.instruments import Counter, Instruments
from tidemill.foundation.settings import ServeSettings
from tidemill.serving.measures import outcome_of
from tidemill.serving.query import Query

MAX_WAITING = 4096
"""Spans that may wait to be sent; queries beyond are not traced, and counted."""

_SPANS = 3
_EXPORT_TIMEOUT_S = 5.0
_EXPORT_EVERY_MS = 1000
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The span of the client that a query belongs to, and whether it is recorded there."""

    trace_id: int
    span_id: int
    sampled: bool


def read_traceparent(value: bytes) -> Parent | None:
    """Returns what a W3C ``traceparent`` says; None for none, or one that is to be ignored.

    Example:
        >>> read_traceparent(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").sampled
        True
    """
    found = _TRACEPARENT.fullmatch(value)
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    if not trace_id or not span_id:
        return None
    return Parent(trace_id=trace_id, span_id=span_id, sampled=bool(int(found[4], 16) & 1))


def is_traced(parent: Parent | None, *, ratio: float, draw: float) -> bool:
    """Decides whether a query is traced: as its parent is, else by chance (0 <= draw < 1)."""
    return draw < ratio if parent is None else parent.sampled


def check_tracing(settings: ServeSettings) -> None:
    """Does nothing where traces are off, or can be sent.

    Raises:
        InvalidSettings: the endpoint is no URL, or holds a password.
        Unavailable: the extra ``otel`` is not installed.
    """
    if settings.otlp_endpoint is None:
        return
    parts = urlsplit(settings.otlp_endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise InvalidSettings(
            "serve.otlp_endpoint is no http or https URL without user and password",
            remedy="Give one such as http://127.0.0.1:4318.",
        )
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.exporter") is None:
        raise Unavailable(
            "traces cannot be sent: OpenTelemetry is not installed",
            remedy="Install the extra: pip install 'tidemill[otel]'.",
        )


class Tracing:
    """Makes the spans of queries that ended, and has a thread send them.

    Args:
        settings: where to, and what part of the queries.
        instruments: count spans that were sent, lost and never made.
        clock: tells the time of day.
        process: the name of this process.
    """

    every = True

    def __init__(
        self, settings: ServeSettings, instruments: Instruments, clock: Clock, process: str
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._process = process
        spans = instruments.counter(
            "tidemill_spans", "Spans of traces, by what became of them.", ("result",)
        )
        self._exporter = _Counted(spans.of("sent"), spans.of("lost"))
        self._dropped = spans.of("dropped")
        self._made = 0
        self._draw: Callable[[], float] = random.Random().random  # noqa: S311 - samples traces
        self._provider: Any = None
        self._tracer: Any = None
        self._api: Any = None

    def start(self) -> None:
        """Imports what is needed, and starts the thread that sends."""
        self._api = import_module("opentelemetry.trace")
        sdk: Any = import_module("opentelemetry.sdk.trace")
        export: Any = import_module("opentelemetry.sdk.trace.export")
        resources: Any = import_module("opentelemetry.sdk.resources")
        otlp: Any = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        self._exporter.inner = otlp.OTLPSpanExporter(
            endpoint=_traces_url(self._settings.otlp_endpoint or ""), timeout=_EXPORT_TIMEOUT_S
        )
        resource = {
            "service.name": "tidemill",
            "service.version": __version__,
            "service.instance.id": self._process,
        }
        self._provider = sdk.TracerProvider(
            resource=resources.Resource(resource), shutdown_on_exit=False
        )
        self._provider.add_span_processor(
            export.BatchSpanProcessor(
                self._exporter,
                max_queue_size=MAX_WAITING + _SPANS,
                schedule_delay_millis=_EXPORT_EVERY_MS,
                max_export_batch_size=min(512, MAX_WAITING),
            )
        )
        self._tracer = self._provider.get_tracer("tidemill.serving", __version__)

    def wants(self, _now: float) -> bool:
        """Says yes: whether a query is traced is seen when it has ended."""
        return True

    def ended(self, query: Query, now: float) -> None:
        """Makes the query's spans, if it is traced and there is room."""
        parent = read_traceparent(getattr(query.context, "traceparent", b""))
        if not is_traced(parent, ratio=self._settings.otlp_ratio, draw=self._draw()):
            return
        if self._made - self._exporter.done > MAX_WAITING:
            self._dropped.value += 1 if query.notes is None else _SPANS
            return
        epoch = self._clock.now() - now
        span = self._span(
            f"infer {query.state.name}",
            _attributes(query),
            self._context(parent),
            (epoch + query.arrived, epoch + now),
            self._api.SpanKind.SERVER,
        )
        if query.error is not None:
            span.set_status(self._api.StatusCode.ERROR, type(query.error).__name__)
        context = self._api.set_span_in_context(span, _empty_context())
        notes = query.notes
        sent = now if notes is None else notes.sent
        if notes is not None or (query.error is not None and not query.refused):
            self._part("queue", {}, context, (epoch + query.arrived, epoch + sent))
        if notes is not None:
            about = {
                "tidemill.replica": notes.replica,
                "tidemill.batch": notes.batch,
                "tidemill.batch_rows": notes.rows,
            }
            self._part("compute", about, context, (epoch + sent, epoch + (notes.returned or now)))
        span.end(end_time=_ns(epoch + now))

    async def aclose(self, within_s: float) -> None:
        """Sends what waits, for at most so long."""
        if self._provider is None:
            return
        sender = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sender.start()
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while sender.is_alive() and loop.time() < until:  # noqa: ASYNC110 - bounded
            await asyncio.sleep(0.01)

    def _context(self, parent: Parent | None) -> Any:
        context = _empty_context()
        if parent is None:
            return context
        span_context = self._api.SpanContext(
            parent.trace_id, parent.span_id, is_remote=True, trace_flags=self._api.TraceFlags(1)
        )
        return self._api.set_span_in_context(self._api.NonRecordingSpan(span_context), context)

    def _part(
        self, name: str, about: dict[str, Any], context: Any, times: tuple[float, float]
    ) -> None:
        span = self._span(name, about, context, times, self._api.SpanKind.INTERNAL)
        span.end(end_time=_ns(times[1]))

    def _span(
        self,
        name: str,
        about: dict[str, Any],
        context: Any,
        times: tuple[float, float],
        kind: Any,
    ) -> Any:
        self._made += 1
        return self._tracer.start_span(
            name, context=context, kind=kind, attributes=about, start_time=_ns(times[0])
        )


class _Counted:
    """An exporter that counts what became of the spans; called by the sending thread alone."""

    def __init__(self, sent: Counter, lost: Counter) -> None:
        self._sent = sent
        self._lost = lost
        self.inner: Any = None
        self.done = 0

    def export(self, spans: Sequence[Any]) -> Any:
        """Sends spans; says whether the far side took them."""
        took = False
        try:
            result = self.inner.export(spans)
            took = result.value == 0
            return result
        finally:
            (self._sent if took else self._lost).value += len(spans)
            self.done += len(spans)

    def shutdown(self) -> None:
        """Closes the connection."""
        self.inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Has nothing to flush: the exporter keeps no spans."""
        return bool(self.inner.force_flush(timeout_millis))


def _attributes(query: Query) -> dict[str, Any]:
    said: dict[str, Any] = {
        "tidemill.prediction_id": query.request_id,
        "tidemill.application": query.state.name,
        "tidemill.version": query.version,
        "tidemill.rows": query.n,
    }
    if query.error is None:
        said["tidemill.source"] = query.source if query.row_sources is None else "mixed"
    else:
        said["error.type"] = type(query.error).__name__
        said["tidemill.slo"] = outcome_of(query.error, refused=query.refused)
    return said


def _traces_url(endpoint: str) -> str:
    """Returns where spans go: a base URL gets the path that every collector serves."""
    if urlsplit(endpoint).path.strip("/"):
        return endpoint
    return endpoint.rstrip("/") + "/v1/traces"


def _empty_context() -> Any:
    context: Any = import_module("opentelemetry.context")
    return context.Context()


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
