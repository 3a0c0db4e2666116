# SPDX-License-Identifier: GPL-3.0-or-later
"""Bounded memory for a sync of any size: the view is mounted anew, between transfers, once it has shown a lot."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

MOUNT_ENTRIES: Final = 25_000
"""Entries that should be seen through one mount: gocryptfs remembers each as long as it lasts (2.5.1: some 5 KB in reverse mode, garbage
included). A first sync of 200,000 files took no longer so than through one mount, with 10,000 a seventh longer."""


class Renewal:
    """Lets transfers use one view side by side, and has it renewed while none does."""

    def __init__(self, renew: Callable[[], Awaitable[None]]) -> None:
        self._renew = renew
        self._changed = asyncio.Condition()
        self._renewing = False
        self._users = self._shown = 0

    @contextlib.asynccontextmanager
    async def showing(self, entries: int) -> AsyncIterator[None]:
        """Within, the view stays; so many entries will be seen through it. Raise what `renew` raises."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._renewing)
            if self._shown and self._shown + entries > MOUNT_ENTRIES:
                await self._renew_alone()
            self._users += 1
            self._shown += entries
        try:
            yield
        finally:
            async with self._changed:
                self._users -= 1
                self._changed.notify_all()

    async def _renew_alone(self) -> None:
        self._renewing = True
        try:
            await self._changed.wait_for(lambda: not self._users)
            await self._renew()
            self._shown = 0
        finally:
            self._renewing = False
            self._changed.notify_all()
