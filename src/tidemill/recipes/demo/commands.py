"""Runs the command line as a user would, and reads the JSON that it prints."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tidemill.foundation.errors import NotReady, TidemillError

START_WITHIN_S = 60.0


class CommandFailed(TidemillError):  # noqa: N818 - reads as a sentence, as its family does
    """A command of the demo ended otherwise than it should."""


class Commands:
    """The command line in one folder, with one home.

    Args:
        folder: where commands run; holds ``tidemill.toml``.
        log: where their progress and logs go.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder = folder
        self._log = log

    def run(self, *words: str) -> dict[str, Any]:
        """Runs a verb to its end and returns its JSON.

        Raises:
            CommandFailed: it ended with another code than 0.
        """
        with self._log.open("ab") as log:
            done = subprocess.run(  # noqa: S603 - our own command, no shell
                _command(words), cwd=self._folder, stdout=subprocess.PIPE, stderr=log, check=False
            )
        if done.returncode != 0:
            raise self._failed(words, done.returncode, done.stdout)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @contextmanager
    def running(self, *words: str) -> Iterator[Background]:
        """Runs a verb in the background while the block runs, then stops it with SIGTERM."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                [*_command(words), "--with-parent"],
                cwd=self._folder,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        background = Background(process, " ".join(words), self._log)
        try:
            yield background
        finally:
            background.stop()

    def _failed(self, words: tuple[str, ...], code: int, said: bytes) -> CommandFailed:
        text = said.decode(errors="replace").strip()
        if not text:
            text = self._log.read_text(encoding="utf-8", errors="replace")[-1500:].strip()
        return CommandFailed(
            f"`tidemill {' '.join(words)}` ended with code {code}: {text}",
            remedy=f"Its log is {self._log}.",
        )


class Background:
    """A verb that runs until it is stopped."""

    def __init__(self, process: subprocess.Popen[bytes], words: str, log: Path) -> None:
        self._process = process
        self._words = words
        self._log = log
        self.pid = process.pid

    def line(self) -> dict[str, Any]:
        """Returns the next line of JSON that it prints.

        Raises:
            NotReady: it printed none in time, or ended.
        """
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_WITHIN_S)
        text = self._process.stdout.readline() if ready else b""
        if not text:
            raise NotReady(
                f"`tidemill {self._words}` did not become ready", remedy=f"See {self._log}."
            )
        found: dict[str, Any] = json.loads(text)
        return found

    def stop(self) -> dict[str, Any] | None:
        """Stops it with SIGTERM and returns the last JSON that it printed, if any."""
        if self._process.stdout is None or self._process.stdout.closed:
            return None
        self._process.send_signal(signal.SIGTERM)
        try:
            said, _ = self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            said, _ = self._process.communicate()
        lines = said.decode(errors="replace").strip().splitlines()
        found: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
        return found


def _command(words: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "tidemill", *words, "--json"]
