"""Burns CPU at the priority of a build until it is ended: what a build costs by being there.

python -m bench.lookup.burner PROCESSES
"""

from __future__ import annotations

import multiprocessing
import sys

from tidemill.foundation.processes import yield_to_others


def burn() -> None:
    """Adds numbers up for ever."""
    total = 0
    while True:
        for number in range(1_000_000):
            total += number


def main() -> None:
    """Burns in so many processes, which end with this one."""
    yield_to_others()
    started = [
        multiprocessing.Process(target=burn, daemon=True) for _ in range(int(sys.argv[1]) - 1)
    ]
    for each in started:
        each.start()
    burn()


if __name__ == "__main__":
    main()
