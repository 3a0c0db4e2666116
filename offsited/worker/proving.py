# SPDX-License-Identifier: GPL-3.0-or-later
"""Hashing files before anything is sent, where only their content can tell what became of them. Few, on an ordinary day none."""

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from offsited.core.progress import Phase, Progress
from offsited.worker.compare import recognise_renames, rename_candidates
from offsited.worker.hashing import hash_files
from offsited.worker.pending import Item, Pending
from offsited.worker.report import Report


@dataclass
class Proving:
    """Asks the content of files of one snapshot, for one plan."""

    pending: Pending
    snapshot: int
    """Descriptor of the snapshot's top."""
    report: Report

    async def unproven(self) -> None:
        """What may be unchanged although its inode says nothing: files of another file system, or of a rebuilt ledger."""
        await self._prove(self.pending.to_compare())

    async def renames(self) -> None:
        """New files that have size and time of one that is gone: they may be that one."""
        await self._prove(rename_candidates(self.pending))

    async def _prove(self, items: Iterable[Item]) -> None:
        stop = threading.Event()
        try:
            await asyncio.to_thread(self._hash, items, stop)
        finally:
            stop.set()  # a canceled job does not wait for the file

    def _hash(self, items: Iterable[Item], stop: threading.Event) -> None:
        done = 0
        for row, sha256 in hash_files(self.snapshot, (item.row for item in items), stop):
            self.pending.set_hash(row.path, sha256)
            done += row.size
            self.report.progress(Progress(Phase.HASHING, bytes_done=done))
        if done:
            recognise_renames(self.pending)
