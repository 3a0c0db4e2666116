# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a sync that need the encrypted view: send, check the snapshot again, delete, commit."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import gocryptfs, rsync
from offsited.core.commit import Commit, digest, encode
from offsited.core.outcome import Reason
from offsited.core.progress import Phase, Progress
from offsited.core.rsync_output import Item, obstacles, parse_line, topmost
from offsited.errors import JobFailed
from offsited.store import write_whole
from offsited.worker import census
from offsited.worker.census import Census
from offsited.worker.confirmed import COMMIT_FILE, Confirmed
from offsited.worker.job import Job
from offsited.worker.report import now
from offsited.worker.snapshot import Snapshot
from offsited.worker.target import Found, Target, prepare
from offsited.worker.transfer import TransferFailed, Transfers, patiently
from offsited.worker.view import View, encrypt_path, mounted

CANARY: Final = "canary"
CANARY_BYTES: Final = 32
"""A file beside the snapshot, new with each job: a view that shows it is of this very `plain/`."""


@dataclass(frozen=True)
class _Shown:
    """The view, and paths in it."""

    point: Path
    backup: str
    offsited: str
    canary: str
    commit: str


@dataclass(frozen=True)
class Mirror:
    """What the steps work with: a bound snapshot, an inspected target, and what a walk met."""

    job: Job
    opened: Snapshot
    confirmed: Confirmed
    met: Census
    target: Target
    found: Found
    transfers: Transfers

    async def run(self) -> None:
        """Mount the view, take the steps, end gocryptfs. Raise JobFailed."""
        self.job.report.phase(Phase.VIEW)
        point, control = self.job.runtime / "view", self.job.runtime / "control"
        command = gocryptfs.reverse_mount(
            self.job.tools.gocryptfs, self.job.files.plain, point, control=control, notify=os.getpid(), exclude=_exclude_file(self.job)
        )
        async with mounted(command, point, gocryptfs.REVERSE_FILE_SYSTEM, key=self.job.key) as view:
            await view.guard(self._steps(view, control))

    async def _steps(self, view: View, control: Path) -> None:
        paths = names.BACKUP_DIR, names.OFFSITED_DIR, f"{names.OFFSITED_DIR}/{CANARY}", f"{names.OFFSITED_DIR}/{COMMIT_FILE}"
        shown = _Shown(view.point, *[await encrypt_path(control, path) for path in paths])
        await view.look(lambda: self._check_view(shown))
        await prepare(self.transfers, self.target, self.job.files.identity(), self.found)
        await self._send(shown)
        await self._check_snapshot()
        await self._delete(shown, view)
        await self._commit(shown, view)

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

    async def _send(self, shown: _Shown) -> None:
        """Send everything. A directory of the target that stands in the way of a file goes once the snapshot was found unchanged."""
        try:
            await self._send_all(shown)
        except TransferFailed as failure:
            paths, nothing_else = obstacles(failure.complaints)
            if not paths or not nothing_else:
                raise
            await self._check_snapshot()
            listed = self.transfers.list_file(paths)
            await self._counted(rsync.replace_listed(self._tool, shown.point, self._place, listed))
            await self._send_all(shown)

    async def _send_all(self, shown: _Shown) -> None:
        await self._counted(rsync.send(self._tool, shown.point, self._place, without=shown.offsited))

    async def _check_snapshot(self) -> None:
        """Raise JobFailed unless what is bound is the very directory that it was, and every directory in it."""
        self.job.report.phase(Phase.CHECKING)
        again = await census.take(str(self.job.files.plain / names.BACKUP_DIR), lambda _entries, _bytes: None)
        if again != self.met:
            raise JobFailed(Reason.SNAPSHOT_CHANGED, f"{self.met.entries} entries before, {again.entries} after")

    async def _delete(self, shown: _Shown, view: View) -> None:
        """Delete what the target has and the view has not: a list, made first, with the snapshot found unchanged after it was made."""
        self.job.report.phase(Phase.DELETING)
        doomed = topmost(await self._plan_deletions(shown))
        if not doomed:
            return
        excluded = await view.look(lambda: _refused(shown.point, doomed)) if self.job.vault.source.exclude else []
        await self._check_snapshot()
        missing = self.transfers.list_file(path for path in doomed if path not in excluded)
        await self._counted(rsync.delete_listed(self._tool, shown.point, self._place, missing), Progress(Phase.DELETING))
        if excluded:
            await self._delete_excluded(shown, excluded)

    async def _delete_excluded(self, shown: _Shown, excluded: list[bytes]) -> None:
        """rsync must not take 'refused' for 'missing'. So it gets a tree that has the parents and nothing else as an example."""
        example = self.job.runtime / "example"
        for path in excluded:
            (example / os.fsdecode(path)).parent.mkdir(parents=True, exist_ok=True)
        listed = self.transfers.list_file(excluded)
        await self._counted(rsync.delete_by_example(self._tool, example, self._place, listed), Progress(Phase.DELETING))
        parents = self.transfers.list_file({path.rpartition(b"/")[0] for path in excluded} - {b""})
        await self._counted(rsync.send_listed(self._tool, shown.point, self._place, parents), Progress(Phase.DELETING))

    async def _plan_deletions(self, shown: _Shown) -> list[bytes]:
        async def attempt() -> list[bytes]:
            lines: list[bytes] = []
            plan = rsync.plan_deletions(self._tool, shown.point, self._place, without=shown.offsited)
            await self.transfers.run(plan, capabilities=self._place.capabilities, on_line=lines.append)
            items = [parse_line(line) for line in lines]
            return [item.path for item in items if isinstance(item, Item) and item.deleted]

        return await patiently(attempt)

    async def _commit(self, shown: _Shown, view: View) -> None:
        """Flush, then the commit file, then flush again: a commit is at the target only if all that it speaks of is."""
        self.job.report.phase(Phase.COMMITTING)
        await self.target.flush()
        content = encode(self._new_commit())
        await asyncio.to_thread(write_whole, self.confirmed.tree / COMMIT_FILE, content)
        paths = self.transfers.list_file(path.encode() for path in (f"{shown.offsited}/{names.DIRIV_FILE}", shown.commit))
        command = rsync.send_listed(self._tool, shown.point, self._place, paths)
        await patiently(lambda: self.transfers.run(command, capabilities=self._place.capabilities))
        await self.target.flush()
        sealed = await view.look((shown.point / shown.commit).read_bytes)
        await asyncio.to_thread(self.confirmed.confirm, content, shown.commit, sealed)
        self.job.report.note(commit=digest(content))
        await self._tidy()

    async def _tidy(self) -> None:
        """What interrupted runs left in `partial/` is of no use any more. The commit stands whether or not this works."""
        nothing = self.job.runtime / "nothing"
        nothing.mkdir()
        try:
            await self.transfers.run(rsync.empty_partial(self._tool, nothing, self._place), capabilities=self._place.capabilities)
        except TransferFailed as failure:
            self.job.report.remark(f"partial/ could not be cleared: {failure.detail}")

    def _new_commit(self) -> Commit:
        return Commit(
            vault=self.job.files.identity(),
            target=self.job.target.name,
            job=self.job.number,
            previous=self.confirmed.digest,
            snapshot=self.opened.name,
            snapshot_dated=self.opened.dated,
            opened=self.opened.opened,
            committed=now(),
            entries=self.met.entries,
            bytes=self.met.size,
        )

    async def _counted(self, command: list[str], start: Progress | None = None) -> None:
        start = start or Progress(Phase.SENDING, bytes_total=0 if self.confirmed.commit else self.met.size, entries_total=self.met.shown)
        await patiently(lambda: self.transfers.counted(command, start, capabilities=self._place.capabilities))

    @property
    def _tool(self) -> str:
        return self.job.tools.rsync

    @property
    def _place(self) -> rsync.Place:
        return self.target.place


def _refused(view: Path, paths: list[bytes]) -> list[bytes]:
    """Those paths that gocryptfs does not let anybody look up, because they are excluded."""
    return [path for path in paths if _is_refused(view / os.fsdecode(path))]


def _is_refused(path: Path) -> bool:
    try:
        path.lstat()
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _exclude_file(job: Job) -> Path | None:
    """Patterns may be names of the user's files: they have no place in a command line."""
    if not job.vault.source.exclude:
        return None
    file = job.runtime / "exclude"
    file.write_bytes(gocryptfs.exclude_lines(job.vault.source.exclude))
    return file
