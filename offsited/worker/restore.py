# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore by the manifest: read what the target holds, fetch its files by and by, show them in clear, write what the rows say.

Waits for no sync and holds none up: it works on a copy of the manifest. Interrupted, it goes on where it was when it is asked for again.
"""

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core.commit import Commit, digest
from offsited.core.manifest import TOP, ManifestDamaged, Row
from offsited.core.outcome import Outcome, Reason
from offsited.core.progress import Phase
from offsited.core.record import Counts
from offsited.errors import JobFailed
from offsited.worker import segments, target
from offsited.worker.confirmed import Confirmed
from offsited.worker.destination import Destination, handed_over, requested_paths
from offsited.worker.fetching import Clear, shown_in_clear
from offsited.worker.job import DONE, Ending, Job
from offsited.worker.ledger import LEDGER_FILE, Ledger
from offsited.worker.plainly import restore_plainly
from offsited.worker.reach import reach
from offsited.worker.rebuilding import Rebuilding
from offsited.worker.transfer import Transfers
from offsited.worker.view import require

_SHOWN: Final = 20
"""Differences in a record; all of them are in the file that it names."""


async def restore(job: Job) -> Ending:
    """Write what a target holds, or the paths asked for, into the destination. Raise JobFailed, before the first write where it can."""
    given = handed_over()
    destination = await asyncio.to_thread(Destination.take, given.get(names.DESTINATION_FD), job.runtime / "destination")
    wanted = requested_paths(given.get(names.PATHS_FD))
    await require(job.tools.gocryptfs)
    taken_up = await asyncio.to_thread(destination.begin, job.files.identity(), job.target.name, wanted)
    restoring = _Restoring(job, destination, wanted, Transfers(job.tools, job.runtime, job.report), taken_up)
    try:
        return await restoring.run()
    finally:
        if not restoring.begun:
            await asyncio.to_thread(destination.leave)


@dataclass
class _Restoring:
    """The steps of a restore."""

    job: Job
    destination: Destination
    wanted: tuple[bytes, ...]
    transfers: Transfers
    begun: bool
    """Something may have been written: what an interruption leaves is to be taken up again."""

    async def run(self) -> Ending:
        reached = await reach(self.job, writing=False)
        found = await target.inspect(self.transfers, reached, self.job.files.identity(), [])
        if found.owner is None:
            raise JobFailed(Reason.TARGET_EMPTY)
        if self.job.options.without_manifest:
            return await restore_plainly(self.job, self.destination, self.wanted, self.transfers, reached, begins=self._begin)
        async with shown_in_clear(self.job, reached, self.transfers, self.destination.scratch) as clear:
            with Ledger.opened(await manifest(self.job, clear, self.destination)) as ledger:
                selected = await asyncio.to_thread(selection, ledger, self.wanted)
                self._begin()
                rebuilding = Rebuilding(self.job, ledger, self.destination, clear, selected)
                await self._rebuild(rebuilding)
        return await asyncio.to_thread(_ending, self.job, self.destination, rebuilding.top)

    def _begin(self) -> None:
        self.begun = True

    async def _rebuild(self, rebuilding: Rebuilding) -> None:
        try:
            await rebuilding.run()
        finally:
            self.job.report.note(counts=_counts(self.job, rebuilding, self.transfers))


async def manifest(job: Job, clear: Clear, destination: Destination) -> Path:
    """Return a ledger of what the target holds: a copy of our own if that is of the same commit, else one made of the target's segments."""
    job.report.phase(Phase.FETCHING)
    content, commit = await clear.read_commit()
    job.report.note(
        snapshot=commit.snapshot, snapshot_dated=commit.snapshot_dated, counts=Counts(entries=commit.entries, bytes=commit.bytes)
    )
    await asyncio.to_thread(destination.is_of, digest(content))
    file = destination.scratch / LEDGER_FILE
    await asyncio.to_thread(Ledger.remove, file)
    confirmed = Confirmed.read(job.files.target(job.target.name))
    if confirmed.content == content and await asyncio.to_thread(_copy, confirmed, file):
        return file
    await clear.fetch_own([segment.name for segment in commit.segments])
    try:
        await asyncio.to_thread(_build, clear.own, commit, file)
    except ManifestDamaged as error:
        raise JobFailed(Reason.MANIFEST_DAMAGED, error.message) from error
    return file


def _copy(confirmed: Confirmed, file: Path) -> bool:
    """Copy our own ledger of the target, as it is at one moment; whether it is of the confirmed commit."""
    if not confirmed.manifest.exists():
        return False
    try:
        with Ledger.opened(confirmed.manifest) as ours, Ledger.opened(file) as copy:
            ours.database.backup(copy.database)
            return copy.commit_digest == confirmed.digest
    except (ManifestDamaged, sqlite3.Error):
        return False


def _build(directory: Path, commit: Commit, file: Path) -> None:
    Ledger.remove(file)
    with Ledger.opened(file) as ledger:
        ledger.rebuild((segments.rows(directory / segment.name, segment) for segment in commit.segments), "restored")


def selection(ledger: Ledger, wanted: Sequence[bytes]) -> list[Row]:
    """The rows of the paths asked for. Raise JobFailed if one is not in the backup."""
    found: list[Row] = []
    for path in sorted(wanted or (TOP,)):
        row = ledger.row(path)
        if row is None:
            raise JobFailed(Reason.PATH_NOT_IN_BACKUP, path.decode("utf-8", "backslashreplace"))
        if not any(path.startswith(one.path + b"/") for one in found):
            found.append(row)
    return found


def _counts(job: Job, rebuilding: Rebuilding, transfers: Transfers) -> Counts:
    written = {"sent_entries": rebuilding.entries, "sent_bytes": rebuilding.bytes, "wire_bytes": transfers.tally.wire_bytes}
    return job.report.record.counts.model_copy(update=written)


def _ending(job: Job, destination: Destination, top: Row | None) -> Ending:
    """Done, or `partial` with what is not as the manifest says."""
    differences = destination.differences.read()
    listed = job.files.jobs / f"{job.number}.differences"
    if differences:
        destination.differences.move(listed)
    destination.finish()
    if top:  # removing what was ours there has changed it
        os.utime(destination.point, ns=(top.mtime, top.mtime))
    if not differences:
        return DONE
    for line in differences[:_SHOWN]:
        job.report.remark(line)
    job.report.remark(f"{len(differences)} differences in all, listed in {listed}")
    return Outcome.PARTIAL, Reason.RESTORED_DIFFERENT
