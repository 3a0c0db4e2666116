# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that were pulled out from below an array or a volume: what is left of those is taken away, or the disks could not come back."""

import asyncio
import logging

from offsited import names
from offsited.core.config import DiskTarget
from offsited.core.unit import clear_unit
from offsited.engine.jobs import Jobs
from offsited.engine.outside import Disks, Units
from offsited.errors import OffsitedError

_log = logging.getLogger(__name__)


class Clearing:
    """What is left is cleared away once, as soon as no job uses it; and tried again when a disk comes or goes, or a job ends."""

    def __init__(self, disks: Disks, units: Units, jobs: Jobs) -> None:
        self._disks = disks
        self._units = units
        self._jobs = jobs
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def look(self, vault: str, target: DiskTarget) -> None:
        """See whether there is something to clear away of a target."""
        device = self._disks.hollow(target)
        used = any((job.record.vault, job.record.target) == (vault, target.name) for job in self._jobs.running())
        if device and not used and device not in self._tasks:
            task = asyncio.create_task(self._clear(vault, target.name, device))
            self._tasks[device] = task
            task.add_done_callback(lambda _: self._tasks.pop(device))

    async def _clear(self, vault: str, target: str, device: str) -> None:
        fields = {names.FIELD_VAULT: vault, names.FIELD_TARGET: target}
        spec = clear_unit(vault, device)
        try:
            unit = await self._units.start(spec, lambda _text: None, None, {})
            end = await unit.ended()
        except OffsitedError as error:
            _log.warning("vault %s: what is left of target %s stays: %s", vault, target, error.message, extra=fields)
            return
        finally:
            self._units.forget(spec.name)
        if end.exited and end.exit_status == 0:
            _log.info("vault %s: the disks of target %s were pulled out; %s was cleared away", vault, target, device, extra=fields)
        else:
            _log.warning("vault %s: what is left of target %s stays: %s is in use", vault, target, device, extra=fields)
