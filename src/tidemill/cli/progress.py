"""Progress bars on standard error, where somebody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn

from tidemill.cli.session import Session

Advance = Callable[[int, int], None]
"""Told what is done and how much there is, in the bar's unit."""


@contextmanager
def bytes_progress(on: Session, text: str) -> Iterator[Advance]:
    """Shows a bar in bytes while the block runs."""
    with _bar(on, text, DownloadColumn()) as advance:
        yield advance


@contextmanager
def count_progress(on: Session, text: str) -> Iterator[Advance]:
    """Shows a bar in numbers while the block runs."""
    with _bar(on, text, MofNCompleteColumn()) as advance:
        yield advance


@contextmanager
def _bar(on: Session, text: str, unit: DownloadColumn | MofNCompleteColumn) -> Iterator[Advance]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), unit)
    with Progress(*columns, console=on.err, transient=True, disable=not on.progress_on) as bar:
        task = bar.add_task(text, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield advance
