"""What a running server does between two looks at its metrics: plain records for people."""

from __future__ import annotations

import http.client
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tidemill.foundation.errors import Unavailable

_WITHIN_S = 5.0
_MAX_BYTES = 32 << 20


class ApplicationRow(msgspec.Struct, frozen=True, kw_only=True):
    """One version of an application, between two looks; None where nothing happened.

    ``sources`` has the share of each source among the rows answered; ``attained`` the share of
    queries whose promise was kept, among those that were not wrong themselves.
    """

    application: str
    version: str
    queries_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    attained: float | None
    failed_per_s: float
    sources: dict[str, float]
    queue_ms: float | None
    compute_ms: float | None
    batch_rows: float | None
    queue_rows: int | None
    batches_out: int | None
    replicas_alive: int | None


class ProcessRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a process uses: ``cpu`` in cores."""

    process: str
    cpu: float
    memory_bytes: int


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """A server between two looks."""

    port: int | None
    revision: int | None
    seconds: float
    applications: tuple[ApplicationRow, ...]
    processes: tuple[ProcessRow, ...]
    restarts: int
    refused: tuple[str, ...]


Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Every sample of one scrape, and what the supervisor said, at a moment."""

    at: float
    samples: Mapping[tuple[str, Labels], float]
    health: Mapping[str, Any]

    def of(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """Yields the samples of a name that have these labels."""
        for (sample, held), value in self.samples.items():
            if sample == name and labels.items() <= dict(held).items():
                yield dict(held), value

    def sum(self, name: str, **labels: str) -> float:
        """Returns the sum of the samples of a name that have these labels."""
        return sum(value for _, value in self.of(name, **labels))


def look(port: int, at: float) -> Look:
    """Asks the server whose admin API is at this port of this machine.

    Raises:
        Unavailable: no server answers there, or something else does.
    """
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415

    try:
        health = msgspec.json.decode(_get(port, "/admin/v1/health"), type=dict[str, Any])
        families = list(text_string_to_metric_families(_get(port, "/metrics").decode()))
    except (msgspec.MsgspecError, ValueError) as error:
        raise Unavailable(
            f"what answers at 127.0.0.1:{port} is not Tidemill's admin API",
            remedy="Say its port with --admin-port.",
        ) from error
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }
    return Look(at=at, samples=samples, health=health)


def _get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_WITHIN_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(_MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"no server answers at 127.0.0.1:{port}",
            remedy="Start one with tidemill serve, or say its port with --admin-port.",
        ) from error
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise Unavailable(
            f"127.0.0.1:{port} answers {path} with status {answer.status}",
            remedy="Say the port of Tidemill's admin API with --admin-port.",
        )
    return body


def overview(before: Look, after: Look) -> Overview:
    """Returns what happened between two looks, and how things are at the second."""
    seconds = max(after.at - before.at, 1e-9)
    grown = _growth(before, after)
    keys = {
        (labels["application"], labels["version"])
        for name in ("tidemill_queue_rows", "tidemill_queries_total")
        for labels, value in after.of(name)
        if value or name == "tidemill_queue_rows"
    }
    live = [_row(grown, after, key, seconds) for key in sorted(keys, key=_by_number)]
    return Overview(
        port=after.health.get("port"),
        revision=after.health.get("revision_live"),
        seconds=seconds,
        applications=tuple(row for row in live if row.queue_rows is not None or row.queries_per_s),
        processes=tuple(
            ProcessRow(
                process=labels["process"],
                cpu=grown.sum("tidemill_process_cpu_seconds_total", **labels) / seconds,
                memory_bytes=int(value),
            )
            for labels, value in after.of("tidemill_process_resident_memory_bytes")
        ),
        restarts=int(after.sum("tidemill_process_restarts_total")),
        refused=tuple(
            f"{each['application']}: {each['reason']}" for each in after.health.get("refused", ())
        ),
    )


def _by_number(key: tuple[str, str]) -> tuple[str, int, str]:
    application, version = key
    return application, int(version) if version.isdigit() else -1, version


def _growth(before: Look, after: Look) -> Look:
    """Returns by how much each counter grew; one that began again counts from nothing."""
    grown = {}
    for key, value in after.samples.items():
        was = before.samples.get(key, 0.0)
        grown[key] = value - was if value >= was else value
    return Look(at=after.at, samples=grown, health={})


def _row(grown: Look, after: Look, key: tuple[str, str], seconds: float) -> ApplicationRow:
    of = {"application": key[0], "version": key[1]}
    ends: defaultdict[str, float] = defaultdict(float)
    for labels, count in grown.of("tidemill_queries_total", **of):
        ends[labels["slo"]] += count
    promised = sum(count for slo, count in ends.items() if slo != "failed")
    rows = {
        labels["source"]: count
        for labels, count in grown.of("tidemill_answers_total", **of)
        if count
    }
    p50_s, p99_s = (quantile(grown, "tidemill_query_seconds", q, **of) for q in (0.5, 0.99))
    return ApplicationRow(
        application=key[0],
        version=key[1],
        queries_per_s=grown.sum("tidemill_query_seconds_count", **of) / seconds,
        p50_ms=_ms(p50_s),
        p99_ms=_ms(p99_s),
        attained=ends["met"] / promised if promised else None,
        failed_per_s=grown.sum("tidemill_errors_total", **of) / seconds,
        sources={source: count / sum(rows.values()) for source, count in rows.items()},
        queue_ms=_ms(_mean(grown, "tidemill_stage_seconds", stage="queue", **of)),
        compute_ms=_ms(_mean(grown, "tidemill_stage_seconds", stage="compute", **of)),
        batch_rows=_mean(grown, "tidemill_batch_rows", **of),
        queue_rows=_level(after, "tidemill_queue_rows", of),
        batches_out=_level(after, "tidemill_batches_in_flight", of),
        replicas_alive=_level(after, "tidemill_replicas_alive", of),
    )


def quantile(grown: Look, name: str, q: float, **labels: str) -> float | None:
    """Returns a quantile of a histogram's growth, linear within its bucket; None if it is empty.

    What lies above the last bound counts as being on it.
    """
    buckets = sorted(
        (float(held["le"]), count) for held, count in grown.of(f"{name}_bucket", **labels)
    )
    if not buckets or buckets[-1][1] <= 0:
        return None
    rank = q * buckets[-1][1]
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if bound == float("inf"):
                return low
            return low + (bound - low) * ((rank - below) / (count - below) if count > below else 1)
        low, below = bound, count
    return low


def _mean(grown: Look, name: str, **labels: str) -> float | None:
    count = grown.sum(f"{name}_count", **labels)
    return grown.sum(f"{name}_sum", **labels) / count if count else None


def _level(after: Look, name: str, labels: dict[str, str]) -> int | None:
    found = [value for _, value in after.of(name, **labels)]
    return int(sum(found)) if found else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000.0
