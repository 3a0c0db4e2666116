# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a sync that need the encrypted view: intent, send, check the snapshot again, delete, commit."""

import asyncio
import gzip
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import gocryptfs, intent, rsync
from offsited.core.commit import digest
from offsited.core.outcome import Reason
from offsited.core.progress import Phase, Progress
from offsited.errors import JobFailed
from offsited.store import write_whole
from offsited.worker import deletion, mounts, snapshot, target
from offsited.worker.committing import Committing, Sent
from offsited.worker.confirmed import COMMIT_FILE, INTENT_FILE, PREVIOUS_FILE, Confirmed, Standing
from offsited.worker.deletion import Doomed
from offsited.worker.gauge import Gauge
from offsited.worker.holding import Holding
from offsited.worker.job import Job
from offsited.worker.outgoing import Outgoing, sealed_from, travels
from offsited.worker.pending import Item, Pending
from offsited.worker.renewal import Renewal
from offsited.worker.report import now
from offsited.worker.sealed_paths import SealedPaths
from offsited.worker.showing import Showing
from offsited.worker.snapshot import Snapshot, check_finished
from offsited.worker.subtrees import divide
from offsited.worker.target import Found, Target
from offsited.worker.tasks import to_its_end, together
from offsited.worker.there import There
from offsited.worker.transfer import TransferFailed, Transfers, patiently
from offsited.worker.view import View
from offsited.worker.way import CANARY, CANARY_BYTES, Way, put_canary, with_companions

_SKIPPED: Final = (
    "the target takes no device nodes, fifos or sockets; if its key there is limited by rrsync(1), set rrsync in the vault file, "
    "and if its account is not root's, -M--fake-super"
)


