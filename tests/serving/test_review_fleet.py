"""A machine that is short of something for a moment does not end the server."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.settings import LedgerSettings, LogSettings, ServeSettings
from tidemill.serving import gateway_process
from tidemill.serving.channel import Hello
from tidemill.serving.children import Child
from tidemill.serving.fleet import Fleet, Place
from tidemill.serving.listening import open_listener


def test_a_gateway_that_cannot_be_started_now_is_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No processes left for once: the next attempt succeeds, and the fleet goes on."""
    attempts = []

    class Refused(Child):
        def start(self, *args: object) -> None:
            attempts.append(self)
            if len(attempts) == 1:
                raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
            super().start()

    monkeypatch.setattr(gateway_process, "Child", Refused)
    settings = ServeSettings(port=0)

    async def main() -> None:
        with open_listener(settings) as listener:
            hello = Hello(
                gateway="",
                serve=settings,
                ledger=LedgerSettings(),
                logs=LogSettings(),
                ledger_path=str(tmp_path),
            )
            fleet = Fleet(
                [Place(name="gateway-0", socket=listener)],
                hello=hello,
                behind=lambda: None,
                asked=lambda *_: None,
                said=lambda *_: None,
                clock=SYSTEM_CLOCK,
            )
            fleet.start()
            broken = asyncio.create_task(fleet.broken())
            try:
                async with asyncio.timeout(10):
                    while fleet.status()[0]["pid"] is None:
                        assert not broken.done(), broken.exception()
                        await asyncio.sleep(0.01)
                assert fleet.restarts == 1
            finally:
                await fleet.stop(1.0)
                broken.cancel()
                await asyncio.gather(broken, return_exceptions=True)

    asyncio.run(main())
