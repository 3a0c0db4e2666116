# SPDX-License-Identifier: GPL-3.0-or-later
"""A sync: open the snapshot, bind it, reach the target, walk, then mirror (worker.mirror): view, send, check again, delete, commit."""

import asyncio
import os

from offsited import names
from offsited.core.outcome import Reason
from offsited.core.progress import Phase, Progress
from offsited.core.record import Counts
from offsited.core.rsync_output import Tally
from offsited.errors import JobFailed
from offsited.worker import census, mounts, snapshot, target
from offsited.worker.census import Census
from offsited.worker.confirmed import Confirmed
from offsited.worker.job import Job
from offsited.worker.mirror import CANARY, CANARY_BYTES, Mirror
from offsited.worker.snapshot import Snapshot
from offsited.worker.transfer import Transfers
from offsited.worker.view import require


async def sync(job: Job) -> None:
    """Bring a target to the newest snapshot. Raise JobFailed for whatever hinders that; before the commit nothing counts as done."""
    if job.options.dry_run:
        raise JobFailed(Reason.INTERNAL, "a dry run of a sync is not there yet")
    await require(job.tools.gocryptfs)
    confirmed = Confirmed.read(job.files.target(job.target.name))
    opened = await asyncio.to_thread(snapshot.open_newest, job.vault.source, last=confirmed.dated, any_age=job.options.allow_older)
    job.report.note(snapshot=opened.name, snapshot_dated=opened.dated)
    await asyncio.to_thread(_bind, job, opened, confirmed)
    transfers = Transfers(job.tools, job.runtime, job.report)
    reached = await target.reach(job, writing=True)
    found = await target.inspect(transfers, reached.place, job.files.identity(), confirmed.sealed.path)
    if confirmed.commit and not confirmed.is_at_target(found.commit):
        job.report.remark("the commit at the target was not the one confirmed last; everything was compared anew")
    met = await _walk(job, opened)
    try:
        await Mirror(job, opened, confirmed, met, reached, found, transfers).run()
    finally:
        job.report.note(counts=_counts(met, transfers.tally))


def _bind(job: Job, opened: Snapshot, confirmed: Confirmed) -> None:
    """Show the snapshot at plain/backup and what goes with it at plain/offsited, in our mount namespace alone."""
    confirmed.new_tree()
    (confirmed.tree / CANARY).write_bytes(os.urandom(CANARY_BYTES))
    mounts.bind(opened.descriptor, job.files.plain / names.BACKUP_DIR, read_only=True)
    tree = os.open(confirmed.tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mounts.bind(tree, job.files.plain / names.OFFSITED_DIR, read_only=True)
    finally:
        os.close(tree)


async def _walk(job: Job, opened: Snapshot) -> Census:
    def told(entries: int, size: int) -> None:
        job.report.progress(Progress(Phase.WALKING, bytes_done=size, entries_done=entries))

    top = job.files.plain / names.BACKUP_DIR
    met = await census.take(str(top), told)
    if met.directories[os.fsencode(top)] != (opened.device, opened.inode, opened.modified):
        raise JobFailed(Reason.SNAPSHOT_CHANGED, "what is bound is not the snapshot that was opened, or no longer as it was")
    return met


def _counts(met: Census, tally: Tally) -> Counts:
    return Counts(
        entries=met.entries,
        bytes=met.size,
        sent_entries=tally.sent_entries,
        sent_bytes=tally.sent_bytes,
        wire_bytes=tally.wire_bytes,
        deleted_entries=tally.deleted_entries,
    )
