# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that come and go: each arrival starts one sync where the vault file says so, and a disk that is pulled out ends its job.

An arrival is known by what udev says of it, and is kept on record when it was heeded: neither a storm of events nor a restart of the daemon
makes another one of it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from offsited import names
from offsited.core.config import DiskTarget
from offsited.core.record import Kind, Options
from offsited.engine.jobs import Jobs, now
from offsited.engine.known import KnownVault
from offsited.engine.outside import Disks
from offsited.errors import Busy, Locked, OffsitedError

_log = logging.getLogger(__name__)

_ABSENT: Final = ""
_Start = Callable[[str, str, Options], Awaitable[object]]
"""Given vault, target and options: start a sync. Raise as `Engine.sync`."""


class Arrivals:
    """The disk targets of all vaults, as they were when last looked at. One that is cloned is not taken to be there."""

    def __init__(self, disks: Disks, jobs: Jobs, start: _Start) -> None:
        self._disks = disks
        self._jobs = jobs
        self._start = start
        self._seen: dict[tuple[str, str], str] = {}
        self._since: dict[tuple[str, str], int] = {}
        self._waiting: dict[tuple[str, str], str] = {}
        """Arrivals whose sync could not start yet: the vault is locked, or another job writes to it."""
        self._told: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def since(self, vault: str, target: str) -> int:
        """When a disk was seen to arrive; 0 = it was there before us, or is not there."""
        return self._since.get((vault, target), 0)

    def look(self, vault: KnownVault, target: DiskTarget, *, heed: bool = True) -> bool:
        """See whether a target's disk came or went, and return whether it did. `heed`: what is new here counts as an arrival."""
        key = (vault.name, target.name)
        arrival = self._disks.arrival(target)
        before = self._seen.get(key)
        if arrival == before:
            return False
        self._seen[key] = arrival
        self._waiting.pop(key, None)
        self._since.pop(key, None)
        if before is not None:
            self._since[key] = now()
        if arrival == _ABSENT:
            if not self._disks.present(target):
                self._gone(vault.name, target.name)
        elif heed and target.on_arrival == "sync":
            self._waiting[key] = arrival
            self._spawn(self._arrived(vault, target.name, arrival))
        else:
            self._spawn(self._keep(vault, target.name, arrival))
        return True

    def again(self, vault: KnownVault) -> None:
        """What kept a vault's arrivals waiting may be over."""
        for (name, target), arrival in list(self._waiting.items()):
            if name == vault.name:
                self._spawn(self._arrived(vault, target, arrival))

    def forget(self, vault: str) -> None:
        """A vault is configured no longer."""
        for kept in (self._seen, self._since, self._waiting):
            for key in [key for key in kept if key[0] == vault]:
                del kept[key]

    def _gone(self, vault: str, target: str) -> None:
        """Whoever works with the disk need not find out by errors, one by one. A seal lets go of it by itself, and has not ended then."""
        for job in self._jobs.running():
            if (job.record.vault, job.record.target) == (vault, target) and job.record.kind is not Kind.SEAL:
                _log.error("vault %s: the disk of target %s went away in job %d", vault, target, job.number, extra=_fields(vault, target))
                self._spawn(self._jobs.cancel(job))

    async def _arrived(self, vault: KnownVault, target: str, arrival: str) -> None:
        key = (vault.name, target)
        if await asyncio.to_thread(vault.files.arrival, target) == arrival:
            self._waiting.pop(key, None)
            return
        if self._waiting.get(key) != arrival or self._seen.get(key) != arrival:
            return
        del self._waiting[key]  # before anything is awaited: of several that come here one goes on
        try:
            # A locked vault is on record once per arrival, like a timed sync that finds it so.
            await self._start(vault.name, target, Options(timed=arrival not in self._told, arrived=True))
            _log.info("vault %s: the disk of target %s is here; syncing", vault.name, target, extra=_fields(vault.name, target))
        except (Busy, Locked) as error:
            self._told.add(arrival)
            self._waiting.setdefault(key, arrival)
            _log.info("vault %s: the disk of target %s is here and waits: %s", *key, error.message, extra=_fields(*key))
            return
        except OffsitedError as error:
            _log.error("vault %s: the disk of target %s is here, but: %s", *key, error.message, extra=_fields(*key))
        await self._keep(vault, target, arrival)

    @staticmethod
    async def _keep(vault: KnownVault, target: str, arrival: str) -> None:
        """Without a record of it the worst is one sync too many, after a restart of the daemon."""
        try:
            await asyncio.to_thread(vault.files.write_arrival, target, arrival)
        except OSError as error:  # no room; or the vault was removed
            message = "vault %s: the arrival of target %s cannot be kept on record: %s"
            _log.warning(message, vault.name, target, error.strerror, extra=_fields(vault.name, target))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _fields(vault: str, target: str) -> dict[str, str]:
    return {names.FIELD_VAULT: vault, names.FIELD_TARGET: target}
