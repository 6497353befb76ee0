"""Opens the installation that flags, environment and file name; speaks to nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tidemill.foundation.home import Home, open_home
from tidemill.foundation.logs import configure_logs
from tidemill.foundation.settings import FlagValue, load_settings


@contextmanager
def open_named(
    *, home: Path | None, config: Path | None, flags: Mapping[str, FlagValue]
) -> Iterator[Home]:
    """Opens the home that the settings name; its logs are as they say from then on."""
    given = dict(flags)
    if home is not None:
        given["home"] = str(home)
    settings = load_settings(flags=given, file=config).settings
    configure_logs(settings.logs.level, settings.logs.format)
    with open_home(settings) as opened:
        yield opened
