"""The batching law, pure: learned times, cuts, admission, turns and slices."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.serving.batching import (
    HANDED_S,
    HELD_FROM_S,
    LONGEST_ON_LOOP_S,
    ServiceTime,
    Slowdown,
    answered_at,
    cut,
    fewest_rows,
    fills,
    held_until,
    most_rows,
    remaining_s,
    rows_at_once,
    worth_sending,
)

times = st.floats(min_value=0.0, max_value=10.0, allow_nan=False)


def learned(a_s: float, b_s: float, seed: int = 0, noise: float = 0.0) -> ServiceTime:
    law, rng = ServiceTime(), random.Random(seed)
    for _ in range(200):
        n = rng.randint(1, 64)
        law = law.update(n, a_s + b_s * n + rng.uniform(0, noise))
    return law


@pytest.mark.parametrize(("a_s", "b_s"), [(0.001, 0.0001), (0.02, 0.0), (0.0, 0.002)])
def test_the_law_learns_a_line(a_s: float, b_s: float) -> None:
    """A world that takes a + b·n is learned to within a percent."""
    law = learned(a_s, b_s)
    for n in (1, 10, 64):
        assert law.a_s + law.b_s * n == pytest.approx(a_s + b_s * n, rel=0.01)


def test_the_law_forgets_an_old_regime() -> None:
    """When the world slows down fivefold, predictions follow within 200 batches."""
    law, rng = learned(0.001, 0.0001), random.Random(1)
    for _ in range(200):
        n = rng.randint(1, 64)
        law = law.update(n, 0.005 + 0.0005 * n)
    assert law.a_s + law.b_s * 32 == pytest.approx(0.005 + 0.0005 * 32, rel=0.1)


def test_the_law_survives_an_outlier() -> None:
    """One stall of a second does not become the law."""
    law = learned(0.001, 0.0001, noise=0.0001)
    before = law.a_s + law.b_s * 32
    assert (after := law.update(32, 1.0)).a_s + after.b_s * 32 < 1.5 * before


@given(
    queue=st.lists(st.tuples(times, st.integers(1, 8)), min_size=1, max_size=40),
    now=times,
    a_s=st.floats(0.0, 1.0),
    b_s=st.floats(0.0, 0.5),
    max_batch=st.integers(1, 16),
)
def test_a_cut_is_never_too_big_nor_too_late(
    queue: list[tuple[float, int]], now: float, a_s: float, b_s: float, max_batch: int
) -> None:
    """What is taken is in time; who is given up alone is too late, or would hold up more."""
    queue.sort()
    deadlines, rows = [d for d, _ in queue], [n for _, n in queue]
    law = ServiceTime(a_s=a_s, b_s=b_s, weight=10.0)
    decision = cut(deadlines, rows, now=now, law=law, max_batch=max_batch)
    taken = range(decision.late, decision.late + decision.take)
    total = sum(rows[i] for i in taken)
    for i in range(decision.late):
        if now + law.expect(rows[i]) <= deadlines[i]:
            assert decision.take
            assert rows[i] / law.expect(rows[i]) < total / law.expect(total)
    if decision.take:
        assert total <= max_batch or decision.take == 1
        assert now + law.predict(total) <= deadlines[decision.late]
    else:
        assert decision.late == len(queue)


def test_a_few_that_are_nearly_late_do_not_hold_up_the_many() -> None:
    """Where a batch costs 6 ms and a row nothing, 60 rows go together, and 2 before them never."""
    law = ServiceTime(a_s=0.006, b_s=0.00001, weight=10.0)
    deadlines = [0.00602, 0.00602, *[0.0099] * 60]
    decision = cut(deadlines, [1] * 62, now=0.0, law=law, max_batch=64)
    assert (decision.late, decision.take) == (2, 60)
    relaxed = [0.00602, 0.00602, *[0.02] * 60]
    decision = cut(relaxed, [1] * 62, now=0.0, law=law, max_batch=64)
    assert (decision.late, decision.take) == (0, 2)  # the others can still wait


def test_admission_refuses_what_cannot_be_met() -> None:
    """With full batches of 10 ms ahead, a query with 15 ms is refused and one with 50 ms is not."""
    law = ServiceTime(a_s=0.01, b_s=0.0, weight=10.0)

    def meets(allowed_s: float) -> bool:
        at = answered_at(
            1,
            now=0.0,
            queued_rows=128,
            busy_s=0.01,
            replicas=1,
            law=law,
            max_batch=64,
        )
        return at <= allowed_s

    assert not meets(0.015)
    assert meets(0.05)


def test_a_queue_that_shares_its_loop_waits_longer() -> None:
    """What is ahead takes as much longer as the others' turns take, and admission knows it."""
    law = ServiceTime(a_s=0.01, b_s=0.0, weight=10.0)

    def meets(slowdown: float) -> bool:
        at = answered_at(
            1,
            now=0.0,
            queued_rows=192,
            busy_s=0.0,
            replicas=1,
            law=law,
            max_batch=64,
            slowdown=slowdown,
        )
        return at <= 0.05

    assert meets(1.0)
    assert not meets(2.0)


