# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job says while it runs and leaves behind: its record, systemd's READY, STATUS and WATCHDOG."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from systemd import daemon as sd

from offsited.core.outcome import Outcome, Reason
from offsited.core.progress import Phase, Progress
from offsited.core.record import JobRecord
from offsited.core.snapshot import printable
from offsited.store import VaultFiles

STATUS_EVERY: Final = 0.5
"""Seconds between two STATUS lines at least: each becomes a signal with thirty properties."""

_DETAIL_MAX: Final = 4000


class Report:
    """The record of one job, and its voice towards systemd. The record's file is this worker's alone while the unit runs."""

    def __init__(self, files: VaultFiles, record: JobRecord) -> None:
        self.record = record
        self._files = files
        self._progress = Progress()

    def begin(self) -> None:
        """Record durably that this unit runs the job, and then tell systemd that it does."""
        self.note(started=now(), boot=_boot_id(), invocation=os.environ.get("INVOCATION_ID", ""))
        self._files.write_record(self.record)
        sd.notify(f"READY=1\nSTATUS={self._progress.status_text()}")

    def note(self, **changes: object) -> None:
        """Change fields of the record, which is kept when the job ends."""
        self.record = self.record.model_copy(update=changes)

    def remark(self, sentence: str) -> None:
        """Add a sentence to the record's detail."""
        self.note(detail=printable("\n".join(filter(None, (self.record.detail, sentence))))[-_DETAIL_MAX:])

    def progress(self, progress: Progress) -> None:
        """Say how far the job is. May be called from any thread, as often as one likes."""
        self._progress = progress

    def phase(self, phase: Phase) -> None:
        """Say that a phase begins of which no numbers are known."""
        self.progress(Progress(phase))

    def end(self, outcome: Outcome, reason: Reason) -> None:
        """Record durably how the job ended."""
        self.note(ended=now(), outcome=outcome, reason=reason.value)
        self._files.write_record(self.record)
        sd.notify("STOPPING=1")

    @contextlib.asynccontextmanager
    async def speaking(self) -> AsyncIterator[None]:
        """Within: STATUS follows the progress, and the watchdog is fed as long as the event loop turns."""
        tasks = [asyncio.create_task(self._tell()), asyncio.create_task(_feed_watchdog())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    async def _tell(self) -> None:
        told = ""
        while True:
            if (text := self._progress.status_text()) != told:
                sd.notify(f"STATUS={text}")
                told = text
            await asyncio.sleep(STATUS_EVERY)


def now() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


async def _feed_watchdog() -> None:
    """Per sd_watchdog_enabled(3): twice within each interval that systemd asks for, if it asks."""
    interval = int(os.environ.get("WATCHDOG_USEC", "0")) / 2_000_000
    while interval:
        sd.notify("WATCHDOG=1")
        await asyncio.sleep(interval)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
