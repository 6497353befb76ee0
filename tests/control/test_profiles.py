"""The workload of what is live is measured beside a server, kept, and told where it cannot be."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tidemill.control import applications, chores, following, profiling
from tidemill.control.deployments import get_deployment
from tidemill.control.documents import parse_document
from tidemill.control.profiles import WINDOW_S, kept_profile, profile_live
from tidemill.data.ledger import LedgerWriter, PredictionRecord, compact
from tidemill.foundation.home import Home
from tidemill.foundation.instruments import Instruments

WHO = {"by": "test", "reason": "a test"}


def asked(
    home: Home, application: str, values: list[float], *, by: str, ago_s: float, column: str = "x"
) -> None:
    """Writes to the ledger that an application was asked, a hundredth of a second apart."""
    began = home.clock.now() - ago_s
    with LedgerWriter(home.ledger_path, by) as ledger:
        ledger.append_predictions(
            [
                PredictionRecord(
                    request_id=f"{by}-{number}",
                    time=began + number / 100.0,
                    application=application,
                    version=1,
                    source="model",
                    inputs={column: np.array([value], np.float32)},
                    outputs={"y": np.array([value], np.float32)},
                    n=1,
                )
                for number, value in enumerate(values)
            ]
        )


def declared(home: Home, **named: dict[str, Any]) -> None:
    """Applies a document."""
    applications.apply(home, parse_document({"applications": named}, origin="test"), **WHO)


def test_each_live_application_is_measured_by_its_key(home: Home, fill: Any) -> None:
    """Over the last day, from the first request until now; no text of a key is kept; what was
    measured by another key, or before, is not what one asks for.
    """
    fill(home)
    versions = [{"model": "m", "version": 1}]
    declared(
        home,
        a={"versions": versions, "key": ["x"]},
        b={"versions": versions},
        idle={"versions": versions},
    )
    asked(home, "a", [7.0] * 50, by="old", ago_s=2 * WINDOW_S)
    asked(home, "a", [1.0, 2.0, 3.0, 1.0] * 25, by="new", ago_s=10.0)
    asked(home, "b", [1.0, 2.0, 3.0, 1.0] * 25, by="b", ago_s=10.0)
    began = home.clock.now()
    shown = profile_live(home)
    assert sorted(shown) == ["a", "b"]
    assert [shown[name].keys for name in ("a", "b")] == [3, 3]
    assert (shown["a"].head, shown["a"].error) == (1.0, None)
    assert 100 / (60.0 + 10.0) < shown["a"].requests_per_s <= 10.0

    def kept(key: tuple[str, ...], since: float) -> Any:
        return kept_profile(home, "a", key=key, represent={}, since=since)

    found = kept(("x",), began)
    assert (found.profile.requests, found.profile.cardinality) == (100, 3)
    assert found.profile.heavy == ()
    assert kept((), began) is None
    assert kept(("x",), home.clock.now() + 1.0) is None


def test_the_ledger_is_read_once_for_all_and_of_the_past_nothing(
    home: Home, fill: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a long history, or many applications, leave a chore in its time."""
    fill(home)
    versions = [{"model": "m", "version": 1}]
    declared(home, a={"versions": versions}, b={"versions": versions})
    asked(home, "a", [7.0] * 50, by="old", ago_s=2 * WINDOW_S)
    compact(home.ledger_path)
    (old,) = home.ledger_path.glob("predictions/*.parquet")
    for name in ("a", "b"):
        asked(home, name, [1.0, 2.0] * 10, by=name, ago_s=10.0)
    compact(home.ledger_path)
    read: list[str] = []

    def noted(file: Path, *given: Any, **named: Any) -> Any:
        read.append(Path(file).name)
        return pq_read_table(file, *given, **named)

    pq_read_table = pq.read_table
    monkeypatch.setattr(pq, "read_table", noted)
    shown = chores.CHORES["profile"](home)
    assert {name: shown[name].keys for name in shown} == {"a": 2, "b": 2}
    assert len(read) == len(set(read)) == 1
    assert old.name not in read


def test_what_cannot_be_measured_is_told_and_what_is_gone_is_removed(home: Home, fill: Any) -> None:
    """A key that nothing was asked with is an error of its application, and of no other."""
    fill(home)
    versions = [{"model": "m", "version": 1}]
    declared(home, a={"versions": versions, "key": ["x"]}, b={"versions": versions, "key": ["x"]})
    for name in ("a", "b"):
        asked(home, name, [1.0, 2.0] * 10, by=name, ago_s=10.0)
    path = home.cache_path / "workloads" / "a.json"
    assert profile_live(home)["a"].error is None
    assert path.exists()
    path.write_text("not what it was")
    assert kept_profile(home, "a", key=("x",), represent={}, since=0.0) is None
    applications.stop(home, "a", **WHO)
    assert sorted(profile_live(home)) == ["b"]
    assert not path.exists()
    with LedgerWriter(home.ledger_path, "other") as ledger:
        ledger.append_predictions(
            [
                PredictionRecord(
                    request_id="r", time=home.clock.now(), application="c", version=1,
                    source="model", inputs={"z": np.array([1.0])}, outputs={"y": np.array([1.0])},
                    n=1,
                )
            ]
        )  # fmt: skip
    declared(home, c={"versions": versions, "key": ["x"]})
    shown = profile_live(home)
    assert shown["b"].error is None
    assert "'x'" in str(shown["c"].error)
    assert get_deployment(home, "c").key == ("x",)


def test_of_whom_nothing_is_known_any_more_nothing_is_shown(
    home: Home, fill: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was stopped, and one that cannot be measured by its key, though nobody asks."""
    monkeypatch.setattr(following, "SHARE", 10.0)
    monkeypatch.setattr(profiling, "INTERVAL_S", 0.02)
    monkeypatch.setattr(profiling, "AGAIN_S", 0.1)
    fill(home)
    versions = [{"model": "m", "version": 1}]
    declared(home, **{name: {"versions": versions} for name in "abc"})
    for name in "abc":
        asked(home, name, [1.0, 2.0] * 10, by=name, ago_s=10.0, column="z")
    instruments = Instruments()
    others = instruments.counter("others", "Not a workload's", ("application",))
    others.of("a").value += 1

    def shown() -> list[list[str]]:
        found = instruments.snapshot()
        return [
            sorted(labels[0] for labels, _ in found[f"tidemill_workload_{name}"]["rows"])
            for name in ("requests_per_second", "keys", "new_keys", "head")
        ]

    async def until(names: list[str]) -> None:
        while shown() != [names] * 4:
            await asyncio.sleep(0.02)

    async def follow() -> None:
        task = asyncio.create_task(profiling.Profiler(home, instruments).run())
        await until(["a", "b", "c"])
        await asyncio.to_thread(applications.stop, home, "a", **WHO)
        await until(["b", "c"])
        await asyncio.to_thread(declared, home, b={"versions": versions, "key": ["x"]})
        await until(["c"])
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(follow(), 60))
    assert others.of("a").value == 1
