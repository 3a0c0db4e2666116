# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealing a disk before it travels: a last sync, everything there compared with the manifest, and the disk let go of."""

import asyncio

from offsited.core.outcome import Outcome, Reason
from offsited.core.record import Counts
from offsited.worker.disk import Disk
from offsited.worker.job import DONE, Ending, Job
from offsited.worker.sync import sync_to
from offsited.worker.transfer import Transfers
from offsited.worker.verification import Verification
from offsited.worker.verify_metadata import verify_metadata
from offsited.worker.view import require


async def seal(job: Job) -> Ending:
    """Bring a disk to the newest snapshot, verify its metadata, unmount it. Raise JobFailed; sealed is what ends as done alone."""
    ending, reached = await sync_to(job)
    if ending != DONE:
        return ending
    await require(job.tools.gocryptfs)
    verification = Verification.begin(job, reached, Transfers(job.tools, job.runtime, job.report))
    try:
        await verify_metadata(verification)
    finally:
        await asyncio.to_thread(verification.end)
    if verification.findings.count:
        counts: Counts = job.report.record.counts
        job.report.note(counts=counts.model_copy(update={"differences": verification.findings.count}))
        job.report.remark(f"{verification.findings.count} differences, listed in {verification.findings.file}")
        return Outcome.PARTIAL, Reason.VERIFIED_DIFFERENT
    await reached.flush()
    if isinstance(reached, Disk):
        await reached.let_go()
    return DONE
