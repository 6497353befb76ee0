"""The replicas of one version, and the batches that they have."""

from __future__ import annotations

from collections.abc import Sequence

from tidemill.serving.batching import ServiceTime, overdue_s, remaining_s, worth_sending
from tidemill.serving.flight import Flight
from tidemill.serving.replicas.replica import Replica


class Crew:
    """Who can take a batch, and when.

    ``out`` are the batches that are with replicas. ``usual_out`` is how many of these each replica
    has in the usual state of a queue, at most: one in the model, and for one in another process the
    next.
    """

    __slots__ = ("_doubted", "_freed_at", "on_loop", "out", "replicas", "usual_out")

    def __init__(self) -> None:
        self.replicas: tuple[Replica, ...] = ()
        self.out: list[Flight] = []
        self.on_loop = False
        self.usual_out = 1
        self._freed_at: dict[int, float] = {}
        self._doubted: set[int] = set()  # replicas with a batch that is overdue

    def change(self, replicas: Sequence[Replica]) -> None:
        """Changes who takes batches; what is out stays where it is."""
        self.replicas = tuple(replicas)
        self.on_loop = any(replica.on_loop for replica in replicas)
        self.usual_out = 1 if self.on_loop else 2
        self._freed_at.clear()
        self._doubted &= {id(replica) for replica in replicas}

    @property
    def trusted(self) -> int:
        """How many replicas have no batch that is overdue."""
        return len(self.replicas) - len(self._doubted)

    @property
    def usual(self) -> bool:
        """Says whether no more is out than usual."""
        return len(self.out) <= self.usual_out * len(self.replicas)

    def free(self, queued_rows: int, fewest: int) -> Replica | None:
        """Returns the replica that should get a batch of what waits now, if one should."""
        best: Replica | None = None
        for replica in self.replicas:
            out = replica.in_flight
            if (
                replica.alive
                and id(replica) not in self._doubted
                and out < replica.capacity
                and (best is None or out < best.in_flight)
                and worth_sending(queued_rows, out, fewest)
            ):
                best = replica
        return best

    def landed(self, flight: Flight) -> None:
        """Takes a batch that is out no more."""
        self.out.remove(flight)
        self._doubted.discard(id(flight.replica))

    def freed(self, replica: Replica, now: float) -> None:
        """Notes that a replica has computed a batch."""
        self._freed_at[id(replica)] = now

    def since(self, flight: Flight) -> float:
        """Returns since when the replica of a batch can have been at it."""
        return max(flight.started, self._freed_at.get(id(flight.replica), 0.0))

    def busy_s(self, law: ServiceTime, now: float) -> float:
        """Returns how long what is out keeps the replicas still, all of them together."""
        return sum([self._busy_s(each, law, now) for each in self.replicas])

    def begins_at(self, replica: Replica, law: ServiceTime, now: float) -> float:
        """Returns when a replica can begin with one more batch."""
        return now + self._busy_s(replica, law, now)

    def _busy_s(self, replica: Replica, law: ServiceTime, now: float) -> float:
        busy_s, first = 0.0, True
        for flight in self.out:
            if flight.replica is replica:
                out_s = now - self.since(flight) if first else 0.0
                busy_s, first = busy_s + remaining_s(law, flight.rows, out_s), False
        return busy_s

    def oldest(self) -> list[Flight]:
        """Returns the batch that each replica has had for longest, where another could help."""
        if self.on_loop or len(self.replicas) < 2:
            return []
        oldest = {id(flight.replica): flight for flight in reversed(self.out)}
        return [flight for flight in oldest.values() if not flight.overdue]

    def overdue_at(self, flight: Flight, law: ServiceTime) -> float:
        """Returns from when on a batch has been out for too long."""
        return self.since(flight) + overdue_s(law, flight.rows)

    def doubt(self, flight: Flight) -> list[Flight]:
        """Doubts the replica of a batch, if there is another one; returns all batches that it has.

        It gets no more until that has come back.
        """
        flight.overdue, replica = True, flight.replica
        others = [each for each in self.replicas if each is not replica]
        if not any(each.alive and id(each) not in self._doubted for each in others):
            return []
        self._doubted.add(id(replica))
        return [each for each in self.out if each.replica is replica]
