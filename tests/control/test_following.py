"""What follows the ledger is done when it has grown, and only then; a failure ends nothing."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import numpy as np
import pytest

from tidemill.control import following
from tidemill.data.ledger import LedgerWriter, PredictionRecord
from tidemill.foundation.home import Home
from tidemill.foundation.instruments import Counter


def grow(home: Home, by: str) -> None:
    """Adds a prediction to the ledger."""
    with LedgerWriter(home.ledger_path, by) as ledger:
        ledger.append_predictions(
            [
                PredictionRecord(
                    request_id=by, time=home.clock.now(), application="a", version=1,
                    source="model", inputs={"x": np.array([1.0])}, outputs={"y": np.array([1.0])},
                    n=1,
                )
            ]
        )  # fmt: skip


def test_a_chore_is_done_again_when_the_ledger_has_grown(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time in a process of its own, and not while nothing is added."""
    monkeypatch.setattr(following, "SHARE", 10.0)
    done: list[Any] = []

    async def follow() -> None:
        task = asyncio.create_task(
            following.follow_ledger(home, "profile", done.append, Counter(), interval_s=0.02)
        )
        for times in (1, 2):
            grow(home, f"gateway-{times}")
            while len(done) < times:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)
            assert len(done) == times
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(follow(), 60))
    assert done == [{}, {}]


def test_a_chore_that_fails_is_told_and_tried_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands in its way may go."""
    monkeypatch.setattr(following, "SHARE", 10.0)
    grow(home, "gateway-1")
    blocks = home.ledger_path / "compacted.json"
    blocks.write_text("no manifest")
    done: list[Any] = []
    failures = Counter()

    async def follow() -> None:
        task = asyncio.create_task(
            following.follow_ledger(home, "compact", done.append, failures, interval_s=0.02)
        )
        while "chore.failed" not in (said := capsys.readouterr().err):
            await asyncio.sleep(0.02)
        assert "compact" in said
        blocks.unlink()
        while not done:
            await asyncio.sleep(0.02)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(follow(), 60))
    assert done[0] == 1
    assert failures.value >= 1


def test_a_chore_that_runs_out_of_time_is_ended_counted_and_told(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what it was, how long it had, and what to do."""
    monkeypatch.setattr(following, "SHARE", 10.0)
    grow(home, "gateway-1")
    failures = Counter()

    async def follow() -> None:
        task = asyncio.create_task(
            following.follow_ledger(
                home, "profile", print, failures, interval_s=0.02, within_s=0.01
            )
        )
        while failures.value < 2:
            await asyncio.sleep(0.02)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(follow(), 60))
    said = capsys.readouterr().err
    assert "'profile' was ended: it was not done within 0.01 s" in said
    assert "tidemill workload" in said


@pytest.mark.parametrize("came", [{"a": 1}, {}])
def test_what_changes_with_time_is_done_again_though_nothing_is_added(
    home: Home, monkeypatch: pytest.MonkeyPatch, came: dict[str, int]
) -> None:
    """Unless it came to nothing, of which nothing can become."""
    monkeypatch.setattr(following, "SHARE", 1e6)
    done: list[Any] = []

    async def do_chore(*_: Any, **__: Any) -> Any:
        return came

    monkeypatch.setattr(following, "do_chore", do_chore)
    follow = following.follow_ledger(
        home, "profile", done.append, Counter(), interval_s=0.01, again_s=0.05
    )

    async def some_time() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await follow

    asyncio.run(some_time())
    assert (1 < len(done) <= 11) if came else len(done) == 1
