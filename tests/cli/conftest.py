"""A command line that runs in this process, on an installation of its own."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tidemill.cli.app import main

SETTINGS = """
[recipes.trips]
dataset = "trips"
features = ["carrier", "origin", "hour"]
label = "late"
slices = ["carrier"]
params = { n_estimators = 5 }
ingest = { key = ["id"] }
table = { key = ["carrier", "origin", "hour"] }
"""


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """Returns the one JSON object that was printed, and checks that there is nothing else."""
        assert self.out.count("\n") == 1, self.out
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


class Cli:
    """Runs ``tidemill`` in this process, in a folder of its own."""

    def __init__(
        self, folder: Path, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self.folder = folder
        self._capture = capture
        self._patch = patch

    def __call__(self, *argv: str) -> Said:
        """Runs a verb; whatever happens, no traceback is shown."""
        self._patch.setattr(sys, "argv", ["tidemill", *argv])
        self._capture.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        out, err = self._capture.readouterr()
        assert "Traceback" not in out + err, err
        return Said(code, out, err)

    def settings(self, text: str) -> None:
        """Writes the settings file."""
        (self.folder / "tidemill.toml").write_text(text)

    def write(self, name: str, data: str | bytes) -> Path:
        """Writes a file into the folder."""
        path = self.folder / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path


@pytest.fixture
def cli(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cli]:
    """The command line in an empty folder, whose settings declare the recipe ``trips``."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    # A verb that gives way does so for all of its process, and this one has other tests to run.
    monkeypatch.setattr("tidemill.cli.table.yield_to_others", lambda: None)
    made = Cli(folder, capfd, monkeypatch)
    made.settings(SETTINGS)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield made
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def live(cli: Cli, trained_path: Path) -> Cli:
    """The command line where version 1 of ``trips`` is live, with a table."""
    shutil.copytree(trained_path, cli.folder / ".tidemill")
    return cli
