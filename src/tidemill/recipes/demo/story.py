"""The main job, told as it happens: a month of flights in, served and scored predictions out."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.errors import Conflict, NotReady
from tidemill.foundation.files import write_atomic
from tidemill.recipes.demo.client import Load, replay
from tidemill.recipes.demo.commands import Commands
from tidemill.recipes.demo.flights import Data, flights, prepare
from tidemill.recipes.demo.recompute import auc_by_sql
from tidemill.recipes.demo.report import write_report
from tidemill.recipes.demo.summary import Served, Summary, Told, summarise

APPLICATION = "flights"
FIRST_WEEK, SECOND_WEEK = range(1, 8), range(8, 15)
LOAD_CLIENTS = 2
SWAP_WITHIN_S = 120.0
AFTER_CHANGE = 200
"""So many answers from the new version are awaited after a change, under load."""

Progress = Callable[[int, int], None]


class Teller:
    """How the story is told; the command line prints it."""

    def say(self, text: str) -> None:
        """Tells a sentence."""

    @contextmanager
    def bar(self, text: str) -> Iterator[Progress]:  # noqa: ARG002 - a teller may show nothing
        """Shows progress while the block runs."""
        yield lambda _done, _all: None


@dataclass(slots=True)
class Story:
    """What has happened so far; kept in the folder so that a demo that was killed goes on."""

    began_at: float
    run: str
    facts: dict[str, Any] = field(default_factory=dict)


def tell(folder: Path, teller: Teller) -> Summary:
    """Runs the demo in a folder, or goes on with one that was cut off, and returns what came of it.

    Raises:
        Conflict: another demo is under way there.
        TidemillError: a part of it failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        data = prepare(folder / "data")
        teller.say(f"data: {'reused' if data.reused else 'prepared'} in {folder / 'data'}")
        work = folder / "work"
        story = _begin(folder, work, data, teller)
        commands = Commands(work, folder / "log")
        _make_model(commands, data, story, teller)
        with commands.running(
            "serve", "--port", "0", "--admin-port", "0", "--home", str(work / ".tidemill")
        ) as server:
            serving = server.line()
            teller.say(f"serving on http://127.0.0.1:{serving['port']}")
            served = _serve_a_week(commands, serving["port"], data, story, teller)
            port = serving["port"]
            _swap_and_return(commands, port, data, story=story, served=served, teller=teller)
        served.sql_auc = auc_by_sql(commands, folder, since=story.facts["replay_began"])
        story.facts["began_at"] = story.began_at
        story.facts["finished_at"] = SYSTEM_CLOCK.now()
        told = Told(summary=summarise(story.facts, served), facts=story.facts, served=served)
        told = write_report(folder, told)
        write_atomic(folder / "summary.json", told.summary.to_json())
        (folder / "story.json").unlink(missing_ok=True)
        return told.summary


def _begin(folder: Path, work: Path, data: Data, teller: Teller) -> Story:
    mark = folder / "story.json"
    if mark.is_file():
        found = json.loads(mark.read_text(encoding="utf-8"))
        teller.say("the last demo was cut off: going on with it, and with what it has done")
        return Story(began_at=found["began_at"], run=found["run"])
    if work.exists():
        teller.say("the last demo reached its end: beginning anew, in a fresh home")
        shutil.rmtree(work)
    work.mkdir()
    (work / "incoming").mkdir()
    shutil.copyfile(data.settings, work / "tidemill.toml")
    story = Story(began_at=SYSTEM_CLOCK.now(), run=f"demo-{int(SYSTEM_CLOCK.now())}")
    write_atomic(mark, json.dumps({"began_at": story.began_at, "run": story.run}).encode())
    return story


def _make_model(commands: Commands, data: Data, story: Story, teller: Teller) -> None:
    with teller.bar("January goes through the gate"):
        january = commands.run(
            "ingest",
            APPLICATION,
            str(data.january.absolute()),
            "--schema",
            str(data.schema.absolute()),
        )
    story.facts["january"] = january
    again = " (it was ingested before: nothing changed)" if january["repeated"] else ""
    teller.say(
        f"January: {january['received']:,} rows received, {january['accepted']:,} accepted, "
        f"{january['quarantined']} quarantined, {january['duplicate']} duplicate{again}"
    )
    began = SYSTEM_CLOCK.monotonic()
    with teller.bar("training, evaluating, compiling, validating, tabulating"):
        made = commands.run("run", APPLICATION, "--run", story.run)
    story.facts["made"] = made
    trained = made["trained"]
    metrics, compiled = trained["verdict"]["candidate"]["metrics"], trained["compiled"]
    steps = trained["steps"]
    reused = sum(status == "reused" for status in steps.values())
    teller.say(
        f"model: version {trained['version']}, AUC {metrics['auc']:.3f} on kept-apart rows, "
        f"in {SYSTEM_CLOCK.monotonic() - began:.1f} s ({reused} of {len(steps)} steps reused)"
    )
    if compiled["equal"]:
        teller.say(
            f"compiled: equal on {compiled['rows']:,} rows, one row takes "
            f"{compiled['batch_1_ms']:.3f} ms instead of {compiled['original_batch_1_ms']:.1f} ms"
        )
    else:
        teller.say(f"not compiled, the original serves: {compiled['reason']}")
    teller.say(f"table: {made['table']['rows']:,} scheduled keys answered beforehand")


