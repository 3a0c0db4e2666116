# SPDX-License-Identifier: GPL-3.0-or-later
"""Adopting a seed: is what lies at a target the disk that was filled and sealed here? Then its commit is where the target goes on from.

It reads: no byte is sent, and nothing at the target changes.
"""

import asyncio
import shutil
from typing import Final

from offsited import names
from offsited.core.commit import digest
from offsited.core.outcome import Outcome, Reason
from offsited.core.progress import Phase
from offsited.core.record import Counts
from offsited.errors import JobFailed
from offsited.worker import heritage, target
from offsited.worker.confirmed import Confirmed, Standing
from offsited.worker.destination import handed_over
from offsited.worker.job import DONE, Ending, Job
from offsited.worker.reach import reach
from offsited.worker.target import Target
from offsited.worker.transfer import Transfers
from offsited.worker.verification import Verification
from offsited.worker.verify import hand_over
from offsited.worker.verify_metadata import verify_metadata
from offsited.worker.view import require

_COPY_DIR: Final = "adopting"
"""In a target's directory here until it is proven that it is the seed."""


async def adopt(job: Job) -> Ending:
    """Compare what lies at a target with what the seed held, and take it over. Raise JobFailed if it is not the seed, or cannot be told."""
    listening = handed_over().get(names.FINDINGS_FD)
    await require(job.tools.gocryptfs)
    seed = Confirmed.read(job.files.target(job.options.seed))
    if seed.commit is None or seed.interrupted:
        raise JobFailed(Reason.SEED_EMPTY)
    transfers = Transfers(job.tools, job.runtime, job.report)
    reached = await reach(job, writing=False)
    key_file = await _recognize(job, seed, reached, transfers)
    own = job.files.target(job.target.name)
    try:
        copied = await asyncio.to_thread(heritage.copy, seed, own / _COPY_DIR)
        verification = Verification.begin(job, reached, transfers, copied.directory)
        await _compare(verification)
        if not verification.findings.count:
            await asyncio.to_thread(heritage.take_over, copied.directory, own)
    finally:
        await asyncio.to_thread(shutil.rmtree, own / _COPY_DIR, ignore_errors=True)
    if verification.findings.count:
        job.report.remark(f"{verification.findings.count} differences, listed in {verification.findings.file}")
        if listening is not None:
            await asyncio.to_thread(hand_over, verification, listening)
        return Outcome.PARTIAL, Reason.SEED_DIFFERENT
    commit = {"commit": seed.digest, "snapshot": seed.commit.snapshot, "snapshot_dated": seed.commit.snapshot_dated}
    job.report.note(**commit, key_file=key_file)
    return DONE


async def _compare(verification: Verification) -> None:
    try:
        await verify_metadata(verification)
    finally:
        counts = Counts(entries=verification.entries, differences=verification.findings.count)
        verification.job.report.note(counts=counts.model_copy(update={"wire_bytes": verification.transfers.tally.wire_bytes}))


async def _recognize(job: Job, seed: Confirmed, reached: Target, transfers: Transfers) -> str:
    """One round trip: whose it is, which commit it has. Return the digest of its key file. Raise JobFailed unless it is the seed's last."""
    job.report.phase(Phase.CHECKING)
    found = await target.inspect(transfers, reached, job.files.identity(), [seed.sealed.commit_path, names.TARGET_KEY_FILE])
    if found.owner is None:
        raise JobFailed(Reason.SEED_OTHER, "there is nothing")
    match seed.standing(found.files.get(seed.sealed.commit_path)):
        case Standing.CONFIRMED:
            return digest(found.files.get(names.TARGET_KEY_FILE, b""))
        case Standing.ROLLED_BACK:
            raise JobFailed(Reason.SEED_OTHER, "it has an older commit of the seed")
        case Standing.LOST:
            raise JobFailed(Reason.SEED_OTHER, "it has no commit where the seed has one")
        case _:
            raise JobFailed(Reason.SEED_OTHER, "it has another commit")
