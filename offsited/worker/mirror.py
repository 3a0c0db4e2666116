# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a sync that need the encrypted view: intent, send, check the snapshot again, delete, commit."""

import asyncio
import gzip
import itertools
import os
import stat
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import gocryptfs, intent, rsync
from offsited.core.commit import Commit, digest, encode
from offsited.core.manifest import Header, SegmentFile, parent, root_hash
from offsited.core.outcome import Reason
from offsited.core.progress import Phase, Progress
from offsited.errors import JobFailed
from offsited.store import write_whole
from offsited.worker import mounts, segments, target
from offsited.worker.confirmed import COMMIT_FILE, INTENT_FILE, PREVIOUS_FILE, Announced, Confirmed, Standing
from offsited.worker.gauge import Gauge
from offsited.worker.holding import Holding
from offsited.worker.job import Job
from offsited.worker.outgoing import Outgoing, sealed_from, travels
from offsited.worker.pending import Item, Pending
from offsited.worker.report import now
from offsited.worker.sealed_paths import SealedPaths, in_parts
from offsited.worker.snapshot import Snapshot, check_finished
from offsited.worker.subtrees import divide
from offsited.worker.target import Found, Target
from offsited.worker.tasks import to_its_end, together
from offsited.worker.there import There
from offsited.worker.transfer import TransferFailed, Transfers, patiently
from offsited.worker.view import View, mounted, require

CANARY: Final = "canary"
CANARY_BYTES: Final = 32
"""A file beside the snapshot, new with each job: a view that shows it is of this very `plain/`."""


_SKIPPED: Final = (
    "the target takes no device nodes, fifos or sockets; if its key there is limited by rrsync(1), set rrsync in the vault file, "
    "and if its account is not root's, -M--fake-super"
)