@dataclass
class Mirror:
    """What the steps work with: a bound snapshot, an inspected target, and a plan."""

    job: Job
    opened: Snapshot
    confirmed: Confirmed
    pending: Pending
    target: Target
    found: Found
    transfers: Transfers
    standing: Standing
    whole: bool
    """Compare everything with the target, not only what changed here."""
    interrupted: bool
    """An earlier job did not get to its commit: it may have left unfinished files."""
    holding: Holding
    key_file: str = ""
    """SHA-256 of the key file, in hex, from before it was sent."""
    there: There | None = field(default=None)
    """What the target really has, once it was looked at."""
    deleted: int = field(default=0)
    """Entries deleted at the target."""

    async def run(self, showing: Showing) -> None:
        """Take the steps, and end the view. Raise JobFailed."""
        self.job.report.phase(Phase.VIEW)
        view = await showing.begin()
        way = await Way.opened(view.point, SealedPaths(self.job, showing.control), self.transfers, self.target)
        committing, sent = await view.guard(self._steps(view, way))
        await committing.conclude(sent, showing)

    async def _steps(self, view: View, way: Way) -> tuple[Committing, Sent]:
        await view.look(lambda: self._check_view(way))
        await self._check_unknown(way)
        await target.prepare(self.transfers, self.target, self.job.files.identity(), self.found)
        if self.whole:
            await self._compare_with(way)
        await self._intend(way)
        try:
            postponed = await self._send(view, way)
        except TransferFailed as failure:
            # What is listed and gone counts as an error of rsync's, and is the snapshot's fault.
            if failure.meaning.reason is Reason.RSYNC_PARTIAL:
                await asyncio.to_thread(self._check_snapshot)
            raise
        committing, _ = await together(self._delete(view, way, postponed), self.target.flush())  # else the one before the commit takes long
        self.job.report.phase(Phase.COMMITTING)
        return committing, await committing.send(view)

    async def _delete(self, view: View, way: Way, postponed: Sequence[Item]) -> Committing:
        """Check the snapshot, and delete what goes; the commit is prepared meanwhile."""
        await to_its_end(self._check_snapshot)
        if postponed:
            await self._make_way(way, postponed)
        self.job.report.phase(Phase.DELETING)
        doomed = await self._doomed(way, view)
        committing = self._committing(way)
        await together(committing.prepare(), doomed.delete(way, self.job.runtime / "example"))
        return committing

    def _committing(self, way: Way) -> Committing:
        return Committing(
            self.job,
            self.opened,
            self.confirmed,
            self.pending,
            way,
            key_file=self.key_file,
            reconciled=self._reconciled(),
            whole=self.whole,
            interrupted=self.interrupted,
        )

    def _check_view(self, way: Way) -> None:
        """Raise JobFailed unless the view shows the opened snapshot, and a file written just now."""
        try:
            inode = os.lstat(way.point / way.backup).st_ino
            canary = (way.point / way.canary).read_bytes()
        except OSError as error:
            raise JobFailed(Reason.VIEW_WRONG, str(error)) from error
        (self.confirmed.tree / CANARY).unlink()
        if inode & gocryptfs.INODE_BITS != self.opened.inode & gocryptfs.INODE_BITS or len(canary) != gocryptfs.sealed_size(CANARY_BYTES):
            raise JobFailed(Reason.VIEW_WRONG, "it shows another directory, or not what was written just now")

    async def _renew(self, view: View, way: Way) -> None:
        """What comes in the place of a view must show the same."""
        await asyncio.to_thread(put_canary, self.confirmed.tree)
        await view.renew()
        await view.look(lambda: self._check_view(way))

    async def _check_unknown(self, way: Way) -> None:
        """Without our own state nobody knew where to look for a commit: one that lies there is not known here."""
        if self.standing is not Standing.NOTHING or self.found.owner is None:
            return
        found = await self.target.look(self.transfers, [way.commit])
        if way.commit in found.files:
            if not self.job.options.reconcile:
                raise JobFailed(Reason.TARGET_UNKNOWN)
            self.whole = True
            self.holding.known = False

    async def _compare_with(self, way: Way) -> None:
        """See what the target really has, and hold what exceeds the limits. What an unfinished first sync left there is nobody's loss."""
        self.there = there = There(self.pending, way.backup)
        self.job.report.phase(Phase.COMPARING)
        await there.expect(way.sealed, await self._own_paths(way))
        nothing = self.job.runtime / "nothing-there"
        nothing.mkdir(mode=0o700)
        listing = rsync.list_details(way.tool, way.place, nothing)

        async def look() -> None:
            there.begin()
            await self.transfers.run(listing, capabilities=way.place.capabilities, on_line=there.notice)

        await patiently(look)
        nobodys = self._seeding and self.holding.known
        await asyncio.to_thread(self.holding.settle, None if nobodys else there)

    async def _own_paths(self, way: Way) -> list[str]:
        """The encrypted paths at the target that stand for nothing in the snapshot, and belong there."""
        ours = [COMMIT_FILE, PREVIOUS_FILE, INTENT_FILE, *(file.name for file in self.confirmed.segments.iterdir())]
        sealed = await way.own(ours)
        ivs = [f"{directory}/{names.DIRIV_FILE}" for directory in (way.backup, way.offsited)]
        return [names.DIRIV_FILE, names.TARGET_KEY_FILE, way.backup, way.offsited, *ivs, *sealed]

    # --- intent ----------------------------------------------------------------------------------------------------

    @property
    def _seeding(self) -> bool:
        """Whether the target holds nothing of ours yet: then there is nothing to be in doubt about."""
        return self.confirmed.commit is None

    async def _intend(self, way: Way) -> None:
        """Say what is about to change, here and at the target, before it does: with the directories above the snapshot, the IV of each, and
        the key file."""
        await asyncio.to_thread(self._write_intent)
        self.confirmed.stage(self.confirmed.intent)
        top = [".", names.DIRIV_FILE, names.TARGET_KEY_FILE, way.backup, f"{way.backup}/{names.DIRIV_FILE}"]
        there = digest(self.found.files.get(names.TARGET_KEY_FILE, b""))
        await way.put([*top, way.intent], again=self.whole or there != self.key_file)

    def _write_intent(self) -> None:
        whole = self.whole or self._seeding
        header = intent.Header(self.job.files.identity(), self.job.target.name, self.job.number, whole)
        lines = (intent.encode_line(doubt.path, again=doubt.again) for doubt in self.pending.doubts(whole=whole))
        write_whole(self.confirmed.intent, gzip.compress(header.encode() + b"".join(lines), mtime=0))
        self.pending.ledger.doubt(self.pending.doubts(whole=whole))

    # --- send ------------------------------------------------------------------------------------------------------

    async def _send(self, view: View, way: Way) -> list[Item]:
        """Send everything that the plan says. Return what a directory at the target stands in the way of."""
        top = way.place.mirror
        mirror = None if top is None else await asyncio.to_thread(os.open, top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return await self._send_all(way, mirror, Renewal(lambda: self._renew(view, way)))
        finally:
            if mirror is not None:
                os.close(mirror)

    async def _send_all(self, way: Way, mirror: int | None, renewal: Renewal) -> list[Item]:
        total = await asyncio.to_thread(self._amount)
        outgoing = Outgoing(
            pending=self.pending,
            snapshot=self.opened.descriptor,
            sealed=way.sealed,
            view=way.point,
            place=way.place,
            tool=way.tool,
            transfers=self.transfers,
            gauge=Gauge(self.job.report, total),
            renewal=renewal,
            entries=total.entries_total,
            size=total.bytes_total,
            whole=self.whole,
            streams=1 if mirror is None or any(map(mounts.may_turn, (self.opened.descriptor, mirror))) else way.place.lanes,
            mirror=mirror,
        )
        await deletion.part(way, self.pending, self.job.runtime / "parted")
        await outgoing.send(([item] for item in self.pending.again()), again=True)
        if self._seeding and not self.whole:
            await outgoing.send(self._groups())
            division = await asyncio.to_thread(divide, self.pending, outgoing.lot, outgoing.weight)
            await outgoing.send([item] for item in self.pending.told_in(division.told))
            await outgoing.send_trees(division.lots)
        else:
            if not self.whole:
                await outgoing.patch(self._earlier())
            await together(outgoing.send(self._groups()), outgoing.send([item] for item in self.pending.ungrouped()))
        if self.whole and not self._seeding:
            await outgoing.send([item] for item in self._unchanged())
        if self.transfers.tally.skipped:
            raise JobFailed(Reason.RSYNC_PARTIAL, _SKIPPED)
        return outgoing.postponed

    def _earlier(self) -> list[Path]:
        """Where the snapshot may lie that was synced last."""
        last = self.confirmed.commit.snapshot if self.confirmed.commit else ""
        return snapshot.earlier(self.job.vault.source, self.opened, last)

    def _amount(self) -> Progress:
        entries, size = self.pending.amount()
        if self.whole and not self._seeding:
            held = self.pending.ledger.totals()
            entries, size = entries + held.entries, size + held.size
        return Progress(Phase.SENDING, bytes_total=size, entries_total=entries)

    def _groups(self) -> Iterator[list[Item]]:
        """Hard-link groups, each whole."""
        for paths in self.pending.link_groups():
            items = [item for path in paths if (item := self.pending.item(path))]
            travelling = [item for item in items if travels(item)]
            if travelling:
                yield travelling

    def _unchanged(self) -> Iterator[Item]:
        """What the plan says nothing of: in a comparison of everything the target may lack it all the same."""
        for row in self.pending.unchanged():
            yield Item(0, row)

    # --- check and delete ------------------------------------------------------------------------------------------

    def _check_snapshot(self) -> None:
        """Raise JobFailed unless every directory of the snapshot is the very one that the plan was made from."""
        self.job.report.phase(Phase.CHECKING)
        check_top(self.opened)
        check_finished(self.job.vault.source, self.opened.descriptor)
        for folder in itertools.chain(self.pending.folders(), self.pending.unchanged_folders()):
            try:
                status = self._seen(folder.path)
            except OSError as error:
                raise JobFailed(Reason.SNAPSHOT_CHANGED, f"{os.fsdecode(folder.path)}: {error.strerror}") from None
            if status.st_mtime_ns != folder.mtime or folder.inode not in {0, status.st_ino}:
                raise JobFailed(Reason.SNAPSHOT_CHANGED, os.fsdecode(folder.path))

    def _seen(self, path: bytes) -> os.stat_result:
        """As `_status`, sooner: a link that came on the way there has changed the directory that it is in, which is looked at too."""
        if len(path) >= mounts.AT_ONCE:
            return self._status(path)
        return os.stat(path or b".", dir_fd=self.opened.descriptor, follow_symlinks=False)

    def _status(self, path: bytes) -> os.stat_result:
        descriptor = mounts.open_deep(self.opened.descriptor, os.fsdecode(path) or ".", os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    async def _make_way(self, way: Way, postponed: Sequence[Item]) -> None:
        """Send what could not be sent before, each in place of a directory."""
        paths = await way.sealed.of([sealed_from(item.row.path) for item in postponed])
        await way.send(with_companions(paths), force=True)

    async def _doomed(self, way: Way, view: View) -> Doomed:
        """What goes: the plan's, and in a comparison of everything what the target has beside what it should have."""
        self.deleted = await asyncio.to_thread(self.pending.count_gone)
        doomed = await deletion.planned(way, self.pending, self._status)
        if self.there and not self.holding.verdict.deletions:
            self.deleted += self.there.surplus.entries
            surplus = await deletion.surplus(way, view, self.there)
            return Doomed(doomed.absent | surplus.absent, doomed.shown | surplus.shown)
        return doomed

    def _reconciled(self) -> int:
        """When the target was last compared as a whole and found or made equal. What is held of that is looked at again next time."""
        before = self.confirmed.commit
        if self.there and self.holding.verdict and (self.there.surplus.entries or self.there.drift.entries):
            return 0
        return now() if self.whole or before is None else before.reconciled


def check_top(opened: Snapshot) -> None:
    """Raise JobFailed if anything at the top of the opened snapshot came or went since, or if it is gone itself."""
    status = os.fstat(opened.descriptor)
    if status.st_mtime_ns != opened.modified or status.st_nlink == 0:
        raise JobFailed(Reason.SNAPSHOT_CHANGED, "its top is no longer as it was when it was opened")
