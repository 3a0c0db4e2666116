# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the machine awake while a job runs, and not for ever: a job that hangs must not drain a battery."""

import asyncio
import logging
import os
from typing import Final

from offsited import names
from offsited.core.record import JobRecord
from offsited.engine.outside import Sleep
from offsited.errors import OffsitedError

_log = logging.getLogger(__name__)

LIMIT: Final = 6 * 3600.0
"""Seconds for one job at most."""


class Awake:
    """Inhibitor locks for each job that runs. A daemon that ends lets go of them, and the next one takes them again."""

    def __init__(self, sleep: Sleep) -> None:
        self._sleep = sleep
        self._held: dict[int, asyncio.Task[None]] = {}

    def job_runs(self, record: JobRecord) -> None:
        """From now on, until it has ended or LIMIT is over."""
        self._held[record.job] = asyncio.get_running_loop().create_task(self._hold(record))

    def job_ended(self, job: int) -> None:
        """Let go."""
        task = self._held.pop(job, None)
        if task is not None:
            task.cancel()

    async def _hold(self, record: JobRecord) -> None:
        fields = {names.FIELD_VAULT: record.vault, names.FIELD_JOB: str(record.job)}
        try:
            descriptors = await self._sleep.inhibit(f"{record.kind} of vault {record.vault}, job {record.job}")
        except OffsitedError as error:  # a machine without logind
            _log.info("nobody keeps this machine awake: %s", error.message, extra=fields)
            return
        try:
            await asyncio.sleep(LIMIT)
            _log.warning("job %d runs for %d hours: the machine may sleep now", record.job, LIMIT // 3600, extra=fields)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
