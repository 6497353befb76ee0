"""Work on ledger and data beside a server, each time in a process that ends when it is done.

Reading them takes engines that a server needs for nothing else: a process of its own gives their
memory back, runs at a low priority, and takes nothing with it if it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tidemill.foundation.environment import child_environment
from tidemill.foundation.errors import DeadlineExceeded, TidemillError, Unavailable
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.instruments import Counter, Instruments
from tidemill.foundation.logs import log
from tidemill.foundation.processes import cpu_seconds, yield_to_others
from tidemill.foundation.settings import Settings
from tidemill_worker.process import die_with_parent

WITHIN_S = 600.0
_NICE = 10
_AWAITED = frozenset({"settle"})
"""A client waits for these; all others begin where nobody else wants the processor."""
_LOOK_EVERY_S = 20.0
_LEAST_SHARE = 0.05
"""Of one processor: a chore that gets less between two looks would not be done where all are busy.
Idle ones get 0.003 there, and those at the low priority a tenth."""


async def do_chore(home: Home, name: str, *about: str, within_s: float = WITHIN_S) -> Any:
    """Has a process do a chore on an installation and returns what it says.

    One that nobody waits for is to run only where nobody else wants the processor. Where all are
    busy that is nowhere, and so it is begun again at a low priority, at which it gets its share:
    segments that are never compacted fill a disk.

    Args:
        home: the installation.
        name: of the chore.
        about: what it is about, where that is not the whole installation.
        within_s: how long it may take before it is ended.

    Raises:
        Unavailable: it failed, with its reason.
        DeadlineExceeded: it took too long, and was ended.
    """
    try:
        async with asyncio.timeout(within_s):
            try:
                answer = await _answer(home, name, about, idle=name not in _AWAITED)
            except _StarvedError:
                log("control.chores").info("chore.begun_again", chore=name, priority="low")
                answer = await _answer(home, name, about, idle=False)
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"the chore {name!r} was ended: it was not done within {within_s:g} s",
            remedy=f"It has a low priority: leave it a core, or {_BY_HAND[name]}.",
        ) from error
    if "error" in answer:
        raise Unavailable(f"the chore {name!r} failed: {answer['error']}")
    return answer["done"]


class _StarvedError(Exception):
    """A chore was ended: all processors are busy with what goes before it."""


async def _answer(home: Home, name: str, about: tuple[str, ...], *, idle: bool) -> dict[str, Any]:
    """Returns what a process says that does the chore."""
    priority = "idle" if idle else "low"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "tidemill.control.chores"),
        *(name, str(os.getpid()), priority, *about),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=child_environment(),
        process_group=0,
    )
    # Settings may hold passwords: they go through a pipe, where nobody else can read them.
    told = msgspec.json.encode(home.settings, enc_hook=str)
    watch = asyncio.create_task(_end_if_it_starves(process)) if idle else None
    try:
        said, _ = await process.communicate(told)
    finally:
        if watch is not None:
            watch.cancel()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if said:
        answer: dict[str, Any] = msgspec.json.decode(said)
        return answer
    if watch is not None and watch.done() and not watch.cancelled():
        raise _StarvedError
    return {"error": f"it ended with {process.returncode}"}


async def _end_if_it_starves(process: asyncio.subprocess.Process) -> None:
    used_s = before_s = 0.0
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        before_s, used_s = used_s, cpu_seconds(process.pid)
        if used_s - before_s < _LEAST_SHARE * _LOOK_EVERY_S:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return


def ledger_stamp(path: Path) -> tuple[int, int, int]:
    """Returns what changes whenever anything is added to a ledger: how many files, bytes, when."""
    files, size, newest = 0, 0, 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):  # it was compacted away meanwhile
                found = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 - a string at hand
                files, size, newest = (
                    files + 1,
                    size + found.st_size,
                    max(newest, found.st_mtime_ns),
                )
    return files, size, newest


def _compact(home: Home) -> int:
    from tidemill.data.ledger import compact  # noqa: PLC0415 - for this process alone

    return compact(home.ledger_path).segments


def _score(home: Home) -> dict[str, Any]:
    from tidemill.control.scores import score_live  # noqa: PLC0415 - as above

    return score_live(home)


def _profile(home: Home) -> dict[str, Any]:
    from tidemill.control.profiles import profile_live  # noqa: PLC0415 - as above

    return profile_live(home)


def _settle(home: Home, dataset: str, upload: str) -> bool:
    from tidemill.control.uploads import settle  # noqa: PLC0415 - as above

    return settle(home, dataset, upload).finished


CHORES: dict[str, Callable[..., Any]] = {
    "compact": _compact,
    "profile": _profile,
    "score": _score,
    "settle": _settle,
}
"""compact: sealed segments become Parquet. profile: the workload of what is live is measured.
score: what live applications served is judged. settle: an upload that is whole is ingested."""


_BY_HAND = {
    "compact": "run tidemill ledger compact, which has no limit",
    "profile": "run tidemill workload, which has no limit",
    "score": "run tidemill ledger score, which has no limit",
    "settle": "send the data in smaller uploads",
}


def failures_of(instruments: Instruments, name: str) -> Counter:
    """Returns where it is counted that a chore failed."""
    return instruments.counter(
        "tidemill_chore_failures",
        "How often work on the ledger failed, or was ended since it took too long.",
        ("chore",),
    ).of(name)


def main(arguments: Sequence[str]) -> int:
    """Does the named chore with the settings that come on standard input."""
    name, parent, priority, *about = arguments
    die_with_parent(int(parent))
    os.nice(_NICE)
    if priority == "idle":
        yield_to_others()
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Settings, dec_hook=_path)
    try:
        with open_home(settings) as home:
            answer = {"done": CHORES[name](home, *about)}
    except TidemillError as error:
        answer = {"error": str(error)}
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


def _path(kind: type[Any], value: Any) -> Any:
    if issubclass(kind, Path):
        return kind(value)
    raise NotImplementedError(kind)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
