"""The batching law: pure functions of (queue, deadlines, learned service time, replica state).

Nothing here awaits, reads a clock or keeps state: the batcher acts on what these say, and a
planner can simulate with the very same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil

FORGET = 0.98
"""How much of the past each new batch leaves: about the last fifty batches count."""

SPREADS = 3.0
"""Predictions allow for this many mean absolute deviations."""

SLICE_S = 0.002
"""How long one queue may keep the event loop, before it is another's turn."""

LONGEST_ON_LOOP_S = 0.004
"""How long a batch of more than one query may keep the event loop, if it is computed there."""

PATIENCE = 0.5
"""Under a load that lasts, whoever has waited for so much of the SLO is not served any more."""

BEHIND = 0.125
"""A wait of less than this share of the SLO is no sign of a load that is too much."""

QUIET_S = 0.0005
"""An event loop that did nothing for so long was waiting: what comes then has come just now."""

UNSEEN_FROM_S = 0.001
"""Shorter waits outside every queue are not worth counting."""

OVERDUE_FACTOR = 3.0
OVERDUE_FROM_S = 0.02
"""A batch that is out so many times as long as it should, and at least so long, is overdue."""

DOUBT_FROM_S = 0.1
DOUBT_AT_MOST_S = 1.0
"""A law that refuses queries of an idle replica is tried again after so long."""

_KNOWN_FROM = 5.0
"""Batches that must have come back before a law says what is unusual."""

HELD_FROM_S = 0.001
"""Only for a batch whose fixed part takes so long may it pay to wait for more rows."""

TELLING_SHARE = 0.25
"""Of the time that a query has, at most so much is kept for telling its client."""

_HELD_SHARE = 0.25
"""Of that fixed part, how much a batch may be held back at most."""

HANDED_S = 0.0001
"""What it costs to hand one more batch to a replica in another process, and to take it back."""

_AHEAD_SHARE = 0.5
"""Of the time that its rows take, the fixed part of a batch that is sent ahead may be so much."""

_FIXED_SHARE = 0.2
"""Of a batch that is kept short for others' sake, at most this may be the fixed part."""


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """The learned time of a batch of n rows, a + b·n seconds, with its spread.

    Kept as exponentially forgotten least-squares sums, so that an old regime fades; an observation
    far beyond the prediction is clipped, so that one stall does not become the law.
    """

    a_s: float = 0.0
    b_s: float = 0.0
    spread_s: float = 0.0
    weight: float = 0.0
    sum_n: float = 0.0
    sum_nn: float = 0.0
    sum_t: float = 0.0
    sum_nt: float = 0.0

    def expect(self, n: int) -> float:
        """Returns the seconds that a batch of n rows takes on average."""
        return self.a_s + self.b_s * n

    def predict(self, n: int) -> float:
        """Returns the seconds within which a batch of n rows is expected, spread included."""
        return self.a_s + self.b_s * n + SPREADS * self.spread_s

    def update(self, n: int, seconds: float) -> ServiceTime:
        """Returns the law after one more batch of n rows took so many seconds."""
        expected = self.a_s + self.b_s * n
        if self.weight > 5.0:
            seconds = min(seconds, expected + 8.0 * max(self.spread_s, 0.25 * expected))
        weight = self.weight * FORGET + 1.0
        sum_n = self.sum_n * FORGET + n
        sum_nn = self.sum_nn * FORGET + n * n
        sum_t = self.sum_t * FORGET + seconds
        sum_nt = self.sum_nt * FORGET + n * seconds
        a_s, b_s = _line(weight, sum_n, sum_nn, sum_t, sum_nt)
        deviation = abs(seconds - (a_s + b_s * n))
        spread_s = deviation if self.weight == 0 else 0.95 * self.spread_s + 0.05 * deviation
        return ServiceTime(a_s, b_s, spread_s, weight, sum_n, sum_nn, sum_t, sum_nt)


def _line(w: float, n: float, nn: float, t: float, nt: float) -> tuple[float, float]:
    """Fits t = a + b·n to weighted sums, with a and b never negative."""
    spread = w * nn - n * n
    if spread <= 1e-9 * w * nn:  # one batch size only: nothing tells a from b
        return t / w, 0.0
    b = max(0.0, (w * nt - n * t) / spread)
    a = (t - b * n) / w
    if a < 0.0:
        return 0.0, t / n
    return a, b


@dataclass(frozen=True, slots=True)
class Cut:
    """What to do with the head of a queue: give up on ``late`` queries, then send ``take``."""

    late: int
    take: int