def test_a_batch_that_is_nearly_back_is_not_counted_in_full() -> None:
    """What is out counts by the time that is left; if it is late, by how late it is."""
    law = ServiceTime(a_s=0.006, b_s=0.001, weight=10.0)
    left = [remaining_s(law, 4, out_s) for out_s in (0.0, 0.009, 0.010, 0.013, 5.0)]
    assert left == pytest.approx([0.010, 0.001, 0.0, 0.003, 0.010])


@given(
    a_s=st.floats(0.0, 0.1),
    b_s=st.floats(0.0, 0.1),
    max_batch=st.integers(1, 1024),
)
def test_a_batch_on_the_loop_is_short_or_mostly_rows(
    a_s: float, b_s: float, max_batch: int
) -> None:
    """It keeps the loop for a few milliseconds, or its fixed part is no more than a fifth."""
    law = ServiceTime(a_s=a_s, b_s=b_s, weight=10.0)
    rows = most_rows(law, max_batch)
    assert 1 <= rows <= max_batch
    if rows > 1 and b_s > 0.0:
        takes_s = a_s + b_s * rows
        assert takes_s <= max(LONGEST_ON_LOOP_S, 5.0 * a_s) * (1.0 + 1e-9)
    if b_s == 0.0:
        assert rows == max_batch


def test_a_slowdown_is_learned_and_forgotten() -> None:
    """Batches of 1 ms that come every 3 ms are slowed down threefold, until nothing waits."""
    slowdown = Slowdown()
    for _ in range(50):
        slowdown.update(0.001, 0.003)
    assert slowdown.factor == pytest.approx(3.0)
    slowdown.reset()
    assert slowdown.factor == 1.0


def test_a_busy_replica_gets_what_need_not_grow() -> None:
    """An idle replica takes what there is; a busy one only rows whose time is mostly their own."""
    assert worth_sending(1, 0, 20)
    assert not worth_sending(19, 1, 20)
    assert worth_sending(20, 1, 20)


@given(a_s=st.floats(0.0, 0.002), b_s=st.floats(0.0, 0.001), max_batch=st.integers(1, 256))
def test_a_batch_that_is_sent_ahead_is_mostly_rows(a_s: float, b_s: float, max_batch: int) -> None:
    """Unless it is full: its fixed part and its handing over take half as long as its rows."""
    fewest = fewest_rows(ServiceTime(a_s=a_s, b_s=b_s, weight=10.0), max_batch)
    assert 1 <= fewest <= max_batch
    if fewest < max_batch:
        assert a_s < HELD_FROM_S
        assert a_s + HANDED_S <= 0.5 * b_s * fewest * (1.0 + 1e-9)
    assert fills(fewest, fewest, max_batch)
    assert not fills(min(fewest, max_batch // 2) - 1, fewest, max_batch)


@given(queued=st.integers(1, 200), out=st.integers(0, 1), fewest=st.integers(1, 64))
def test_what_an_idle_replica_gets_leaves_as_much_to_follow(
    queued: int, out: int, fewest: int
) -> None:
    """Half of it goes first, where both halves may go one after the other; else all that fits."""
    rows = rows_at_once(queued, out, fewest, 64)
    if rows == 64:
        assert out or queued > 64 or queued < max(2 * fewest, 1) or (queued, fewest) == (64, 32)
    else:
        assert out == 0
        assert fewest <= queued - rows <= rows <= queued - rows + 1


TIMES = st.floats(0.0, 1.0)


@given(
    law=st.builds(
        ServiceTime,
        a_s=st.floats(0.0, 0.1),
        b_s=st.floats(0.0, 0.01),
        spread_s=st.floats(0.0, 0.01),
        weight=st.just(10.0),
    ),
    rate_rps=st.floats(0.0, 1e5),
    queued_rows=st.integers(1, 200),
    max_batch=st.integers(1, 100),
    idle_since=TIMES,
    newest=TIMES,
    deadline=TIMES,
)
def test_a_batch_is_held_for_a_moment_and_never_too_long(
    *,
    law: ServiceTime,
    rate_rps: float,
    queued_rows: int,
    max_batch: int,
    idle_since: float,
    newest: float,
    deadline: float,
) -> None:
    """A quarter of the fixed part at most, while rows come; what is held can still be in time."""
    until = held_until(
        law=law,
        fixed_s=law.a_s,
        rate_rps=rate_rps,
        queued_rows=queued_rows,
        max_batch=max_batch,
        idle_since=idle_since,
        newest=newest,
        deadline=deadline,
    )
    assert until <= idle_since + law.a_s / 4.0
    if until > idle_since:
        assert queued_rows < max_batch
        assert rate_rps * law.a_s >= 4.0
        assert until + law.predict(max_batch) <= deadline
