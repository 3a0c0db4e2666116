# SPDX-License-Identifier: GPL-3.0-or-later
"""Has whoever must know told, by units of their own. Nothing waits for them, and what becomes of them harms nobody:
`offsited-watch.timer` looks again soon."""

import asyncio
import logging

from offsited import names
from offsited.core import unit
from offsited.engine.known import KnownVault
from offsited.engine.outside import Units
from offsited.errors import OffsitedError
from offsited.store import Store

_log = logging.getLogger(__name__)


class Teller:
    """Starts `offsited.notices` when a job has news."""

    def __init__(self, store: Store, units: Units) -> None:
        self._store = store
        self._units = units
        self._tasks: set[asyncio.Task[None]] = set()

    def started(self, vault: KnownVault, job: int) -> None:
        """A job has started."""
        self._tell(vault, job, unit.START)

    def ended(self, vault: KnownVault, job: int) -> None:
        """A job has ended, and its record says how."""
        self._tell(vault, job, unit.TELL)

    def skipped(self, vault: KnownVault, job: int) -> None:
        """A timed run was skipped, because this job still runs."""
        self._tell(vault, job, unit.SKIPPED)

    def _tell(self, vault: KnownVault, job: int, event: str) -> None:
        task = asyncio.get_running_loop().create_task(self._run(vault, job, event))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, vault: KnownVault, job: int, event: str) -> None:
        notify = await asyncio.to_thread(self._store.read_notify)
        if not notify.ways or (event == unit.START and not notify.ping):
            return
        spec = unit.notify_unit(vault.name, job, event, str(vault.files.plain))
        try:
            started = await self._units.start(spec, lambda _text: None, None, {})
        except OffsitedError as error:
            fields = {names.FIELD_VAULT: vault.name}
            _log.warning("notices of vault %s wait for %s: %s", vault.name, names.WATCH_TIMER, error.message, extra=fields)
            return
        try:
            await started.ended()
        finally:
            self._units.forget(spec.name)
