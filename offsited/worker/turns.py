# SPDX-License-Identifier: GPL-3.0-or-later
"""Giving way to a sync: what a reader of a target does, it does while no sync of its vault runs, or does again.

No lock is taken, so a sync never waits. That one runs is seen by its unit's own directory below /run, which systemd makes and takes away
with the unit; that one ran, by the state of the target that it leaves.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from offsited import names
from offsited.core.progress import Phase
from offsited.errors import JobFailed
from offsited.worker.confirmed import COMMIT_FILE, INTENT_FILE
from offsited.worker.job import Job

_Result = TypeVar("_Result")
_LOOK_EVERY: Final = 0.5
"""Seconds within which a reader stops when a sync starts."""


class Overtaken(Exception):
    """A sync runs, or ran: what was just read may be neither of the old snapshot nor of the new one."""


class Turns:
    """The turns of one job that reads."""

    def __init__(self, job: Job) -> None:
        self._report = job.report
        self._unit = job.runtime.with_name(names.runtime_directory(names.job_unit(job.vault.name)))
        self._state = job.files.target(job.target.name)
        self._epoch: tuple[object, ...] = ()

    async def take(self, work: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
        """Return what `work` returns, once it was done without a sync in between; it is begun anew as often as one comes."""
        while True:
            await self._free()
            self._epoch = self._look()
            try:
                result = await self._unless_overtaken(work())
                self.check()
            except Overtaken:
                continue
            except JobFailed:
                if self._overtaken:  # what was found to be wrong may be of the sync's making
                    continue
                raise
            return result

    def check(self) -> None:
        """Raise Overtaken if what was read since the turn began cannot be relied on. May be called from any thread."""
        if self._overtaken:
            raise Overtaken

    @property
    def _overtaken(self) -> bool:
        return self._unit.exists() or self._look() != self._epoch

    async def _free(self) -> None:
        if self._unit.exists():
            self._report.phase(Phase.WAITING)
        while self._unit.exists():  # noqa: ASYNC110 - it is systemd that takes it away
            await asyncio.sleep(_LOOK_EVERY)

    async def _unless_overtaken(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Await `work`, and end it when a sync starts."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({task}, timeout=_LOOK_EVERY))[0]:
                if self._unit.exists():
                    raise Overtaken
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})

    def _look(self) -> tuple[object, ...]:
        """What every sync that changes something at the target changes here: the commit, or the intent."""
        return tuple(_identity(os.path.join(self._state, name)) for name in (COMMIT_FILE, INTENT_FILE))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns
