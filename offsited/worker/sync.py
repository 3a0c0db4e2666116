# SPDX-License-Identifier: GPL-3.0-or-later
"""A sync: open the snapshot, bind it, look at the target, survey what changed, and then mirror it (worker.mirror) if anything did."""

import asyncio
import itertools
import math
import os
from dataclasses import replace
from typing import Final

from offsited import names
from offsited.core.commit import digest
from offsited.core.gocryptfs import LONG_NAME
from offsited.core.outcome import Outcome, Reason
from offsited.core.paths import exclude_line
from offsited.core.progress import Phase
from offsited.core.record import Counts
from offsited.core.seeding import heirs
from offsited.errors import JobFailed
from offsited.store import KeyRecord
from offsited.worker import heritage, mending, mounts, snapshot, target
from offsited.worker.books import Books
from offsited.worker.confirmed import Announced, Confirmed, Standing
from offsited.worker.disk import Disk
from offsited.worker.holding import Holding, hold
from offsited.worker.job import DONE, Ending, Job
from offsited.worker.mirror import Mirror, check_top
from offsited.worker.preview import preview
from offsited.worker.reach import reach
from offsited.worker.report import now
from offsited.worker.showing import Showing
from offsited.worker.snapshot import Snapshot
from offsited.worker.surveying import surveyed
from offsited.worker.target import Found, Target
from offsited.worker.transfer import Transfers, patiently
from offsited.worker.way import put_canary

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LISTED_MAX: Final = 20
_CROWDED: Final = 300
"""Long names in a directory from which on it is worth a word: 200 take gocryptfs 0.6 s, 800 take it 16 s (measured with 2.5.1)."""
WAITS: Final = (2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 240.0, 480.0)
"""Seconds between the tries of a timed sync to reach its target: after a boot or a resume the network may take a while, or its host."""


async def sync(job: Job) -> Ending:
    """Bring a target to the newest snapshot. Raise JobFailed for whatever hinders that; before the commit nothing counts as done."""
    if job.options.dry_run:
        return await preview(job, *await _opened(job))
    return (await sync_to(job))[0]


async def _opened(job: Job) -> tuple[Snapshot, Confirmed]:
    """The newest snapshot, bound, and what the target is known to hold. Raise JobFailed."""
    confirmed = Confirmed.read(job.files.target(job.target.name))
    opened = await asyncio.to_thread(snapshot.open_newest, job.vault.source, last=confirmed.dated, any_age=job.options.allow_older)
    job.report.note(snapshot=opened.name, snapshot_dated=opened.dated)
    return await asyncio.to_thread(_bind, job, opened, confirmed), confirmed


async def sync_to(job: Job) -> tuple[Ending, Target]:
    """As `sync`, for real; return the open target as well."""
    opened, confirmed = await _opened(job)
    transfers = Transfers(job.tools, job.runtime, job.report)
    reached = await reach(job, writing=True)
    syncing = _Sync(job, opened, transfers, reached)
    try:
        ending = await syncing.run(confirmed)
    finally:
        if isinstance(reached, Disk):
            job.report.note(**await asyncio.to_thread(reached.facts))
    job.report.note(newer=not await asyncio.to_thread(snapshot.is_newest, job.vault.source, opened))
    return ending, reached


