"""The command line: ``tidemill VERB``."""

from __future__ import annotations

from tidemill.cli.app import main

if __name__ == "__main__":
    main()