@dataclass(frozen=True)
class _Shown:
    """The view, and paths in it."""

    point: Path
    sealed: SealedPaths
    backup: str
    offsited: str
    canary: str
    commit: str
    intent: str


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

    async def run(self, judged: Awaitable[bool]) -> bool:
        """Mount the view, take the steps, end gocryptfs. Raise JobFailed.

        `judged` tells, while gocryptfs starts, whether there is anything to do, with what the limits hold taken out; return that.
        """
        self.job.report.phase(Phase.VIEW)
        await require(self.job.tools.gocryptfs)
        point, control = self.job.runtime / "view" / names.CURRENT_DIR, self.job.runtime / "control"
        point.parent.mkdir(mode=0o700)
        command = gocryptfs.reverse_mount(self.job.tools.gocryptfs, self.job.files.plain, point, control=control, notify=os.getpid())
        async with mounted(command, point, gocryptfs.REVERSE_FILE_SYSTEM, key=self.job.key) as view:
            return await view.guard(self._steps_if(judged, view, SealedPaths(self.job, control)))

    async def _steps_if(self, judged: Awaitable[bool], view: View, sealed: SealedPaths) -> bool:
        if wanted := await judged:
            await self._steps(view, sealed)
        return wanted

    async def _steps(self, view: View, sealed: SealedPaths) -> None:
        paths = [names.BACKUP_DIR, names.OFFSITED_DIR, *(f"{names.OFFSITED_DIR}/{name}" for name in (CANARY, COMMIT_FILE, INTENT_FILE))]
        shown = _Shown(view.point, sealed, *await sealed.of([path.encode() for path in paths]))
        await view.look(lambda: self._check_view(shown))
        await self._check_unknown(shown)
        await target.prepare(self.transfers, self.target, self.job.files.identity(), self.found)
        if self.whole:
            await self._compare_with(shown)
        await self._intend(shown)
        try:
            postponed = await self._send(shown)
        except TransferFailed as failure:
            # What is listed and gone counts as an error of rsync's, and is the snapshot's fault.
            if failure.meaning.reason is Reason.RSYNC_PARTIAL:
                await asyncio.to_thread(self._check_snapshot)
            raise
        await asyncio.to_thread(self._check_snapshot)
        await self._make_way(shown, postponed)
        self.job.report.phase(Phase.DELETING)
        doomed = await self._doomed(shown, view)
        listed, _ = await together(to_its_end(self._conclude), self._delete(shown, *doomed))
        await self._commit(shown, view, listed)

    def _check_view(self, shown: _Shown) -> None:
        """Raise JobFailed unless the view shows the opened snapshot, and a file written just now."""
        try:
            inode = os.lstat(shown.point / shown.backup).st_ino
            canary = (shown.point / shown.canary).read_bytes()
        except OSError as error:
            raise JobFailed(Reason.VIEW_WRONG, str(error)) from error
        (self.confirmed.tree / CANARY).unlink()
        if inode & gocryptfs.INODE_BITS != self.opened.inode & gocryptfs.INODE_BITS or len(canary) != gocryptfs.sealed_size(CANARY_BYTES):
            raise JobFailed(Reason.VIEW_WRONG, "it shows another directory, or not what was written just now")

    async def _check_unknown(self, shown: _Shown) -> None:
        """Without our own state nobody knew where to look for a commit: one that lies there is not known here."""
        if self.standing is not Standing.NOTHING or self.found.owner is None:
            return
        found = await self.target.look(self.transfers, [shown.commit])
        if shown.commit in found.files:
            if not self.job.options.reconcile:
                raise JobFailed(Reason.TARGET_UNKNOWN)
            self.whole = True
            self.holding.known = False

    async def _compare_with(self, shown: _Shown) -> None:
        """See what the target really has, and hold what exceeds the limits. What an unfinished first sync left there is nobody's loss."""
        self.there = there = There(self.pending, shown.backup)
        self.job.report.phase(Phase.COMPARING)
        await there.expect(shown.sealed, await self._own_paths(shown))
        nothing = self.job.runtime / "nothing-there"
        nothing.mkdir(mode=0o700)
        listing = rsync.list_details(self._tool, self._place, nothing)

        async def look() -> None:
            there.begin()
            await self.transfers.run(listing, capabilities=self._place.capabilities, on_line=there.notice)

        await patiently(look)
        nobodys = self._seeding and self.holding.known
        await asyncio.to_thread(self.holding.settle, None if nobodys else there)

    async def _own_paths(self, shown: _Shown) -> list[str]:
        """The encrypted paths at the target that stand for nothing in the snapshot, and belong there."""
        ours = [COMMIT_FILE, PREVIOUS_FILE, INTENT_FILE, *(file.name for file in self.confirmed.segments.iterdir())]
        sealed = await shown.sealed.of([f"{names.OFFSITED_DIR}/{name}".encode() for name in ours])
        ivs = [f"{directory}/{names.DIRIV_FILE}" for directory in (shown.backup, shown.offsited)]
        return [names.DIRIV_FILE, names.TARGET_KEY_FILE, shown.backup, shown.offsited, *ivs, *sealed]

    # --- intent ----------------------------------------------------------------------------------------------------

    @property
    def _seeding(self) -> bool:
        """Whether the target holds nothing of ours yet: then there is nothing to be in doubt about."""
        return self.confirmed.commit is None

    async def _intend(self, shown: _Shown) -> None:
        """Say what is about to change, here and at the target, before it does."""
        await asyncio.to_thread(self._write_intent)
        self.confirmed.stage(self.confirmed.intent)
        await self._put(shown, [INTENT_FILE])

    def _write_intent(self) -> None:
        whole = self.whole or self._seeding
        header = intent.Header(self.job.files.identity(), self.job.target.name, self.job.number, whole)
        lines = (intent.encode_line(doubt.path, again=doubt.again) for doubt in self.pending.doubts(whole=whole))
        write_whole(self.confirmed.intent, gzip.compress(header.encode() + b"".join(lines), mtime=0))
        self.pending.ledger.doubt(self.pending.doubts(whole=whole))

    # --- send ------------------------------------------------------------------------------------------------------

    async def _send(self, shown: _Shown) -> list[Item]:
        """Send everything that the plan says. Return what a directory at the target stands in the way of."""
        await self._top(shown)
        top = self._place.mirror
        mirror = None if top is None else await asyncio.to_thread(os.open, top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return await self._send_all(shown, mirror)
        finally:
            if mirror is not None:
                os.close(mirror)

    async def _send_all(self, shown: _Shown, mirror: int | None) -> list[Item]:
        total = await asyncio.to_thread(self._amount)
        outgoing = Outgoing(
            pending=self.pending,
            snapshot=self.opened.descriptor,
            sealed=shown.sealed,
            view=shown.point,
            place=self._place,
            tool=self._tool,
            transfers=self.transfers,
            gauge=Gauge(self.job.report, total),
            entries=total.entries_total,
            size=total.bytes_total,
            whole=self.whole,
            streams=1 if mirror is None or any(map(mounts.may_turn, (self.opened.descriptor, mirror))) else self._place.lanes,
            mirror=mirror,
        )
        await outgoing.send(([item] for item in self.pending.again()), again=True)
        await outgoing.send(self._groups())
        if self._seeding and not self.whole:
            division = await asyncio.to_thread(divide, self.pending, outgoing.lot, outgoing.weight)
            await outgoing.send([item] for item in self.pending.told_in(division.told))
            await outgoing.send_trees(division.lots)
        else:
            await outgoing.send([item] for item in self.pending.ungrouped())
        if self.whole and not self._seeding:
            await outgoing.send([item] for item in self._unchanged())
        if self.transfers.tally.skipped:
            raise JobFailed(Reason.RSYNC_PARTIAL, _SKIPPED)
        return outgoing.postponed

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

    async def _top(self, shown: _Shown) -> None:
        """The directories above the snapshot, the IV of each, and the key file."""
        own = [".", names.DIRIV_FILE, names.TARGET_KEY_FILE, shown.backup, f"{shown.backup}/{names.DIRIV_FILE}"]
        listed = self.transfers.listed(path.encode() for path in own)
        there = digest(self.found.files.get(names.TARGET_KEY_FILE, b""))
        await self._run(rsync.send_listed(self._tool, shown.point, self._place, listed, again=self.whole or there != self.key_file))

    # --- check and delete ------------------------------------------------------------------------------------------

    def _check_snapshot(self) -> None:
        """Raise JobFailed unless every directory of the snapshot is the very one that the plan was made from."""
        self.job.report.phase(Phase.CHECKING)
        check_top(self.opened)
        check_finished(self.job.vault.source, self.opened.descriptor)
        for folder in itertools.chain(self.pending.folders(), self.pending.unchanged_folders()):
            try:
                status = self._status(folder.path)
            except OSError as error:
                raise JobFailed(Reason.SNAPSHOT_CHANGED, f"{os.fsdecode(folder.path)}: {error.strerror}") from None
            if status.st_mtime_ns != folder.mtime or folder.inode not in {0, status.st_ino}:
                raise JobFailed(Reason.SNAPSHOT_CHANGED, os.fsdecode(folder.path))

    def _status(self, path: bytes) -> os.stat_result:
        descriptor = mounts.open_deep(self.opened.descriptor, os.fsdecode(path) or ".", os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    async def _make_way(self, shown: _Shown, postponed: Sequence[Item]) -> None:
        """Send what could not be sent before, each in place of a directory."""
        if not postponed:
            return
        paths = await shown.sealed.of([sealed_from(item.row.path) for item in postponed])
        listed = self.transfers.listed(_with_companions(paths))
        await self._run(rsync.send_listed(self._tool, shown.point, self._place, listed, force=True))

    async def _doomed(self, shown: _Shown, view: View) -> tuple[set[str], set[str]]:
        """The encrypted paths of what goes: the plan's, and in a comparison of everything what the target has beside what it should have.

        Those that the view has not, and those that it has, because they are excluded, or cannot be asked about.
        """
        self.deleted = await asyncio.to_thread(self.pending.count_gone)
        doomed, by_example = await self._planned(shown)
        if self.there and not self.holding.verdict.deletions:
            surplus = self.there.doomed
            self.deleted += self.there.surplus.entries
            showable = {path for path in surplus if gocryptfs.may_be_shown(path)}
            doomed |= await view.look(lambda: _within_directories(shown.point, showable))
            by_example |= surplus - showable
        return doomed, by_example

    async def _planned(self, shown: _Shown) -> tuple[set[str], set[str]]:
        """The plan's deletions: what the view has not, and what it has."""
        doomed: set[str] = set()
        excluded: set[str] = set()
        for items in in_parts(self.pending.deletions()):
            paths = await shown.sealed.of([sealed_from(item.row.path) for item in items])
            for item, path in zip(items, paths, strict=True):
                if self._is_there(item.row.path):
                    excluded.add(path)
                elif self._is_there(parent(item.row.path), directory=True):  # else it went with all that was in it
                    doomed.add(path)
        return doomed, excluded

    async def _delete(self, shown: _Shown, doomed: set[str], by_example: set[str]) -> None:
        """Delete what goes, and begin to bring what was sent to the disk: the flush before the commit has little left to do."""
        if doomed:
            listed = self.transfers.listed(_with_companions(doomed))
            await self._run(rsync.delete_listed(self._tool, shown.point, self._place, listed))
        if by_example:
            await self._delete_by_example(shown, by_example)
        await self.target.flush()

    def _is_there(self, path: bytes, *, directory: bool = False) -> bool:
        try:
            status = self._status(path)
        except OSError:
            return False
        return stat.S_ISDIR(status.st_mode) or not directory

    async def _delete_by_example(self, shown: _Shown, doomed: set[str]) -> None:
        """Delete what rsync must not look for in the view: it gets a tree that has the parents and nothing else as an example."""
        example = self.job.runtime / "example"
        for path in doomed:
            (example / path).parent.mkdir(parents=True, exist_ok=True)
        listed = self.transfers.list_file(_with_companions(doomed))
        await self._run(rsync.delete_by_example(self._tool, example, self._place, listed))
        parents = self.transfers.listed({os.fsencode(path.rpartition("/")[0]) for path in doomed} - {b""})
        await self._run(rsync.send_listed(self._tool, shown.point, self._place, parents))

    # --- commit ----------------------------------------------------------------------------------------------------

    async def _commit(self, shown: _Shown, view: View, listed: tuple[SegmentFile, ...]) -> None:
        """Flush, then the commit file, then flush again: a commit is at the target only if all that it speaks of is."""
        self.job.report.phase(Phase.COMMITTING)
        await self._put(shown, self._stage(listed))
        await self.target.flush()
        content = encode(self._new_commit(listed))
        await asyncio.to_thread(write_whole, self.confirmed.tree / COMMIT_FILE, content)
        sealed = await view.look((shown.point / shown.commit).read_bytes)
        announced = Announced(content=content.decode(), commit_path=shown.commit, sealed=digest(sealed), key_file=self.key_file)
        await asyncio.to_thread(self.confirmed.announce, announced)
        await self._put(shown, [COMMIT_FILE])
        await self.target.flush()
        await to_its_end(lambda: self._confirm(announced, content))
        self.job.report.note(commit=digest(content))
        await self._tidy(shown, listed)

    def _conclude(self) -> tuple[SegmentFile, ...]:
        """Write the manifest's new segment, and prepare the ledger for the commit. Return the manifest."""
        listed = self._write_segment()
        self.pending.enter()
        return listed

    def _write_segment(self) -> tuple[SegmentFile, ...]:
        """Append what changed to the manifest, as a file of it."""
        head = Header(self.job.files.identity(), self.job.target.name, self.job.number)
        known = self.confirmed.commit.segments if self.confirmed.commit else ()
        if all(segments.is_intact(self.confirmed.segments / segment.name, segment) for segment in known):
            return segments.append(self.confirmed.segments, known, head, self.pending.lines())
        return segments.append(self.confirmed.segments, (), head, self.pending.all_lines())

    def _stage(self, listed: Sequence[SegmentFile]) -> list[str]:
        """Show in the view what the commit will speak of; return what of it is not at the target yet."""
        at_target = {segment.name for segment in self.confirmed.commit.segments} if self.confirmed.commit and not self.whole else set()
        fresh = [segment.name for segment in listed if segment.name not in at_target]
        for name in fresh:
            self.confirmed.stage(self.confirmed.segments / name)
        if self.confirmed.content is not None:
            write_whole(self.confirmed.tree / PREVIOUS_FILE, self.confirmed.content)
            fresh.append(PREVIOUS_FILE)
        return fresh

    def _confirm(self, announced: Announced, content: bytes) -> None:
        self.pending.commit(digest(content))
        self.confirmed.confirm(announced)

    async def _tidy(self, shown: _Shown, listed: Sequence[SegmentFile]) -> None:
        """Remove what nothing speaks of any more. The commit stands whether or not this works."""
        previous = self.confirmed.commit.segments if self.confirmed.commit else ()
        needed = {segment.name for segment in (*listed, *previous)}
        obsolete = [file.name for file in self.confirmed.segments.iterdir() if file.name not in needed]
        try:
            await self._remove(shown, [INTENT_FILE, *obsolete])
            if self.interrupted:
                nothing = self.job.runtime / "nothing"
                nothing.mkdir()
                await self.transfers.run(rsync.empty_partial(self._tool, nothing, self._place), capabilities=self._place.capabilities)
        except TransferFailed as failure:
            self.job.report.remark(f"what is of no use any more could not be removed at the target: {failure.detail}")
        for name in obsolete:
            (self.confirmed.segments / name).unlink(missing_ok=True)

    async def _remove(self, shown: _Shown, own: Sequence[str]) -> None:
        """Remove files of ours at the target."""
        example = self.job.runtime / "nothing-of-ours"
        (example / shown.offsited).mkdir(parents=True)
        paths = await shown.sealed.of([f"{names.OFFSITED_DIR}/{name}".encode() for name in own])
        listed = self.transfers.list_file(path.encode() for path in paths)
        command = rsync.delete_by_example(self._tool, example, self._place, listed)
        await self.transfers.run(command, capabilities=self._place.capabilities)

    def _new_commit(self, listed: tuple[SegmentFile, ...]) -> Commit:
        before = self.confirmed.commit
        return Commit(
            vault=self.job.files.identity(),
            target=self.job.target.name,
            job=self.job.number,
            previous=self.confirmed.digest,
            snapshot=self.opened.name,
            snapshot_dated=self.opened.dated,
            opened=self.opened.opened,
            committed=now(),
            reconciled=self._reconciled(before),
            entries=int(self.pending.fact("entries")),
            bytes=int(self.pending.fact("size")),
            segments=listed,
            root=root_hash(listed),
        )

    def _reconciled(self, before: Commit | None) -> int:
        """When the target was last compared as a whole and found or made equal. What is held of that is looked at again next time."""
        if self.there and self.holding.verdict and (self.there.surplus.entries or self.there.drift.entries):
            return 0
        return now() if self.whole or before is None else before.reconciled

    # --- transfers -------------------------------------------------------------------------------------------------

    async def _put(self, shown: _Shown, own: Sequence[str]) -> None:
        """Send files of ours, of those that lie beside the snapshot."""
        paths = await shown.sealed.of([f"{names.OFFSITED_DIR}/{name}".encode() for name in own])
        listed = self.transfers.listed(path.encode() for path in (f"{shown.offsited}/{names.DIRIV_FILE}", *paths))
        await self._run(rsync.send_listed(self._tool, shown.point, self._place, listed, again=self.whole))

    async def _run(self, command: list[str]) -> None:
        await patiently(lambda: self.transfers.run(command, capabilities=self._place.capabilities, on_line=self.transfers.wire))

    @property
    def _tool(self) -> str:
        return self.job.tools.rsync

    @property
    def _place(self) -> rsync.Place:
        return self.target.place


def _within_directories(view: Path, paths: set[str]) -> set[str]:
    """Those of the paths whose parent is a directory of the view: where it is none any more, it went with all that was in it."""
    parents = {path.rpartition("/")[0] for path in paths}
    standing = {parent for parent in parents if _is_directory(view / parent)}
    return {path for path in paths if path.rpartition("/")[0] in standing}


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def check_top(opened: Snapshot) -> None:
    """Raise JobFailed if anything at the top of the opened snapshot came or went since, or if it is gone itself."""
    status = os.fstat(opened.descriptor)
    if status.st_mtime_ns != opened.modified or status.st_nlink == 0:
        raise JobFailed(Reason.SNAPSHOT_CHANGED, "its top is no longer as it was when it was opened")


def _with_companions(paths: Iterable[str]) -> Iterator[bytes]:
    for path in paths:
        for one in (path, *gocryptfs.own_companions(path)):
            yield one.encode("utf-8", "surrogateescape")
