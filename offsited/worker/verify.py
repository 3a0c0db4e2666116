# SPDX-License-Identifier: GPL-3.0-or-later
"""A verification: is what a target holds what its manifest says? From the commit down to every byte, as deep as was asked for.

It reads, and gives way to a sync at any moment (worker.turns). Nothing is taken for a difference that a sync may have caused.
"""

import asyncio
from typing import Final

from offsited import names
from offsited.core.outcome import Outcome, Reason
from offsited.core.record import Counts
from offsited.core.verification import Level
from offsited.worker.destination import handed_over
from offsited.worker.job import DONE, Ending, Job
from offsited.worker.reach import reach
from offsited.worker.transfer import Transfers
from offsited.worker.verification import Verification
from offsited.worker.verify_commit import verify_commit
from offsited.worker.verify_content import verify_all, verify_due, verify_sample
from offsited.worker.verify_metadata import verify_metadata
from offsited.worker.view import require

_BY_TIMER: Final = ""


async def verify(job: Job) -> Ending:
    """Compare a target with what it is known to hold. Raise JobFailed if that cannot be done."""
    listening = handed_over().get(names.FINDINGS_FD)
    await require(job.tools.gocryptfs)
    transfers = Transfers(job.tools, job.runtime, job.report)
    verification = Verification.begin(job, await reach(job, writing=False), transfers)
    try:
        await _verify(verification)
    finally:
        counts = Counts(entries=verification.entries, bytes=verification.read, differences=verification.findings.count)
        job.report.note(counts=counts.model_copy(update={"wire_bytes": transfers.tally.wire_bytes}))
        await asyncio.to_thread(verification.end)
    return await _end(verification, listening)


async def _verify(verification: Verification) -> None:
    options = verification.job.options
    await verification.turns.take(lambda: verify_commit(verification))
    verification.settle()
    if options.level == Level.COMMIT:
        return
    await verification.turns.take(lambda: verify_metadata(verification))
    verification.settle()
    if options.level == Level.DATA:
        await (verify_sample(verification, options.sample) if options.sample else verify_all(verification))
    elif options.level == _BY_TIMER and verification.job.vault.verify_days:
        await verify_due(verification, verification.job.vault.verify_days)


async def _end(verification: Verification, listening: int | None) -> Ending:
    """Say what was found, where it may be said."""
    report, findings = verification.job.report, verification.findings
    if findings.count:
        report.remark(f"{findings.count} differences, listed in {findings.file}")
        if listening is not None:
            await asyncio.to_thread(hand_over, verification, listening)
        if verification.job.options.repair:
            await asyncio.to_thread(findings.ask_for_repair, verification.confirmed.directory)
        return Outcome.PARTIAL, Reason.VERIFIED_DIFFERENT
    if verification.doubts:
        report.remark(f"{verification.doubts} entries were not compared")
        return Outcome.PARTIAL, Reason.TARGET_IN_DOUBT
    return DONE


def hand_over(verification: Verification, listening: int) -> None:
    """Whoever listens may have asked for more than fits."""
    try:
        verification.findings.hand_over(listening)
    except OSError as error:
        verification.job.report.remark(f"what was found could not be handed over: {error.strerror}")
