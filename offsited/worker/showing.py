# SPDX-License-Identifier: GPL-3.0-or-later
"""The encrypted view of `plain/` for one job, which may begin before it is surely needed: gocryptfs takes a while to derive its key."""

import asyncio
import contextlib
import os
from typing import Final, Self

from offsited import names
from offsited.core import gocryptfs
from offsited.worker.job import Job
from offsited.worker.view import View, mounted, require

_STARTS_WITHIN: Final = 3.0


class Showing:
    """At most one view, from when it is first asked for to the end of the `with` block."""

    def __init__(self, job: Job) -> None:
        self.control = job.runtime / "control"
        """gocryptfs's control socket, while there is a view."""
        self._job = job
        self._ending = contextlib.AsyncExitStack()
        self._mounting: asyncio.Task[View] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    def begin(self) -> asyncio.Task[View]:
        """Start gocryptfs unless that was done. The task ends when the view is there, or raises JobFailed."""
        if self._mounting is None:
            self._mounting = asyncio.create_task(self._mount())
        return self._mounting

    async def end(self) -> None:
        """End gocryptfs, if it was started. Nobody uses the view any more."""
        if self._mounting is not None:
            await asyncio.wait({self._mounting}, timeout=_STARTS_WITHIN)  # it is ended in better order when it has begun
            self._mounting.cancel()
            await asyncio.wait({self._mounting})
        await self._ending.aclose()

    async def _mount(self) -> View:
        job = self._job
        await require(job.tools.gocryptfs)
        point = job.runtime / "view" / names.CURRENT_DIR
        await asyncio.to_thread(point.parent.mkdir, mode=0o700)
        command = gocryptfs.reverse_mount(job.tools.gocryptfs, job.files.plain, point, control=self.control, notify=os.getpid())
        return await self._ending.enter_async_context(mounted(command, point, gocryptfs.REVERSE_FILE_SYSTEM, key=job.key))
