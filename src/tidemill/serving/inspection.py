"""What a gateway knows of live versions, for people: queue, law, cache and replicas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tidemill.serving.version import LiveVersion


def inspect_versions(versions: Iterable[LiveVersion]) -> list[dict[str, Any]]:
    """Returns the present state of versions; what was learned is None until a batch came back."""
    return [_version(each) for each in versions]


def _version(version: LiveVersion) -> dict[str, Any]:
    batcher = version.batcher
    law = batcher.law
    learned = {
        "fixed_ms": law.a_s * 1000,
        "per_row_ms": law.b_s * 1000,
        "spread_ms": law.spread_s * 1000,
    }
    specs = version.assignment.replicas
    return {
        "model": version.assignment.live.model,
        "version": version.version,
        "runtime": version.platform,
        "queued_rows": batcher.queued_rows,
        "queued_bytes": batcher.queued_bytes,
        "batches_out": batcher.batches_out,
        "service_time": learned if law.weight else None,
        "cached_answers": len(version.cache),
        "cached_bytes": version.cache.size_bytes,
        "table": version.assignment.live.table,
        "table_age_s": version.table_age_s,
        "table_stale": version.stale,
        "table_answers": None if version.lookups is None else version.lookups.answers,
        "placement": specs[0].kind if specs else "worker",
        "replicas": [
            {"name": replica.name, "alive": replica.alive, "in_flight": replica.in_flight}
            for replica in batcher.replicas
        ],
    }
