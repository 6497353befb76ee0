"""Instruments count cheaply, merge across processes, and render for Prometheus."""

from __future__ import annotations

import json
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidemill.foundation.errors import Conflict, InvalidInput
from tidemill.foundation.instruments import OTHER, Histogram, Instruments, merge, render


def process(answers: int, waiting: int, *seconds: float) -> Instruments:
    """One process's instruments after some work."""
    instruments = Instruments()
    answered = instruments.counter("tidemill_queries", "Queries.", ("application", "source"))
    answered.of("flights", "table").value += answers
    instruments.gauge("tidemill_waiting", "Waiting.").of().value = waiting
    instruments.gauge("tidemill_oldest", "Oldest.", merge="max").of().value = waiting
    times = instruments.histogram("tidemill_seconds", "Times.", bounds=(0.1, 1)).of()
    for value in seconds:
        times.observe(value)
    return instruments


def samples(text: bytes) -> dict[str, float]:
    """What a scraper reads, by name and labels."""
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_processes_add_up() -> None:
    """Counts, levels and distributions of several processes are one scrape."""
    snapshots = [process(3, 1, 0.05, 0.1).snapshot(), process(4, 2, 0.5, 7.0).snapshot()]
    found = samples(render(json.loads(json.dumps(snapshots))))
    assert found["tidemill_queries_total['flights', 'table']"] == 7
    assert found["tidemill_waiting[]"] == 3
    assert found["tidemill_oldest[]"] == 2
    assert found["tidemill_seconds_bucket['0.1']"] == 2
    assert found["tidemill_seconds_bucket['1']"] == 3
    assert found["tidemill_seconds_bucket['+Inf']"] == 4
    assert found["tidemill_seconds_count[]"] == 4
    assert found["tidemill_seconds_sum[]"] == pytest.approx(7.65)


def test_help_and_type_are_told() -> None:
    """Every family says what it is."""
    text = render([process(1, 1).snapshot()]).decode()
    assert "# HELP tidemill_queries_total Queries." in text
    assert "# TYPE tidemill_queries_total counter" in text
    assert "# TYPE tidemill_seconds histogram" in text
    assert "# TYPE tidemill_waiting gauge" in text


def test_merging_in_any_grouping_is_the_same() -> None:
    """Merging merged snapshots gives what merging them at once gives."""
    one, two, three = (process(n, n, n / 8).snapshot() for n in (1, 2, 3))
    assert (
        merge([merge([one, two]), three])
        == merge([one, two, three])
        == merge([merge([one]), merge([two, three])])
    )
    assert merge([]) == {}
    assert render([]) == b""


def test_a_handle_is_always_the_same() -> None:
    """Asking again, for a family or a handle, gives the one that counts already."""
    instruments = Instruments()
    handle = instruments.counter("c", "help", ("a",)).of("x")
    assert instruments.counter("c", "help", ("a",)).of("x") is handle


def test_a_name_means_one_thing() -> None:
    """A name cannot be taken twice for different things, here or in another process."""
    instruments = Instruments()
    instruments.counter("c", "help")
    with pytest.raises(Conflict, match="'c' exists"):
        instruments.gauge("c", "help")
    other = Instruments()
    other.gauge("c", "help")
    with pytest.raises(Conflict, match="disagree"):
        merge([instruments.snapshot(), other.snapshot()])


def test_labels_are_bounded() -> None:
    """Over its limit a family counts under '(other)': memory is bounded and no count is lost."""
    family = Instruments().counter("c", "help", ("key",), limit=2)
    for key in "abcdc":
        family.of(key).value += 1
    assert family.rows() == [[["a"], 1], [["b"], 1], [[OTHER], 3]]


def test_many_equal_observations_are_one_addition() -> None:
    """A batch tells what all its queries took at once; the sum is exact."""
    histogram = Histogram((1.0, 2.0))
    histogram.observe_many(1.5, 64)
    assert (histogram.counts, histogram.total) == ([0, 64, 0], 96.0)


def test_several_waits_are_each_counted() -> None:
    """At once or one after the other: those of one turn, and those of a long one."""
    one, all_ = Histogram((0.1, 1.0)), Histogram((0.1, 1.0))
    for moments in ((9.95, 9.9, 9.5, 3.0), (9.8, 9.1, 9.7), (3.0,), (9.5, 9.5)):
        for moment in moments:
            one.observe(10.0 - moment)
        assert all_.observe_since(moments, 10.0) == min(moments)
    assert all_.counts == one.counts == [2, 6, 2]
    assert all_.total == pytest.approx(one.total)


def test_what_is_gone_can_be_forgotten() -> None:
    """Labels that mean nothing any more are dropped, in every family that has them all."""
    instruments = Instruments()
    per_version = instruments.counter("c", "help", ("application", "version"))
    for version in "123":
        per_version.of("a", version).value += 1
    per_version.of("b", "1").value += 1
    instruments.counter("d", "help", ("application",)).of("a").value += 1
    instruments.forget(application="a", version="1")
    assert [values for values, _ in per_version.rows()] == [["a", "2"], ["a", "3"], ["b", "1"]]
    assert instruments.snapshot()["d"]["rows"] == [[["a"], 1]]
    per_version.clear()
    assert per_version.rows() == []


def test_wrong_labels_and_bounds_are_refused() -> None:
    """A handle needs a value for every label; bounds must rise."""
    instruments = Instruments()
    with pytest.raises(InvalidInput, match="2 label values"):
        instruments.counter("c", "help", ("a",)).of("x", "y")
    with pytest.raises(InvalidInput, match="do not rise"):
        instruments.histogram("h", "help", bounds=(1, 1))


def test_a_value_on_a_bound_is_under_it() -> None:
    """Buckets are 'at most', as Prometheus reads them."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]


def test_an_update_is_one_addition() -> None:
    """A hundred thousand updates take well under what one request may cost each (1 µs)."""
    counter = Instruments().counter("c", "help").of()
    start = time.perf_counter()
    for _ in range(100_000):
        counter.value += 1
    assert time.perf_counter() - start < 0.1
    assert counter.value == 100_000
