"""Instruments: counts, levels and distributions that cost one addition to update.

The caller takes a handle once per set of labels and adds to it where the work is done; no lock,
no lookup, no allocation. Processes give snapshots; snapshots merge; a scrape renders them.

    answered = instruments.counter("tidemill_queries", "Queries answered", ("application",))
    flights = answered.of("flights")
    flights.value += 1
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from tidemill.foundation.errors import Conflict, InvalidInput

Snapshot = dict[str, dict[str, Any]]
"""Families by name: kind, help, labels and rows of ``[label values, state]``; JSON-able."""

LATENCY_BUCKETS_S: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
"""Upper bounds for times from a tenth of a millisecond to ten seconds."""

Number: TypeAlias = int | float
"""A count stays whole, compiled or not."""

OTHER: Final = "(other)"
"""The label values of everything over a family's limit."""


class Counter:
    """A number that only grows: ``counter.value += 1``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Number = 0

    def state(self) -> Any:
        """Returns the number."""
        return self.value


class Gauge:
    """A level that goes up and down: ``gauge.value = 3``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Number = 0

    def state(self) -> Any:
        """Returns the level."""
        return self.value


class Histogram:
    """How many observations fell under each of some fixed bounds, and their sum.

    Example:
        >>> times = Histogram((0.1, 1.0))
        >>> times.observe(0.25)
        >>> times.counts, times.total
        ([0, 1, 0], 0.25)
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one observation; a value equal to a bound is under it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_many(self, value: float, times: int) -> None:
        """Counts the same observation so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def observe_since(self, moments: Sequence[float], now: float) -> float:
        """Counts how long before now each of some moments was; returns the earliest of them."""
        counts, bounds = self.counts, self.bounds
        earliest = latest = moments[0]
        total = 0.0
        for moment in moments:
            total += now - moment
            if moment < earliest:
                earliest = moment
            elif moment > latest:
                latest = moment
        self.total += total
        longest = bisect_left(bounds, now - earliest)
        if longest == bisect_left(bounds, now - latest):  # as mostly of what came in one turn
            counts[longest] += len(moments)
        else:
            for moment in moments:
                counts[bisect_left(bounds, now - moment)] += 1
        return earliest

    def state(self) -> Any:
        """Returns the counts (not cumulative, the last one above every bound) and the sum."""
        return [list(self.counts), self.total]


_T = TypeVar("_T", Counter, Gauge, Histogram)
_Merge = Literal["sum", "max", "min"]


class Family(Generic[_T]):
    """All the handles of one name, by their label values."""

    def __init__(self, fixed: dict[str, Any], make: Callable[[], _T], limit: int) -> None:
        self.fixed = fixed
        self._make: Callable[[], _T] = make
        self._limit = limit
        self._handles: dict[tuple[str, ...], _T] = {}

    def of(self, *values: str) -> _T:
        """Returns the handle of these label values, always the same one.

        Beyond the family's limit every new set shares one handle, labelled ``(other)``.

        Raises:
            InvalidInput: there are more or fewer values than labels.
        """
        labels = self.fixed["labels"]
        if len(values) != len(labels):
            raise InvalidInput(
                f"{len(values)} label values were given to a metric with labels {labels}",
                remedy="Give one value for each label, in order.",
            )
        handle = self._handles.get(values)
        if handle is None:
            if len(self._handles) >= self._limit:
                values = (OTHER,) * len(labels)
            handle = self._handles.setdefault(values, self._make())
        return handle

    def clear(self) -> None:
        """Forgets every handle: levels that are told anew each time start from nothing."""
        self._handles.clear()

    def forget(self, labels: Mapping[str, str]) -> None:
        """Forgets the handles with these values, if the family has all these labels."""
        names = self.fixed["labels"]
        if not labels.keys() <= set(names):
            return
        for values in list(self._handles):
            held = dict(zip(names, values, strict=True))
            if all(held[name] == value for name, value in labels.items()):
                del self._handles[values]

    def rows(self) -> list[list[Any]]:
        """Returns ``[label values, state]`` for each handle."""
        return [[list(values), handle.state()] for values, handle in list(self._handles.items())]


