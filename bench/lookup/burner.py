"""Burns CPU at the priority of a build, when and as much as one did: what it costs by being there.

python -m bench.lookup.burner PROCESSES EVERY_S USED_S...

``USED_S`` are the seconds of CPU that were used in each ``EVERY_S`` seconds, one after the other.
The first process uses as much of them as one core has, the next one the rest. What a process does
not get in time it uses later; when all is used, it waits to be ended.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Sequence

from tidemill.foundation.processes import yield_to_others

_NUMBERS = 5_000
"""Added up between two looks at the clock: a fraction of a millisecond."""


def burn(used_s: Sequence[float], every_s: float) -> None:
    """Adds numbers up, as long as it is behind of what it is to have used; else it rests."""
    began, before_s, total, due_s = time.monotonic(), time.process_time(), 0, 0.0
    for place, used in enumerate(used_s, 1):
        due_s += used
        while (left_s := began + place * every_s - time.monotonic()) > 0.0:
            if time.process_time() - before_s >= due_s:
                time.sleep(left_s)
                break
            total += sum(range(_NUMBERS))
    while time.process_time() - before_s < due_s:
        total += sum(range(_NUMBERS))
    while True:
        time.sleep(60.0)


def shares(used_s: Sequence[float], every_s: float, processes: int) -> list[list[float]]:
    """Returns what each process uses: the first all that it can, and so on; the last what is left.

    Example:
        >>> shares([0.1, 0.15], 0.1, 2)
        [[0.1, 0.1], [0.0, 0.05]]
    """
    found, left = [], list(used_s)
    for _ in range(processes - 1):
        found.append([min(every_s, each) for each in left])
        left = [round(each - taken, 6) for each, taken in zip(left, found[-1], strict=True)]
    return [*found, left]


def main() -> None:
    """Burns in so many processes, which end with this one."""
    yield_to_others()
    processes, every_s = int(sys.argv[1]), float(sys.argv[2])
    first, *others = shares([float(used) for used in sys.argv[3:]], every_s, processes)
    for each in others:
        multiprocessing.Process(target=burn, args=(each, every_s), daemon=True).start()
    burn(first, every_s)


if __name__ == "__main__":
    main()
