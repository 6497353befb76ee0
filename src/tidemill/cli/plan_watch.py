"""``tidemill plan --watch``: examines the plan again as traffic changes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import typer

from tidemill.cli.printing import print_json
from tidemill.cli.session import Session
from tidemill.control.deployments import get_deployment
from tidemill.control.profiles import WINDOW_S
from tidemill.control.replanning import make_live, present_alternative
from tidemill.foundation.clock import iso
from tidemill.foundation.errors import Conflict, DataRefused, InvalidInput, NotReady, TidemillError
from tidemill.foundation.locks import hold
from tidemill.planning.alternatives import Alternative
from tidemill.planning.choose import Plan
from tidemill.planning.reexamine import Rule, Standing, Verdict, reexamine
from tidemill.serving.plan import Deployment

WatchOption = Annotated[
    bool, typer.Option("--watch", help="Examine it again and again; propose what gains enough.")
]
ApplyOption = Annotated[
    bool, typer.Option("--apply", help="With --watch: make what is proposed live.")
]
IntervalOption = Annotated[
    float, typer.Option("--interval-s", help="With --watch: seconds between two examinations.")
]
WindowOption = Annotated[
    float, typer.Option("--window-s", help="With --watch: traffic of so many seconds counts.")
]
GainOption = Annotated[
    float, typer.Option("--gain", help="With --watch: the share that a change must save.")
]
ConfirmOption = Annotated[
    int, typer.Option("--confirm", help="With --watch: in so many examinations in a row.")
]
ExaminationsOption = Annotated[
    int | None, typer.Option("--examinations", help="With --watch: end after so many.")
]


PlannedSince = Callable[[float, float | None], Plan]
"""Makes a plan of the traffic since a moment; or of a workload that a server measured since
another, unless that is None."""


class Watching(msgspec.Struct, frozen=True, kw_only=True):
    """How a plan is watched."""

    interval_s: float
    window_s: float
    rule: Rule
    examinations: int | None
    applies: bool


def watching(
    *,
    interval_s: float,
    window_s: float,
    gain: float,
    confirm: int,
    examinations: int | None,
    applies: bool,
) -> Watching:
    """Returns how a plan is watched, checked.

    Raises:
        InvalidInput: a number is out of its range.
    """
    try:
        rule = msgspec.convert({"gain": gain, "confirm": confirm}, Rule)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error), remedy="Correct the flag.") from error
    enough = examinations is None or examinations >= 1
    if not (0.0 <= interval_s <= 1e7 and window_s > 0.0 and enough):
        raise InvalidInput(
            "--interval-s, --window-s or --examinations is out of range",
            remedy="Give seconds above 0, and one examination or more.",
        )
    return Watching(
        interval_s=interval_s,
        window_s=window_s,
        rule=rule,
        examinations=examinations,
        applies=applies,
    )


def watch_plan(on: Session, application: str, plan: PlannedSince, how: Watching) -> None:
    """Examines until it is told to stop; what is proposed, and no more, goes to standard output.

    Args:
        on: where it works.
        application: whose plan.
        plan: makes one.
        how: how often, of what, and when a change is worth it.

    Raises:
        NotFound: there is no such application.
        Conflict: another process of this machine makes its plans live already.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    seen, left = _Seen(revision=get_deployment(on.home, application).revision), how.examinations
    with _alone(on, application) if how.applies else contextlib.nullcontext():
        while not stop.is_set():
            seen = _examine(on, application, plan, how, seen)
            left = None if left is None else left - 1
            if left == 0 or stop.wait(how.interval_s):
                return


def _alone(on: Session, application: str) -> contextlib.AbstractContextManager[None]:
    """Returns the turn to change an application: two that watch it otherwise could change it to
    and fro for ever.
    """
    busy = Conflict(
        f"another plan --watch --apply changes {application!r}",
        remedy="Stop it first, or leave --apply away: what is found is told all the same.",
    )
    return hold(on.home.run_path / f"plan-{application}.lock", busy=busy)


class _Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What an examination leaves to the next one: what it found, of which revision."""

    revision: int
    standing: Standing = Standing()


def _examine(
    on: Session,
    application: str,
    plan: PlannedSince,
    how: Watching,
    seen: _Seen,
) -> _Seen:
    at = on.home.clock.now()
    deployment = get_deployment(on.home, application)
    # What somebody changed is another question: it has been asked of nothing that was found before.
    standing = seen.standing if seen.revision == deployment.revision else Standing()
    try:
        # What was measured before the examination before would be counted twice.
        kept_since = at - how.interval_s if how.window_s == WINDOW_S else None
        found = plan(at - how.window_s, kept_since)
        present = present_alternative(on.home, deployment, found)
    except (DataRefused, NotReady) as error:  # nobody asks, or the ledger is on the move
        on.err.print(f"{iso(at)} {application}: {error.what}", markup=False)
        return _Seen(revision=deployment.revision)
    verdict, following = reexamine(present, found, standing, how.rule)
    on.err.print(f"{iso(at)} {application}: {verdict.kind}: {verdict.why}", markup=False)
    if verdict.kind == "propose":
        told = _propose(on, application, deployment, present, found, verdict, how, at)
        following = told or following
    return _Seen(revision=deployment.revision, standing=following)


def _propose(
    on: Session,
    application: str,
    deployment: Deployment,
    present: Alternative,
    found: Plan,
    verdict: Verdict,
    how: Watching,
    at: float,
) -> Standing | None:
    """Says what was better at that time, and makes it live where that is asked for.

    Returns:
        A new standing after a change, and after one that failed; else None.
    """
    said: dict[str, Any] = {
        "at": at,
        "application": application,
        "gain": verdict.gain,
        "why": verdict.why,
        "reasons": found.reasons,
        "present": present,
        "chosen": found.chosen,
        "revision": None,
        "error": None,
    }
    if how.applies:
        try:
            said["revision"] = make_live(
                on.home, found, present, deployment, by="plan --watch", reason=verdict.why
            )
        except TidemillError as error:
            said["error"] = str(error)
    if on.json:
        print_json(said)
    else:
        _print(on, said, found)
    return Standing() if how.applies else None


def _print(on: Session, said: dict[str, Any], found: Plan) -> None:
    chosen = found.chosen
    on.out.print(f"{said['application']}: {chosen.choice}, since {said['why']}", markup=False)
    on.out.print(
        f"  {chosen.head_keys:,} keys in the table, {chosen.cache_entries:,} in the cache, "
        f"{chosen.replicas} replicas, batches of {chosen.batch_limit}"
    )
    for reason in found.reasons:
        on.out.print(f"  {reason}", markup=False)
    if said["revision"] is not None:
        on.out.print(f"  live at revision {said['revision']}")
    if said["error"] is not None:
        on.out.print(f"  not made live: {said['error']}", markup=False)