def _serve_a_week(
    commands: Commands, port: int, data: Data, story: Story, teller: Teller
) -> Served:
    story.facts["replay_began"] = SYSTEM_CLOCK.now()
    week = flights(data.february, FIRST_WEEK)
    with teller.bar("the first week of February") as progress:
        count = replay(port, APPLICATION, week, progress)
    score = commands.run(
        "ledger", "score", APPLICATION, "--since", repr(story.facts["replay_began"])
    )
    story.facts["score"] = score
    overall = score["report"]["overall"]
    p50, p99 = (float(np.quantile(count.times_s, q)) * 1000 for q in (0.5, 0.99))
    sources = ", ".join(f"{n:,} by {source}" for source, n in count.sources.most_common())
    teller.say(f"served: {count.answers:,} flights asked about ({sources})")
    teller.say(f"latency as the client saw it: {p50:.2f} ms median, {p99:.2f} ms at p99")
    offline = story.facts["made"]["trained"]["verdict"]["candidate"]["metrics"]["auc"]
    teller.say(
        f"scored as served: AUC {overall['auc']:.3f} on {overall['labelled']:,} labels "
        f"(offline {offline:.3f}); labels came after "
        f"{overall['label_delay_s']['p50'] / 3600:.1f} h (median)"
    )
    return Served(replayed=count, load=[], swapped_in_s=None, rollback=None, sql_auc=None)


def _swap_and_return(
    commands: Commands, port: int, data: Data, *, story: Story, served: Served, teller: Teller
) -> None:
    incoming = data.february.parent.parent / "work" / "incoming"
    week = flights(data.february, SECOND_WEEK)
    before = str(story.facts["made"]["trained"]["version"])
    after = str(int(before) + 1)
    with Load(port, APPLICATION, week, LOAD_CLIENTS) as load:
        served.load = load.counts
        with commands.running("watch", APPLICATION, str(incoming.absolute())) as watch:
            teller.say(f"February's file is dropped into {incoming}; the mill does the rest")
            arrived = SYSTEM_CLOCK.monotonic()
            _drop(data.february, incoming)
            with teller.bar("gate, training, evaluation, validation, swap under load"):
                _await_version(load, after)
            served.swapped_in_s = SYSTEM_CLOCK.monotonic() - arrived
            launches = watch.stop()
        story.facts["launches"] = launches
        launch = (launches or {"launches": [{}]})["launches"][-1]
        story.facts["february"] = launch["ingest"]
        february = launch["ingest"]
        teller.say(
            f"February: {february['received']:,} rows received, {february['accepted']:,} accepted, "
            f"{february['late']} late; version {after} live under load "
            f"{served.swapped_in_s:.1f} s after the file came"
        )
        came = load.answers(before)
        served.rollback = commands.run("rollback", APPLICATION)
        _await_version(load, before, beyond=came)
    table = served.rollback["table"]
    failed = sum(len(count.failures) for count in (served.replayed, *served.load))
    teller.say(
        f"rolled back to version {served.rollback['to_version']} with its table {table}; "
        f"{failed} failed requests in all"
    )


def _await_version(load: Load, version: str, beyond: int = 0) -> None:
    """Waits until a version has answered often enough.

    Raises:
        NotReady: it did not come to that in time.
    """
    until = SYSTEM_CLOCK.monotonic() + SWAP_WITHIN_S
    while load.answers(version) < beyond + AFTER_CHANGE:
        if SYSTEM_CLOCK.monotonic() > until:
            raise NotReady(
                f"version {version} did not go live within {SWAP_WITHIN_S:g} s",
                remedy="The log in the demo's folder says why.",
            )
        load.wait(0.05)


def _drop(source: Path, folder: Path) -> None:
    """Makes a file appear in a folder at once, as a careful sender does."""
    hidden = folder / f".{source.name}"
    shutil.copyfile(source, hidden)
    hidden.rename(folder / source.name)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise Conflict(
            f"another demo is under way in {folder}", remedy="Wait for it, or choose --folder."
        ) from error
    try:
        yield
    finally:
        os.close(handle)