def _bind(job: Job, opened: Snapshot, confirmed: Confirmed) -> Snapshot:
    """Show the snapshot at plain/backup and what goes with it at plain/offsited, in our mount namespace alone.

    Return it as it is there: without what is mounted below it.
    """
    confirmed.new_tree()
    put_canary(confirmed.tree)
    mounts.bind(opened.descriptor, job.files.plain / names.BACKUP_DIR, read_only=True)
    tree = os.open(confirmed.tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mounts.bind(tree, job.files.plain / names.OFFSITED_DIR, read_only=True)
    finally:
        os.close(tree)
    bound = os.open(job.files.plain / names.BACKUP_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.close(opened.descriptor)
    return replace(opened, descriptor=bound)


class _Sync:
    """What the steps of a sync share."""

    def __init__(self, job: Job, opened: Snapshot, transfers: Transfers, reached: Target) -> None:
        self.job = job
        self.opened = opened
        self.transfers = transfers
        self.reached = reached

    async def run(self, confirmed: Confirmed) -> Ending:
        announced = confirmed.announced()
        key_file = await asyncio.to_thread(self._key_file)
        found = await self._look(confirmed, announced)
        before = confirmed
        confirmed, standing = await asyncio.to_thread(_settle, confirmed, announced, found)
        if standing is Standing.UNKNOWN:
            confirmed, standing = await asyncio.to_thread(self._come_home, confirmed, found)
            before = confirmed
        asked = self._is_whole(confirmed, standing, found) or mending.asked(confirmed.directory).whole
        interrupted = confirmed.interrupted
        books = await asyncio.to_thread(Books.prepare, confirmed, before)
        async with Showing(self.job) as showing:
            books = await surveyed(
                self.job,
                confirmed,
                books,
                thorough=lambda books: asked or books.doubts(standing),
                entering=mending.enter,
                on_news=showing.begin,
            )
            whole = asked or books.doubts(standing)
            check_top(self.opened)
            with books.opened() as pending:
                known = not books.doubtful and self._is_known(confirmed, standing)
                holding = Holding(pending, self.job.vault.limits, confirmed.directory, known=known)
                mirror = Mirror(
                    self.job,
                    self.opened,
                    confirmed,
                    pending,
                    self.reached,
                    found,
                    self.transfers,
                    standing=standing,
                    whole=whole,
                    interrupted=interrupted,
                    holding=holding,
                    key_file=key_file,
                )
                try:
                    await self._hold(mirror)
                    settled = standing is Standing.CONFIRMED and not whole and pending.is_empty
                    if settled and self._has_key_file(found, confirmed, key_file):
                        await asyncio.to_thread(pending.commit, confirmed.digest)
                    else:
                        await mirror.run(showing)
                finally:
                    self._count(mirror)
                await asyncio.to_thread(holding.conclude)
                self.job.report.note(key_file=key_file)
                await asyncio.to_thread(self._guard, key_file)
                return self._ending(mirror)

    async def _hold(self, mirror: Mirror) -> None:
        """Hold what exceeds the limits; where everything is compared with the target, the mirror does so when it has seen that."""
        if self.job.options.approved:
            await asyncio.to_thread(mirror.holding.approve, self.job.options.approved)
        await hold(self.job, self.opened, mirror.holding, later=mirror.whole)

    def _is_known(self, confirmed: Confirmed, standing: Standing) -> bool:
        """Whether what lies at the target is what our last commit says."""
        adopting = self.job.options.adopt and confirmed.commit is None
        return confirmed.settled and standing is not Standing.UNKNOWN and not adopting

    async def _look(self, confirmed: Confirmed, announced: Announced | None) -> Found:
        """One round trip: whose the target is, and what lies there of ours."""
        paths = {confirmed.sealed.commit_path, announced.commit_path if announced else "", names.TARGET_KEY_FILE} - {""}

        async def look() -> Found:
            if self.job.options.adopt:
                key_file = self.job.files.key_file.read_bytes()
                return await target.adopt(self.transfers, self.reached, self.job.files.identity(), sorted(paths), key_file)
            return await target.inspect(self.transfers, self.reached, self.job.files.identity(), sorted(paths))

        if not self.job.options.timed:
            return await look()
        self.job.report.phase(Phase.WAITING)
        return await patiently(look, WAITS, math.inf)

    def _come_home(self, confirmed: Confirmed, found: Found) -> tuple[Confirmed, Standing]:
        """A disk that was carried away as a seed may come back with what was committed to its heir: that is known here, too."""
        there = found.files.get(confirmed.sealed.commit_path)
        for heir in heirs(self.job.vault, self.job.target.name):
            known = Confirmed.read(self.job.files.target(heir.name))
            if not confirmed.interrupted and known.standing(there) in {Standing.CONFIRMED, Standing.ROLLED_BACK}:
                copied = heritage.copy(known, confirmed.directory / "homecoming")
                self.job.report.remark(f"the disk came home with what was committed to target {heir.name}")
                confirmed = heritage.take_over(copied.directory, confirmed.directory)
                return confirmed, confirmed.standing(there)
        return confirmed, Standing.UNKNOWN

    def _key_file(self) -> str:
        """The SHA-256 of the vault's key file. Raise JobFailed for one that is not the vault's: it must not get to a target."""
        files = self.job.files
        found = files.key_digest()
        if not files.key_file_is_right():
            raise JobFailed(Reason.KEY_FILE_DAMAGED, f"{files.key_file} is not as offsitectl left it")
        return found

    def _guard(self, key_file: str) -> None:
        """A vault of an earlier version, or one that was rebuilt, has no record of its key file yet."""
        if self.job.files.key_record() is None:
            self.job.files.write_key_record(KeyRecord(sha256=key_file))

    def _has_key_file(self, found: Found, confirmed: Confirmed, key_file: str) -> bool:
        """Whether the target has the vault's key file. A change of the passphrase is no surprise; anything else is told."""
        there = digest(found.files.get(names.TARGET_KEY_FILE, b""))
        if there not in {key_file, confirmed.sealed.key_file} and confirmed.sealed.key_file:
            self.job.report.remark(f"{names.TARGET_KEY_FILE} at the target was missing or not as it was sent; it was sent again")
        return there == key_file

    def _is_whole(self, confirmed: Confirmed, standing: Standing, found: Found) -> bool:
        """Whether everything must be compared with the target, not only what changed here. Raise JobFailed for another's commit."""
        report = self.job.report
        match standing:
            case Standing.UNKNOWN if mending.may_replace(confirmed.directory, found.files.get(confirmed.sealed.commit_path)):
                report.remark("the commit at the target was damaged; everything was compared anew")
            case Standing.UNKNOWN if not self.job.options.reconcile:
                raise JobFailed(Reason.TARGET_UNKNOWN)
            case Standing.UNKNOWN:
                report.remark("the target held a commit that is not known here; everything was compared anew, as asked for")
            case Standing.ROLLED_BACK:
                report.remark("the target had been rolled back to an older commit of ours; everything was compared anew")
            case Standing.LOST:
                report.remark("the commit at the target was gone; everything was compared anew")
            case Standing.NOTHING:
                return confirmed.intends_all or self.job.options.adopt
            case Standing.CONFIRMED:
                return self.job.options.reconcile or confirmed.intends_all or self._is_due(confirmed)
        return True

    def _is_due(self, confirmed: Confirmed) -> bool:
        every = self.job.vault.reconcile
        age = now() - (confirmed.commit.reconciled if confirmed.commit else 0)
        return age > int(every[:-1]) * _UNITS[every[-1]] * 1_000_000

    def _count(self, mirror: Mirror) -> None:
        tally, plan = self.transfers.tally, mirror.pending
        counts = Counts(
            entries=int(plan.fact("entries")),
            bytes=int(plan.fact("size")),
            sent_entries=tally.sent_entries,
            sent_bytes=tally.sent_bytes,
            wire_bytes=tally.wire_bytes,
            deleted_entries=mirror.deleted,
        )
        self.job.report.note(counts=counts, held=mirror.holding.held)

    def _ending(self, mirror: Mirror) -> Ending:
        """`held` if something waits for a person, `partial` if something could neither be sent nor is kept by the manifest."""
        carried = mirror.pending.count_carried()
        if carried:
            self.job.report.remark(f"{carried} entries are kept by the manifest alone; a restore brings them back")
        for path in itertools.islice(mirror.pending.crowded(LONG_NAME, _CROWDED), _LISTED_MAX):
            self.job.report.remark(f"many names of {LONG_NAME} bytes or more lie in {os.fsdecode(path) or '.'}: gocryptfs is slow there")
        unread = list(mirror.pending.unread())
        for one in unread[:_LISTED_MAX]:
            self.job.report.remark(f"{os.strerror(one.error)}: {exclude_line(one.path)}")
        if len(unread) > _LISTED_MAX:
            self.job.report.remark(f"and {len(unread) - _LISTED_MAX} more")
        if mirror.holding.verdict:
            return Outcome.HELD, Reason.LIMIT_EXCEEDED
        return (Outcome.PARTIAL, Reason.ENTRIES_UNREADABLE) if unread else DONE


def _settle(confirmed: Confirmed, announced: Announced | None, found: Found) -> tuple[Confirmed, Standing]:
    """A commit that an interrupted job had on its way may have arrived: then it counts."""
    if announced and announced.arrived(found.files.get(announced.commit_path)):
        confirmed = confirmed.confirm(announced)
    return confirmed, confirmed.standing(found.files.get(confirmed.sealed.commit_path))
