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
from tidemill.foundation.processes import yield_to_others
from tidemill.foundation.settings import Settings
from tidemill_worker.process import die_with_parent

WITHIN_S = 600.0
_NICE = 10
_AWAITED = frozenset({"settle"})
"""A client waits for these; all others run only where nobody else wants the processor."""


async def do_chore(home: Home, name: str, *about: str, within_s: float = WITHIN_S) -> Any:
    """Has a process do a chore on an installation and returns what it says.

    Args:
        home: the installation.
        name: of the chore.
        about: what it is about, where that is not the whole installation.
        within_s: how long it may take before it is ended.

    Raises:
        Unavailable: it failed, with its reason.
        DeadlineExceeded: it took too long, and was ended.
    """
    module = ("-P", "-m", "tidemill.control.chores")
    command = (sys.executable, *module, name, str(os.getpid()), *about)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=child_environment(),
        process_group=0,
    )
    # Settings may hold passwords: they go through a pipe, where nobody else can read them.
    told = msgspec.json.encode(home.settings, enc_hook=str)
    try:
        async with asyncio.timeout(within_s):
            said, _ = await process.communicate(told)
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"the chore {name!r} was ended: it was not done within {within_s:g} s",
            remedy=f"It has a low priority: leave it a core, or {_BY_HAND[name]}.",
        ) from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    answer = msgspec.json.decode(said) if said else {"error": f"it ended with {process.returncode}"}
    if "error" in answer:
        raise Unavailable(f"the chore {name!r} failed: {answer['error']}")
    return answer["done"]


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
    name, parent, *about = arguments
    die_with_parent(int(parent))
    os.nice(_NICE)
    if name not in _AWAITED:
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