class Instruments:
    """The metrics of one process.

    Example:
        >>> instruments = Instruments()
        >>> lost = instruments.counter("tidemill_lost", "Workers lost").of()
        >>> lost.value += 2
        >>> instruments.snapshot()["tidemill_lost"]["rows"]
        [[[], 2]]
    """

    def __init__(self) -> None:
        self._families: dict[str, Family[Any]] = {}

    def counter(
        self,
        name: str,
        help: str,  # noqa: A002
        labels: Sequence[str] = (),
        *,
        limit: int = 1000,
    ) -> Family[Counter]:
        """Returns the family of a counter; a scrape shows it as ``NAME_total``."""
        return self._family(name, _fixed("counter", help, labels), Counter, limit)

    def gauge(
        self,
        name: str,
        help: str,  # noqa: A002
        labels: Sequence[str] = (),
        *,
        merge: _Merge = "sum",
        limit: int = 1000,
    ) -> Family[Gauge]:
        """Returns the family of a gauge; ``merge`` says what several processes make together."""
        fixed = _fixed("gauge", help, labels) | {"merge": merge}
        return self._family(name, fixed, Gauge, limit)

    def histogram(
        self,
        name: str,
        help: str,  # noqa: A002
        labels: Sequence[str] = (),
        *,
        bounds: Sequence[float] = LATENCY_BUCKETS_S,
        limit: int = 1000,
    ) -> Family[Histogram]:
        """Returns the family of a histogram with fixed, rising upper bounds."""
        if list(bounds) != sorted(set(bounds)) or not bounds:
            raise InvalidInput(f"bounds of histogram {name!r} do not rise: {list(bounds)}")
        fixed = _fixed("histogram", help, labels) | {"bounds": list(bounds)}
        return self._family(name, fixed, lambda: Histogram(bounds), limit)

    def forget(self, **labels: str) -> None:
        """Drops what is kept for these label values in every family that has all these labels.

        Handles of them that are still held go on counting, and are seen no more.
        """
        for family in self._families.values():
            family.forget(labels)

    def snapshot(self) -> Snapshot:
        """Returns what every instrument shows now, as plain JSON-able values."""
        return {
            name: {**family.fixed, "rows": family.rows()}
            for name, family in list(self._families.items())
        }

    def _family(
        self, name: str, fixed: dict[str, Any], make: Callable[[], _T], limit: int
    ) -> Family[_T]:
        family = self._families.setdefault(name, Family(fixed, make, limit))
        if family.fixed != fixed:
            raise Conflict(
                f"metric {name!r} exists with another kind, help, labels or bounds",
                remedy="Give it another name.",
            )
        return family


def _fixed(kind: str, help_: str, labels: Sequence[str]) -> dict[str, Any]:
    return {"kind": kind, "help": help_, "labels": list(labels)}


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Returns one snapshot for several processes: counts add up, gauges as they declared.

    Raises:
        Conflict: two snapshots declare the same name differently.
    """
    families: dict[str, dict[str, Any]] = {}
    rows: dict[str, dict[tuple[str, ...], Any]] = {}
    for snapshot in snapshots:
        for name, family in snapshot.items():
            fixed = {key: value for key, value in family.items() if key != "rows"}
            if families.setdefault(name, fixed) != fixed:
                raise Conflict(f"processes disagree on what metric {name!r} is")
            into = rows.setdefault(name, {})
            for values, state in family["rows"]:
                key = tuple(values)
                into[key] = _merged(fixed, into[key], state) if key in into else state
    return {
        name: {**fixed, "rows": [[list(values), state] for values, state in rows[name].items()]}
        for name, fixed in families.items()
    }


def _merged(fixed: dict[str, Any], one: Any, other: Any) -> Any:
    if fixed["kind"] == "histogram":
        counts = [a + b for a, b in zip(one[0], other[0], strict=True)]
        return [counts, one[1] + other[1]]
    how = fixed.get("merge", "sum")
    return one + other if how == "sum" else {"max": max, "min": min}[how](one, other)


def render(snapshots: Iterable[Snapshot]) -> bytes:
    """Returns the merged snapshots in Prometheus's text format."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

    registry = CollectorRegistry()
    registry.register(_Merged(merge(snapshots)))
    return generate_latest(registry)


class _Merged:
    """Gives a merged snapshot to prometheus_client."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Any]:
        """Yields one metric family for each name."""
        for name, family in sorted(self._snapshot.items()):
            yield _to_prometheus(name, family)


def _to_prometheus(name: str, family: dict[str, Any]) -> Any:
    from prometheus_client import core  # noqa: PLC0415

    kinds: dict[str, Any] = {
        "counter": core.CounterMetricFamily,
        "gauge": core.GaugeMetricFamily,
        "histogram": core.HistogramMetricFamily,
    }
    metric = kinds[family["kind"]](name, family["help"], labels=family["labels"])
    for values, state in family["rows"]:
        if family["kind"] == "histogram":
            metric.add_metric(values, _cumulative(family["bounds"], state[0]), sum_value=state[1])
        else:
            metric.add_metric(values, state)
    return metric


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    so_far = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=True):
        so_far += count
        buckets.append((bound, so_far))
    return buckets
