"""Brings the keys of an installation to its gateways, and word of their use back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import TidemillError
from tidemill.foundation.instruments import Snapshot
from tidemill.foundation.logs import log
from tidemill.serving.channel import Keys
from tidemill.serving.key_store import KeySource

POLL_S = 0.5
"""How often a change is looked for: a revoked key is refused well within a second."""

USE_EVERY_S = 60.0
USED = "tidemill_key_last_used_seconds"


class KeyFeed:
    """Looks for changes of the keys, again and again.

    Once there is a key, one is needed: revoking the last one closes the door and does not open it.
    A source that cannot be read changes nothing.

    Args:
        source: tells whose keys count; None where there are none.
        require: needs a key even before there is one.
        tell: called with the keys whenever they change.
        shown: returns what the gateways' instruments show.
        clock: measures how long ago uses were kept.
    """

    def __init__(
        self,
        source: KeySource | None,
        *,
        require: bool,
        tell: Callable[[Keys], None],
        shown: Callable[[], Awaitable[list[Snapshot]]],
        clock: Clock,
    ) -> None:
        self._source = source
        self._require = require
        self._tell = tell
        self._shown = shown
        self._clock = clock
        self._kept: dict[str, float] = {}
        self._log = log("serving.keys")
        self.known = asyncio.Event()

    async def run(self) -> None:
        """Follows the source until it is cancelled; ``known`` is set once it has been read."""
        if self._source is None:
            self._tell(Keys(required=self._require))
            self.known.set()
            await asyncio.Event().wait()
            return
        seen: int | None = None
        complained = False
        keep_at = self._clock.monotonic() + USE_EVERY_S
        while True:
            try:
                seen = await self._look(self._source, seen)
                if self._clock.monotonic() >= keep_at:
                    keep_at = self._clock.monotonic() + USE_EVERY_S
                    await self._keep_uses(self._source)
                complained = False
            except TidemillError as error:
                if not complained:
                    self._log.warning("keys.unreadable", reason=str(error))
                complained = True
            await asyncio.sleep(POLL_S)

    async def _look(self, source: KeySource, seen: int | None) -> int:
        revision = await asyncio.to_thread(source.revision)
        if revision != seen:
            keys = await asyncio.to_thread(source.keys)
            self._tell(Keys(required=self._require or revision > 0, keys=keys))
            self._log.info("keys.changed", revision=revision, keys=len(keys))
            self.known.set()
        return revision

    async def _keep_uses(self, source: KeySource) -> None:
        last: dict[str, float] = {}
        for snapshot in await self._shown():
            for (name,), at in snapshot.get(USED, {}).get("rows", ()):
                if at > max(self._kept.get(name, 0.0), last.get(name, 0.0)):
                    last[name] = at
        if last:
            await asyncio.to_thread(source.used, last)
            self._kept.update(last)