def cut(
    deadlines: Sequence[float],
    rows: Sequence[int],
    *,
    now: float,
    law: ServiceTime,
    max_batch: int,
) -> Cut:
    """Decides the next batch for an idle replica, from the head of the queue in its order.

    Takes as many queries as fit in ``max_batch`` rows and end before the earliest deadline among
    them, with ``SPREADS`` to spare, or with half of the time to spare that the first one would have
    alone, if that is less: a batch of one is no safer, and those behind it would pay for it. A
    query whose deadline has passed, or passes before a batch of its own would end on average, is
    late; and so are those at the head that are given up where not all can be in time (``_best``). A
    single query of more than ``max_batch`` rows goes alone.
    """
    everything = sum(rows)
    if rows and everything <= max_batch and now + law.predict(everything) <= min(deadlines):
        return Cut(0, len(rows))  # the usual case; so would what follows say
    late = 0
    while late < len(deadlines) and now + law.expect(rows[late]) > deadlines[late]:
        late += 1
    if late == len(deadlines):
        return Cut(late, 0)
    ends = [0, *accumulate(rows)]
    first = _fitting(deadlines, ends, late, now=now, law=law, max_batch=max_batch)
    after = late + first
    rest = min(everything - ends[after], max_batch)
    following_s = law.expect(ends[after] - ends[late]) + law.expect(rest)
    if after == len(rows) or now + following_s <= deadlines[after]:
        return Cut(late, first)
    return _best(deadlines, ends, late, now=now, law=law, max_batch=max_batch)


def _fitting(
    deadlines: Sequence[float],
    ends: Sequence[int],
    start: int,
    *,
    now: float,
    law: ServiceTime,
    max_batch: int,
) -> int:
    """Returns how many queries from ``start`` on fit in one batch; ``ends`` sums up their rows."""
    begun, earliest = ends[start], deadlines[start]
    left_s = earliest - now - law.expect(ends[start + 1] - begun)
    spare_s = min(SPREADS * law.spread_s, 0.5 * left_s)
    take = 1
    for at in range(start + 1, len(deadlines)):
        total = ends[at + 1] - begun
        earliest = min(earliest, deadlines[at])  # those before may have gone first by priority
        if total > max_batch or now + law.expect(total) + spare_s > earliest:
            break
        take += 1
    return take


def _best(
    deadlines: Sequence[float],
    ends: Sequence[int],
    late: int,
    *,
    now: float,
    law: ServiceTime,
    max_batch: int,
) -> Cut:
    """Decides for a queue of which not all can be in time: whose turn it is to be given up.

    Whoever serves those first that have hardly any time left serves a few at once, and all that
    wait behind them come too late in their turn. The batch that answers most rows a second is taken
    instead, and those before it are given up, at once.
    """
    best, best_rate = Cut(late, 1), 0.0
    for start in range(late, len(deadlines)):
        if start > late and deadlines[start] < deadlines[start - 1]:
            break  # what follows has a lower priority
        if now + law.expect(ends[start + 1] - ends[start]) > deadlines[start]:
            continue  # even alone it is too late
        most = min(ends[-1] - ends[start], max_batch)
        if _rate(law, most) <= best_rate:
            break  # no batch from here on is better
        take = _fitting(deadlines, ends, start, now=now, law=law, max_batch=max_batch)
        rate = _rate(law, ends[start + take] - ends[start])
        if rate > 1.1 * best_rate:
            best, best_rate = Cut(start, take), rate
    return best


def _rate(law: ServiceTime, rows: int) -> float:
    """Returns how many rows a second batches of so many answer."""
    return rows / max(law.expect(rows), 1e-9)


