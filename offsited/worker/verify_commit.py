# SPDX-License-Identifier: GPL-3.0-or-later
"""The first step of a verification: whose a target is, which commit it has and which one before, and its key file."""

from offsited import names
from offsited.core.commit import digest, parse_commit
from offsited.core.outcome import Reason
from offsited.core.progress import Phase
from offsited.core.verification import Difference, What
from offsited.errors import JobFailed
from offsited.worker import target
from offsited.worker.confirmed import COMMIT_FILE, PREVIOUS_FILE, Confirmed, Standing
from offsited.worker.fetching import Clear, shown_in_clear
from offsited.worker.target import Found
from offsited.worker.verification import Verification, own


async def verify_commit(verification: Verification) -> None:
    """Compare it with what was confirmed last. Raise JobFailed if there is nothing to compare, or if nothing can be said of it."""
    verification.anew()
    job = verification.job
    job.report.phase(Phase.CHECKING)
    confirmed = verification.confirmed
    looked_for = [names.TARGET_KEY_FILE, *filter(None, [confirmed.sealed.commit_path])]
    found = await target.inspect(verification.transfers, verification.reached, job.files.identity(), looked_for)
    sealed = found.files.get(confirmed.sealed.commit_path)
    _require(confirmed, found, sealed)
    if confirmed.commit:
        job.report.note(snapshot=confirmed.commit.snapshot, snapshot_dated=confirmed.commit.snapshot_dated)
    if found.files.get(names.TARGET_KEY_FILE) != job.files.key_file.read_bytes():
        verification.findings.note([own(names.TARGET_KEY_FILE, What.KEY_FILE, "not the vault's key file as it is here")])
    async with shown_in_clear(job, verification.reached, verification.transfers, verification.scratch) as clear:
        standing = confirmed.standing(sealed)
        if standing is not Standing.CONFIRMED:
            verification.findings.note([await _other(verification, standing, clear, sealed or b"")])
        elif not await _has_predecessor(confirmed, clear):
            verification.findings.note([own(PREVIOUS_FILE, What.HISTORY, "the commit before is missing or damaged")])


def _require(confirmed: Confirmed, found: Found, sealed: bytes | None) -> None:
    """Raise JobFailed unless a commit is known that no job is about to replace."""
    if found.owner is None:
        raise JobFailed(Reason.TARGET_EMPTY)
    if confirmed.commit is None:
        raise JobFailed(Reason.TARGET_EMPTY if confirmed.interrupted else Reason.TARGET_UNKNOWN)
    announced = confirmed.announced()
    if confirmed.intends_all or (announced and announced.arrived(sealed)):
        raise JobFailed(Reason.TARGET_IN_DOUBT)


async def _has_predecessor(confirmed: Confirmed, clear: Clear) -> bool:
    if confirmed.commit is None or not confirmed.commit.previous:
        return True
    previous = await _read(clear, PREVIOUS_FILE)
    return previous is not None and digest(previous) == confirmed.commit.previous


async def _other(verification: Verification, standing: Standing, clear: Clear, sealed: bytes) -> Difference:
    """What it is that lies there instead of the commit. Raise JobFailed if it is somebody else's."""
    if standing is Standing.ROLLED_BACK:
        return own(COMMIT_FILE, What.ROLLED_BACK, "an older commit of ours")
    if standing is Standing.LOST:
        return own(COMMIT_FILE, What.COMMIT, "there is none")
    content = await _read(clear, COMMIT_FILE)
    if content is not None and parse_commit(content) is not None:
        raise JobFailed(Reason.TARGET_UNKNOWN)
    verification.findings.note_damaged_commit(digest(sealed))
    return own(COMMIT_FILE, What.COMMIT, "it cannot be read")


async def _read(clear: Clear, name: str) -> bytes | None:
    """A file of ours; None if there is none, or if it is damaged."""
    try:
        return await clear.read_own(name)
    except JobFailed as error:
        if error.reason == Reason.MANIFEST_DAMAGED:
            return None
        raise
