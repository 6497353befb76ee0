"""Burns CPU at the priority of a build, when and as much as one did: what it costs by being there.

python -m bench.lookup.burner TRACKS

TRACKS is a file of what ``bench.lookup.followed`` tells of a build: of each of its threads, the
seconds of CPU that it used in each moment, and how often it rested in it. For each, a process uses
as much, in as many parts, with rests between. What it does not get in time it uses later, with
short rests; when all is used, it waits to be ended.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tidemill.foundation.processes import yield_to_others

EVERY_S = 0.02
"""So long is a moment."""

Track = list[tuple[float, int]]
"""Of a thread: the seconds of CPU that it used in each moment, and how often it rested."""

_NUMBERS = 500
"""Added up between two looks at the clock: some microseconds."""
_SHORTLY_S = 1e-4


def burn(track: Track, began: float) -> None:
    """Uses and rests as a thread did, from when it began; and then waits for good."""
    before_s, due_s, total = time.process_time(), 0.0, 0
    for place, (used_s, rests) in enumerate(track):
        parts = max(1, rests)
        for part in range(parts if used_s else 0):
            left_s = began + (place + part / parts) * EVERY_S - time.monotonic()
            if rests or left_s > 0.0:
                time.sleep(max(_SHORTLY_S, left_s))
            due_s += used_s / parts
            while time.process_time() - before_s < due_s:
                total += sum(range(_NUMBERS))
    while True:
        time.sleep(60.0)


def write_tracks(path: Path, tracks: Sequence[Track]) -> Path:
    """Writes tracks to a file, for ``read_tracks``."""
    path.write_text(json.dumps(tracks))
    return path


def read_tracks(path: Path) -> list[Track]:
    """Returns what ``write_tracks`` wrote."""
    return [
        [(used_s, rested) for used_s, rested in track] for track in json.loads(path.read_text())
    ]


def main() -> None:
    """Burns in as many processes as there were threads, which end with this one."""
    yield_to_others()
    first, *others = read_tracks(Path(sys.argv[1]))
    began = time.monotonic()
    for each in others:
        multiprocessing.Process(target=burn, args=(each, began), daemon=True).start()
    burn(first, began)


if __name__ == "__main__":
    main()