def answered_at(
    rows: int,
    *,
    now: float,
    queued_rows: int,
    busy_s: float,
    replicas: int,
    law: ServiceTime,
    max_batch: int,
    slowdown: float = 1.0,
) -> float:
    """Returns when a query that arrives now will probably be answered, the usual spread included.

    What is queued ahead goes in full batches over all replicas, after what is out now, which keeps
    them for ``busy_s`` together (see ``remaining_s``). It takes ``slowdown`` times as long as the
    batches alone, since others have their turns between them.
    """
    if law.weight == 0.0:
        return now
    full = law.a_s + law.b_s * max_batch
    ahead = (queued_rows // max_batch) * full + busy_s
    wait = slowdown * ahead / max(1, replicas)
    own = min(rows + queued_rows % max_batch, max_batch)
    # A replica that is idle is tried: who refused then would never learn better.
    return now + wait + law.expect(own) + (law.spread_s if wait > 0.0 else 0.0)


def remaining_s(law: ServiceTime, rows: int, out_s: float) -> float:
    """Returns how long a batch that is out for so long is expected to be out still.

    One that is late is expected to be late by as much again, up to the time that it should take.
    """
    takes_s = law.expect(rows)
    return min(takes_s, abs(takes_s - out_s))


def ample_s(law: ServiceTime, max_batch: int, out: int) -> float:
    """Returns within what time a query is sure to be answered, in the usual state of a queue.

    That is: no more than a batch waits, this query included, and of each replica no more batches
    are out than ``out``.
    """
    if law.weight == 0.0:
        return 0.0
    return out * law.expect(max_batch) + law.predict(max_batch)


def most_rows(law: ServiceTime, max_batch: int) -> int:
    """Returns how many rows a batch may have that keeps the event loop while it is computed.

    So many as take ``LONGEST_ON_LOOP_S``, or more where the fixed part would be a large share of so
    short a batch; never over ``max_batch``, and never none.
    """
    if law.b_s <= 0.0:
        return max_batch
    longest_s = max(LONGEST_ON_LOOP_S, law.a_s / _FIXED_SHARE)
    rows = min(float(max_batch), (longest_s - law.a_s) / law.b_s)
    return max(1, int(rows))


def overdue_s(law: ServiceTime, rows: int) -> float:
    """Returns how long a batch may be with a replica before another one is asked, too.

    Infinitely long while too little is known of how long batches take.
    """
    if law.weight < _KNOWN_FROM:
        return float("inf")
    return max(OVERDUE_FROM_S, OVERDUE_FACTOR * law.predict(rows))


def doubt_after_s(law: ServiceTime) -> float:
    """Returns how long a law may refuse queries without anything having come back since.

    It is ten batches of one query: an idle replica that is tried so seldom loses a tenth of its
    time to those who come too late. It is a second at most, and not much less than a stall lasts.
    """
    return min(DOUBT_AT_MOST_S, max(DOUBT_FROM_S, 10.0 * law.predict(1)))


def unseen_wait_s(*, now: float, read_at: float, worked_until: float, again: bool) -> float:
    """Returns how long what an event loop reads now has waited before it was seen.

    Args:
        now: when this turn's reading begins.
        read_at: when the reading of the turn before began, which left nothing unread.
        worked_until: until when the loop had something to do.
        again: whether the turn before found that requests had waited, too. Then they come as fast
            as they are read, and the next one to be read is the oldest; after a single stall, they
            came at any time in it, half of it ago on average.
    """
    # The kernel itself takes longer to tell of many that are there.
    if now - worked_until > max(QUIET_S, 0.1 * (worked_until - read_at)):
        return 0.0
    wait_s = now - read_at
    if wait_s < UNSEEN_FROM_S:
        return 0.0
    return wait_s if again else 0.5 * wait_s


@dataclass(slots=True)
class Patience:
    """How long after its arrival a request of one application may be about to be answered.

    After a stall, all of the SLO: as many as possible are served. Where requests have waited unseen
    for longer than an SLO without a break, somebody has to be refused. Whoever is served at the
    last moment is easily late, and as many can be served long before that: it is half of the SLO.
    """

    slo_s: float
    behind_since: float = 0.0
    seen_at: float = float("-inf")

    def update(self, now: float, waited_s: float) -> None:
        """Learns how long had waited what is read in a turn that began now."""
        if waited_s < BEHIND * self.slo_s or now - self.seen_at > self.slo_s:
            self.behind_since = now
        self.seen_at = now

    @property
    def left_s(self) -> float:
        """How long it is, as things are."""
        lasts = self.seen_at - self.behind_since > self.slo_s
        return PATIENCE * self.slo_s if lasts else self.slo_s


@dataclass(slots=True)
class Slowdown:
    """How much longer a queue's batches take than they are computed, since others go between.

    It is learned while something always waits, and forgotten as soon as nothing does.
    """

    factor: float = 1.0
    computed_s: float = 0.0
    passed_s: float = 0.0
    pressed: bool = False

    def follow(self, computed_s: float, passed_s: float, *, waits: bool) -> None:
        """Learns of one more batch, and whether something waits now, as it did before or not."""
        if self.pressed:
            self.update(computed_s, passed_s)
        elif self.passed_s:
            self.reset()
        self.pressed = waits

    def update(self, computed_s: float, passed_s: float) -> None:
        """Learns that a batch took so long, and that so long has passed since the one before."""
        self.computed_s = 0.9 * self.computed_s + computed_s
        self.passed_s = 0.9 * self.passed_s + passed_s
        if self.computed_s > 0.0:
            self.factor = max(1.0, self.passed_s / self.computed_s)

    def reset(self) -> None:
        """Forgets: the queue has run empty."""
        self.factor, self.computed_s, self.passed_s = 1.0, 0.0, 0.0


@dataclass(slots=True)
class Telling:
    """How long it takes, once a batch is back, until those in it have been told.

    What it takes to record the answers and to write them counts as much for a client as the time
    of the model. An answer that comes back at the last moment would be told after it.
    """

    mean_s: float = 0.0
    spread_s: float = 0.0

    def update(self, seconds: float) -> None:
        """Learns of one more batch; a stall is no more than a few times what is usual."""
        usual_s = self.mean_s + 8.0 * max(self.spread_s, 0.25 * self.mean_s)
        if self.mean_s > 0.0:
            seconds = min(seconds, usual_s)
            self.spread_s += 0.05 * (abs(seconds - self.mean_s) - self.spread_s)
            self.mean_s += 0.05 * (seconds - self.mean_s)
        else:
            self.mean_s = seconds

    @property
    def most_s(self) -> float:
        """How long it takes at most, as a rule."""
        return self.mean_s + SPREADS * self.spread_s

    def takes_s(self, allowed_s: float) -> float:
        """Returns what of the time that a query has is kept for it."""
        return min(self.most_s, TELLING_SHARE * allowed_s)


@dataclass(slots=True)
class Arrivals:
    """How fast rows have come of late, told of the batches that they went out in."""

    rows: float = 0.0
    passed_s: float = 0.0

    def update(self, rows: int, passed_s: float) -> None:
        """Learns that so many rows went out, so long after the batch before."""
        self.rows = 0.8 * self.rows + rows
        self.passed_s = 0.8 * self.passed_s + passed_s

    @property
    def rate_rps(self) -> float:
        """Rows a second."""
        return self.rows / self.passed_s if self.passed_s > 0.0 else 0.0


def held_until(
    *,
    law: ServiceTime,
    fixed_s: float,
    rate_rps: float,
    queued_rows: int,
    max_batch: int,
    idle_since: float,
    newest: float,
    deadline: float,
) -> float:
    """Returns until when an idle replica lets more rows join those that wait; it may be past.

    Clients that were answered together ask again together, one shortly after the other. Whoever
    sends the first of them alone pays the fixed part of a batch twice. So they are waited for where
    that part is long, rows come fast, and the last one came, or was answered, just now: for a
    quarter of the fixed part at most, and never so long that who waits would be late.

    Args:
        law: the learned time of a batch.
        fixed_s: how much of it the model takes whatever the number of rows.
        rate_rps: rows a second, of late.
        queued_rows: what waits.
        max_batch: what can go together.
        idle_since: when the replica could have begun with the first of them.
        newest: when the last of them arrived.
        deadline: the earliest of theirs.
    """
    window_s = _HELD_SHARE * fixed_s
    if fixed_s < HELD_FROM_S or queued_rows >= max_batch or rate_rps * window_s < 1.0:
        return idle_since
    in_time = deadline - law.predict(max_batch) - window_s
    last = max(newest, idle_since)
    return min(idle_since + window_s, last + 2.0 / rate_rps, in_time)


def fewest_rows(model: ServiceTime, max_batch: int) -> int:
    """Returns how many rows a batch must have to be sent while another one is out, or before it.

    So many that the fixed part of its time, with what it takes to hand it over, is a small share.
    As long as a batch has a long fixed part, or it is not known what a row takes, only full ones.

    Args:
        model: the learned time of the model alone, without what a busy gateway adds.
        max_batch: how many it may have.
    """
    fixed_s, row_s = model.a_s + HANDED_S, _AHEAD_SHARE * model.b_s
    if model.a_s >= HELD_FROM_S or fixed_s >= row_s * max_batch:
        return max_batch
    return ceil(fixed_s / row_s)


def worth_sending(queued_rows: int, batches_out: int, fewest: int) -> bool:
    """Says whether a replica with so many batches out should get another one now.

    An idle one always; a busy one only what ``fewest_rows`` allows: less would grow meanwhile.
    """
    return batches_out == 0 or queued_rows >= fewest


def fills(rows: int, fewest: int, max_batch: int) -> bool:
    """Says whether a batch is as large as to be sent to a busy replica.

    What ``fewest_rows`` asks for cannot always be had of queries of several rows: half of a full
    batch is as good.
    """
    return rows >= min(fewest, (max_batch + 1) // 2)


def rows_at_once(queued_rows: int, batches_out: int, fewest: int, max_batch: int) -> int:
    """Returns how many rows the next batch of a replica in another process may have.

    Of what could go as one batch to an idle replica, half goes first, if both halves may go one
    after the other: while the second is computed, who was in the first is told, and asks again.
    As one batch, replica and gateway would wait for each other in turns.
    """
    if batches_out == 0 and 2 * fewest <= queued_rows <= max_batch:
        return (queued_rows + 1) // 2
    return max_batch
