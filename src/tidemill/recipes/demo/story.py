"""The main job, told as it happens: a month of flights in, served and scored predictions out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.errors import Conflict, NotReady
from tidemill.foundation.files import write_atomic
from tidemill.foundation.locks import hold
from tidemill.recipes.demo.client import Count, Load, replay
from tidemill.recipes.demo.commands import Commands
from tidemill.recipes.demo.flights import Data, flights, prepare
from tidemill.recipes.demo.recompute import auc_by_sql
from tidemill.recipes.demo.report import write_report
from tidemill.recipes.demo.summary import Summary, Told, summarise

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


class Story:
    """What has happened so far, kept in the folder, so that a demo that was killed goes on.

    Each chapter is told once: what it came to is a fact, and a fact is not made again.
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self._path = path
        self.facts = facts

    def add(self, **facts: Any) -> None:
        """Makes facts durable."""
        self.facts.update(facts)
        write_atomic(self._path, msgspec.json.encode(self.facts))

    def end(self) -> None:
        """Forgets the story: the next demo begins anew."""
        self._path.unlink(missing_ok=True)


def tell(folder: Path, teller: Teller) -> Summary:
    """Runs the demo in a folder, or goes on with one that was cut off, and returns what came of it.

    Raises:
        Conflict: another demo is under way there.
        TidemillError: a part of it failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    busy = Conflict(
        f"another demo is under way in {folder}", remedy="Wait for it, or choose --folder."
    )
    with hold(folder / "lock", busy=busy):
        data = prepare(folder / "data")
        teller.say(f"data: {'reused' if data.reused else 'prepared'} in {folder / 'data'}")
        work = folder / "work"
        story = _begin(folder, work, data, teller)
        commands = Commands(work, folder / "log")
        _take_january(commands, data, story, teller)
        _make_model(commands, story, teller)
        with commands.running("serve", "--port", "0", "--admin-port", "0") as server:
            port = server.line()["port"]
            teller.say(f"serving on http://127.0.0.1:{port}")
            _serve_a_week(commands, port, data, story, teller)
            _plan(commands, story, teller)
            load = _swap_and_return(commands, port, data, story, teller)
        story.add(
            sql_auc=auc_by_sql(commands, folder, **_replay_times(story)),
            finished_at=SYSTEM_CLOCK.now(),
        )
        replayed = msgspec.convert(story.facts["replayed"], Count, str_keys=True)
        told = Told(
            summary=summarise(story.facts, replayed, load),
            facts=story.facts,
            replayed=replayed,
            load=load,
        )
        told = write_report(folder, told)
        write_atomic(folder / "summary.json", told.summary.to_json())
        story.end()
        return told.summary


def _begin(folder: Path, work: Path, data: Data, teller: Teller) -> Story:
    path = folder / "story.json"
    if path.is_file():
        teller.say("the last demo was cut off: going on with it, and with what it has done")
        return Story(path, json.loads(path.read_text(encoding="utf-8")))
    if work.exists():
        teller.say("the last demo reached its end: beginning anew, in a fresh home")
        shutil.rmtree(work)
    (work / "incoming").mkdir(parents=True)
    shutil.copyfile(data.settings, work / "tidemill.toml")
    story = Story(path, {})
    now = SYSTEM_CLOCK.now()
    story.add(began_at=now, run=f"demo-{int(now)}")
    return story


def _take_january(commands: Commands, data: Data, story: Story, teller: Teller) -> None:
    if "january" not in story.facts:
        with teller.bar("January goes through the gate"):
            taken = commands.run(
                *("ingest", APPLICATION, str(data.january), "--schema", str(data.schema))
            )
        story.add(january=taken)
    teller.say(f"January: {_counted(story.facts['january'])}")


def _make_model(commands: Commands, story: Story, teller: Teller) -> None:
    began = SYSTEM_CLOCK.monotonic()
    if "made" not in story.facts:
        with teller.bar("training, evaluating, compiling, validating, tabulating"):
            story.add(made=commands.run("run", APPLICATION, "--run", story.facts["run"]))
    made = story.facts["made"]
    trained = made["trained"]
    compiled, steps = trained["compiled"], trained["steps"]
    reused = sum(status == "reused" for status in steps.values())
    teller.say(
        f"model: version {trained['version']}, AUC "
        f"{trained['verdict']['candidate']['metrics']['auc']:.3f} on rows kept apart, in "
        f"{SYSTEM_CLOCK.monotonic() - began:.1f} s ({reused} of {len(steps)} steps reused)"
    )
    if compiled["equal"]:
        teller.say(
            f"compiled: equal on {compiled['rows']:,} rows, one row takes "
            f"{compiled['batch_1_ms']:.3f} ms instead of {compiled['original_batch_1_ms']:.1f} ms"
        )
    else:
        teller.say(f"not compiled, the original serves: {compiled['reason']}")
    teller.say(f"table: {made['table']['rows']:,} scheduled keys answered beforehand")


def _serve_a_week(commands: Commands, port: int, data: Data, story: Story, teller: Teller) -> None:
    if "replayed" not in story.facts:
        began = SYSTEM_CLOCK.now()
        with teller.bar("the first week of February") as progress:
            count = replay(port, APPLICATION, flights(data.february, FIRST_WEEK), progress)
        story.add(
            replay_began=began, replay_ended=SYSTEM_CLOCK.now(), replayed=msgspec.to_builtins(count)
        )
    if "score" not in story.facts:
        times = [f"--{name}={value!r}" for name, value in _replay_times(story).items()]
        story.add(score=commands.run("ledger", "score", APPLICATION, *times))
    _tell_week(story, teller)


def _tell_week(story: Story, teller: Teller) -> None:
    count = msgspec.convert(story.facts["replayed"], Count, str_keys=True)
    overall = story.facts["score"]["report"]["overall"]
    p50, p99 = (float(np.quantile(count.times_s, q)) * 1000 for q in (0.5, 0.99))
    sources = ", ".join(f"{n:,} by {source}" for source, n in count.sources.items())
    teller.say(f"served: {count.answers:,} flights asked about ({sources})")
    teller.say(f"latency as the client saw it: {p50:.2f} ms median, {p99:.2f} ms at p99")
    offline = story.facts["made"]["trained"]["verdict"]["candidate"]["metrics"]["auc"]
    teller.say(
        f"scored as served: AUC {overall['auc']:.3f} on {overall['labelled']:,} labels "
        f"(offline {offline:.3f}); labels came after "
        f"{overall['label_delay_s']['p50'] / 3600:.1f} h (median)"
    )


def _plan(commands: Commands, story: Story, teller: Teller) -> None:
    """Where this traffic, at the pace of the replay, is best computed, as one would ask for it."""
    if "plan" not in story.facts:
        with teller.bar("planning for the traffic of that week"):
            story.add(plan=commands.run("plan", APPLICATION))
    for reason in story.facts["plan"]["reasons"]:
        teller.say(f"plan: {reason}")


def _swap_and_return(
    commands: Commands, port: int, data: Data, story: Story, teller: Teller
) -> list[Count]:
    incoming = data.february.parent.parent / "work" / "incoming"
    before = story.facts["made"]["trained"]["version"]
    with Load(port, APPLICATION, flights(data.february, SECOND_WEEK), LOAD_CLIENTS) as load:
        if _changed_last(commands) != "rollback":
            teller.say(f"February's file is dropped into {incoming}; the mill does the rest")
            _swap(commands, load, data.february, incoming, story)
        came = load.answers(before)
        if _changed_last(commands) != "rollback":
            commands.run("rollback", APPLICATION)
        _await_version(load, before, beyond=came)
    february, live = story.facts["february"], _live(commands)
    teller.say(
        f"February: {_counted(february)}; version {story.facts['second_version']} live under "
        f"load {story.facts['swapped_in_s']:.1f} s after the file came"
    )
    story.add(rolled_back=live)
    failed = sum(len(count.failures) for count in load.counts)
    failed += len(story.facts["replayed"]["failures"])
    teller.say(
        f"rolled back to version {live['version']} with its table {live['table']}; "
        f"{failed} failed requests in all"
    )
    return load.counts


def _swap(commands: Commands, load: Load, file: Path, incoming: Path, story: Story) -> None:
    """Drops a file and waits until the version made of it answers; a keeper does the rest."""
    with commands.running("watch", APPLICATION, str(incoming), "--wait"):
        if "dropped_at" not in story.facts:
            story.add(dropped_at=SYSTEM_CLOCK.now())
        if not (incoming / file.name).exists():
            _drop(file, incoming)
        version = story.facts["made"]["trained"]["version"] + 1
        _await_version(load, version)
        swapped_in_s = SYSTEM_CLOCK.now() - story.facts["dropped_at"]
    # The same file again is no second ingest: it tells what the first one came to.
    february = commands.run("ingest", APPLICATION, str(incoming / file.name))
    story.add(february=february, second_version=version, swapped_in_s=swapped_in_s)


def _live(commands: Commands) -> dict[str, Any]:
    shown = commands.run("deployments", APPLICATION)["live"][0]
    version: dict[str, Any] = shown["versions"][0]
    return version


def _changed_last(commands: Commands) -> str:
    return str(commands.run("deployments", APPLICATION)["changes"][0]["verb"])


def _replay_times(story: Story) -> dict[str, float]:
    return {"since": story.facts["replay_began"], "until": story.facts["replay_ended"]}


def _counted(ingest: dict[str, Any]) -> str:
    names = ("accepted", "quarantined", "duplicate", "late")
    counts = ", ".join(f"{ingest[name]:,} {name}" for name in names if ingest[name])
    return f"{ingest['received']:,} rows received, {counts}"


def _await_version(load: Load, version: int, beyond: int = 0) -> None:
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
