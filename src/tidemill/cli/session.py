"""What every verb shares: the settings, the home, and one way to show results and errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tidemill.cli.opening import open_named
from tidemill.cli.printing import print_json
from tidemill.foundation.errors import DataRefused, InvalidInput, NotBlessed, TidemillError
from tidemill.foundation.home import Home
from tidemill.foundation.settings import FlagValue

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print exactly one JSON object on standard output.")
]
HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The installation's folder.", show_default=".tidemill")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="The settings file.", show_default="./tidemill.toml"),
]
WithParentOption = Annotated[
    bool,
    typer.Option("--with-parent", help="Stop when the process that started this one has ended."),
]

EXIT_CODES: tuple[tuple[type[TidemillError], int], ...] = (
    (DataRefused, 3),
    (NotBlessed, 4),
    (InvalidInput, 2),
)
"""What a verb's process ends with: 1 for every other error, 0 when it is done."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Flags = Mapping[str, FlagValue]


class Session:
    """One verb's run: where it works and how it speaks.

    Results go to standard output, as one JSON object or as text for people; progress, logs and
    errors go to standard error.
    """

    def __init__(self, home: Home, *, json: bool) -> None:
        self.home = home
        self.json = json
        self.out = Console()
        self.err = Console(stderr=True)

    @property
    def progress_on(self) -> bool:
        """Says whether a progress bar would be seen by somebody."""
        return self.err.is_terminal

    def show(self, record: Any, human: Callable[[Console], None]) -> None:
        """Shows a result: the record as JSON, or what ``human`` prints."""
        if self.json:
            print_json(record)
        else:
            human(self.out)


@contextmanager
def session(
    *, home: Path | None, config: Path | None, json: bool, flags: Flags | None = None
) -> Iterator[Session]:
    """Opens the home that the settings name, for one verb."""
    with open_named(home=home, config=config, flags=flags or {}) as opened:
        yield Session(opened, json=json)


def print_error(error: TidemillError, *, json: bool) -> int:
    """Shows an error and returns the exit code that stands for it."""
    code = next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)
    if json:
        print_json({"error": str(error), "kind": type(error).__name__, "exit_code": code})
    else:
        console = Console(stderr=True, highlight=False)
        console.print(Text("error: ", "bold red"), Text(plain(error.what)), sep="")
        if error.remedy:
            console.print(Text("  try: ", "bold"), Text(plain(error.remedy)), sep="")
    return code


def table(title: str, *columns: str) -> PlainTable:
    """Makes a table that reads well in a narrow terminal."""
    made = PlainTable(
        title=Text(plain(title)),
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    for column in columns:
        made.add_column(Text(plain(column)), overflow="fold")
    return made


class PlainTable(Table):
    """A table whose cells hold words of data and people: none of them is markup."""

    def add_row(self, *cells: RenderableType | None, **more: Any) -> None:
        """Adds a row, its texts as they are."""
        super().add_row(*(Text(plain(c)) if isinstance(c, str) else c for c in cells), **more)


def plain(text: str) -> str:
    r"""Returns a text whose control characters are spelled out: data commands no terminal.

    Example:
        >>> plain("a\x1b[2J")
        'a\\x1b[2J'
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
