"""What the demo came to, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from tidemill.recipes.demo.client import Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The whole story: its numbers, what each command said, what the clients saw."""

    summary: Summary
    facts: dict[str, Any]
    replayed: Count
    load: list[Count]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The demo's result; times are seconds or milliseconds as their names say."""

    rows_received: int
    rows_accepted: int
    rows_quarantined: int
    rows_duplicate: int
    rows_late: int
    snapshot: str
    snapshots: tuple[str, ...]
    versions: tuple[int, ...]
    offline_auc: float
    served_auc: float
    served_auc_by_sql: float
    served_loss: float
    offline_loss: float
    answers: dict[str, int]
    labels: int
    label_coverage: float
    label_delay_p50_s: float
    failed_requests: int
    failures: tuple[str, ...]
    requests: int
    p50_ms: float
    p99_ms: float
    compiled_equal: bool
    table_keys: int
    planned: str
    planned_keys: int
    swapped_in_s: float
    requests_during_swap: int
    rolled_back_to: int
    rolled_back_table: str | None
    took_s: float
    folder: str = ""
    report: str = ""

    def to_json(self) -> bytes:
        """Returns the summary as JSON for people and machines."""
        return msgspec.json.format(msgspec.json.encode(self)) + b"\n"


def summarise(facts: dict[str, Any], replayed: Count, load: list[Count]) -> Summary:
    """Brings what happened together."""
    ingests = [facts["january"], facts["february"]]
    trained = facts["made"]["trained"]
    candidate = trained["verdict"]["candidate"]["metrics"]
    overall = facts["score"]["report"]["overall"]
    counts = [replayed, *load]
    answers: Counter[str] = Counter()
    for count in counts:
        answers.update(count.sources)
    failures = [failure for count in counts for failure in count.failures]
    p50, p99 = (float(np.quantile(replayed.times_s, q)) * 1000 for q in (0.5, 0.99))

    def total(name: str) -> int:
        return sum(int(each[name]) for each in ingests)

    return Summary(
        rows_received=total("received"),
        rows_accepted=total("accepted"),
        rows_quarantined=total("quarantined"),
        rows_duplicate=total("duplicate"),
        rows_late=total("late"),
        snapshot=facts["january"]["snapshot"],
        snapshots=tuple(each["snapshot"] for each in ingests),
        versions=(trained["version"], facts["second_version"]),
        offline_auc=candidate["auc"],
        served_auc=overall["auc"],
        served_auc_by_sql=facts["sql_auc"],
        served_loss=overall["loss"],
        offline_loss=candidate["log_loss"],
        answers=dict(answers),
        labels=sum(count.labels for count in counts),
        label_coverage=overall["coverage"],
        label_delay_p50_s=overall["label_delay_s"]["p50"],
        failed_requests=len(failures),
        failures=tuple(failures[:20]),
        requests=answers.total() + len(failures),
        p50_ms=p50,
        p99_ms=p99,
        compiled_equal=trained["compiled"]["equal"],
        table_keys=facts["made"]["table"]["rows"],
        planned=facts["plan"]["choice"],
        planned_keys=facts["plan"]["head_keys"],
        swapped_in_s=facts["swapped_in_s"],
        requests_during_swap=sum(count.answers for count in load),
        rolled_back_to=facts["rolled_back"]["version"],
        rolled_back_table=facts["rolled_back"]["table"],
        took_s=facts["finished_at"] - facts["began_at"],
    )
