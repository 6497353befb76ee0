"""The demo's client: asks over HTTP as any client would, and keeps count of what comes back."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

import msgspec

from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.recipes.demo.flights import Flight

DATATYPES = {str: "BYTES", int: "INT64"}
LABELS_AT_ONCE = 64


class Count(msgspec.Struct):
    """What came back: answers by source and version, times, failures, labels taken.

    ``moments`` are (seconds on the monotonic clock, version) of each answer.
    """

    sources: dict[str, int] = {}
    versions: dict[int, int] = {}
    times_s: list[float] = []
    moments: list[tuple[float, int]] = []
    failures: list[str] = []
    labels: int = 0

    @property
    def answers(self) -> int:
        """How many queries were answered."""
        return sum(self.sources.values())


class Client:
    """One keep-alive connection to one application.

    Args:
        port: of the server on this machine.
        application: what is asked.
        count: where results are counted.
    """

    def __init__(self, port: int, application: str, count: Count) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._application = application
        self._count = count

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def ask(self, flight: Flight) -> str | None:
        """Asks about one flight; returns the prediction's id, or None if it failed."""
        body = {
            "inputs": [
                {"name": name, "shape": [1], "datatype": DATATYPES[type(value)], "data": [value]}
                for name, value in flight.inputs.items()
            ],
            "parameters": {"event_time": flight.asked_at},
        }
        began = SYSTEM_CLOCK.monotonic()
        said = self._post(f"/v2/models/{self._application}/infer", body)
        if said is None:
            return None
        ended = SYSTEM_CLOCK.monotonic()
        self._count.times_s.append(ended - began)
        parameters = said["parameters"]
        _add(self._count.sources, parameters["source"])
        _add(self._count.versions, parameters["version"])
        self._count.moments.append((ended, parameters["version"]))
        return str(parameters["prediction_id"])

    def tell(self, labels: Sequence[dict[str, Any]]) -> None:
        """Returns labels to the server."""
        said = self._post(f"/v1/models/{self._application}:feedback", list(labels))
        if said is not None:
            self._count.labels += said["accepted"]

    def _post(self, path: str, body: Any) -> Any:
        try:
            self._connection.request(
                "POST", path, json.dumps(body), {"content-type": "application/json"}
            )
            response = self._connection.getresponse()
            said = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self._count.failures.append(f"{type(error).__name__}: {error}")
            return None
        if response.status != 200:
            self._count.failures.append(f"{response.status}: {said[:200].decode(errors='replace')}")
            return None
        return json.loads(said)


def replay(
    port: int,
    application: str,
    flights: Sequence[Flight],
    progress: Callable[[int, int], None],
) -> Count:
    """Asks about flights in the order of their departures; returns each label once it landed.

    Questions and landings are one stream in event order: a label is sent before any flight that
    departs after that landing is asked about.
    """
    count = Count()
    client = Client(port, application, count)
    events = [(flight.asked_at, 0, i) for i, flight in enumerate(flights)]
    events += [(f.landed_at, 1, i) for i, f in enumerate(flights) if f.landed_at is not None]
    ids: dict[int, str] = {}
    waiting: list[dict[str, Any]] = []
    for done, (at, kind, index) in enumerate(sorted(events)):
        flight = flights[index]
        if kind == 0:
            if waiting:
                client.tell(waiting)
                waiting = []
            found = client.ask(flight)
            if found is not None:
                ids[index] = found
        elif index in ids:
            waiting.append(
                {"prediction_id": ids[index], "label": int(bool(flight.late)), "observed_at": at}
            )
            if len(waiting) >= LABELS_AT_ONCE:
                client.tell(waiting)
                waiting = []
        progress(done + 1, len(events))
    if waiting:
        client.tell(waiting)
    client.close()
    return count


class Load:
    """Asks without pause from some threads while the block runs, and keeps count.

    Args:
        port: of the server.
        application: what is asked.
        flights: what is asked about, round and round.
        clients: how many threads.
    """

    def __init__(
        self, port: int, application: str, flights: Sequence[Flight], clients: int
    ) -> None:
        self.counts = [Count() for _ in range(clients)]
        self._flights = flights
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(Client(port, application, count), i))
            for i, count in enumerate(self.counts)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def answers(self, version: int) -> int:
        """Returns how many answers came from a version so far."""
        return sum(count.versions.get(version, 0) for count in self.counts)

    def wait(self, seconds: float) -> None:
        """Lets the load go on for a while."""
        self._stop.wait(seconds)

    def _ask(self, client: Client, start: int) -> None:
        at = start
        while not self._stop.wait(0.002):
            client.ask(self._flights[at % len(self._flights)])
            at += len(self._threads)
        client.close()


def _add(counts: dict[Any, int], key: Any) -> None:
    counts[key] = counts.get(key, 0) + 1
