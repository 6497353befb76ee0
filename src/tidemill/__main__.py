"""The command line: ``tidemill VERB``."""

from __future__ import annotations

import sys

from tidemill.foundation.processes import yield_to_others

_YIELD = (("table", "build"), ("table", "rescore"))
"""Work beside what is served: not even what these verbs import is to hold queries up."""


def main() -> None:
    """Runs the verb that the arguments name, and ends the process."""
    if tuple(sys.argv[1:3]) in _YIELD:
        yield_to_others()
    from tidemill.cli.app import main as run  # noqa: PLC0415 - a second of imports

    run()


if __name__ == "__main__":
    main()
