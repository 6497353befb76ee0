"""Burns CPU at the priority of a build until it is ended: what a build costs by being there.

python -m bench.lookup.burner PROCESSES SHARE

Each process uses so much of a core, as far as it gets it.
"""

from __future__ import annotations

import multiprocessing
import sys
import time

from tidemill.foundation.processes import yield_to_others

_REST_S = 0.002


def burn(share: float) -> None:
    """Adds numbers up, and rests while it is ahead of its share, for ever."""
    began, total = time.monotonic(), 0
    while True:
        for number in range(50_000):
            total += number
        while time.process_time() > share * (time.monotonic() - began):
            time.sleep(_REST_S)


def main() -> None:
    """Burns in so many processes, which end with this one."""
    yield_to_others()
    processes, share = int(sys.argv[1]), float(sys.argv[2])
    started = [
        multiprocessing.Process(target=burn, args=(share,), daemon=True)
        for _ in range(processes - 1)
    ]
    for each in started:
        each.start()
    burn(share)


if __name__ == "__main__":
    main()
