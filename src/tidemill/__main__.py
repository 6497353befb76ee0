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
    if sys.argv[1:2] == ["serve"]:
        _serve(sys.argv[2:])
    from tidemill.cli.app import main as run  # noqa: PLC0415 - a second of imports

    run()


def _serve(arguments: list[str]) -> None:
    """Runs a server and ends the process, where its arguments need no explanation."""
    from tidemill.cli import serving  # noqa: PLC0415 - as above

    asked = serving.read(arguments)
    if asked is None:
        return
    try:
        serving.run(asked)
    except KeyboardInterrupt:  # before it served
        sys.stderr.write("Aborted!\n")
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told as of any verb
        from tidemill.cli.app import failed  # noqa: PLC0415 - as above

        sys.exit(failed(error, json=asked.json))
    sys.exit(0)


if __name__ == "__main__":
    main()
