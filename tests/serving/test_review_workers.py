"""The pool of workers follows the number that is wanted, up and down."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.serving.log_ring import LogRing
from tidemill.serving.worker_pool import WorkerPool
from tidemill.serving.worker_process import WorkerKey

LOADER = """
from types import SimpleNamespace

def open_nothing(folder, *, trust_code, threads, device):
    return SimpleNamespace(
        signature=SimpleNamespace(inputs=[]), predict=lambda batch: batch, close=lambda: None
    )
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerPool:
    """A pool whose workers load nothing."""
    (tmp_path / "loads_nothing.py").write_text(LOADER)
    paths = filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return WorkerPool(
        tmp_path,
        wanted=lambda: None,
        clock=SYSTEM_CLOCK,
        ring=LogRing(SYSTEM_CLOCK),
        loader="loads_nothing:open_nothing",
    )


@pytest.fixture
def key(tmp_path: Path) -> WorkerKey:
    """What its workers serve."""
    return WorkerKey(
        application="a", model="m", version=1, folder=str(tmp_path), trust_code=False, threads=1
    )


def test_workers_over_the_wanted_number_are_stopped(pool: WorkerPool, key: WorkerKey) -> None:
    """From three replicas to one: two end, the oldest stays, and none is counted as a death."""

    async def main() -> None:
        try:
            await pool.ensure(key, 3)
            started = pool.alive(key)
            assert len(started) == 3
            surplus = pool.take_unused({key: 1})
            assert surplus == [*started[1:]]
            await pool.stop(surplus)
            assert pool.alive(key) == started[:1]
            assert [each.alive for each in started] == [True, False, False]
            assert pool.restarts == 0
            assert len(pool.take_unused({})) == 1
        finally:
            await pool.stop_all()

    asyncio.run(main())


def test_those_who_ask_for_the_same_workers_at_once_share_them(
    pool: WorkerPool, key: WorkerKey
) -> None:
    """However many ask while they start, there are as many as one of them wants."""

    async def main() -> None:
        try:
            await asyncio.gather(pool.ensure(key, 2), pool.ensure(key, 2), pool.ensure(key, 1))
            assert len(pool.alive(key)) == 2
        finally:
            await pool.stop_all()

    asyncio.run(main())


def test_who_is_patient_has_a_worker_also_of_a_kind_that_keeps_dying(
    pool: WorkerPool, key: WorkerKey
) -> None:
    """While it may not be started again, others are told nothing; a new revision waits for it."""

    async def main() -> None:
        try:
            for _ in range(3):
                await pool.ensure(key, 1, patient=True)
                (worker,) = pool.alive(key)
                worker.kill()
                while pool.alive(key):
                    await asyncio.sleep(0.005)
            await pool.ensure(key, 1)
            assert pool.alive(key) == ()
            await pool.ensure(key, 1, patient=True)
            assert len(pool.alive(key)) == 1
        finally:
            await pool.stop_all()

    asyncio.run(main())
