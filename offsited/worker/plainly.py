# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore without the manifest: what gocryptfs shows of the target's mirror is copied by rsync. For when the manifest is damaged."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import gocryptfs, rsync
from offsited.core.commit import Commit, parse_commit
from offsited.core.config import DiskTarget
from offsited.core.outcome import Reason
from offsited.core.progress import Phase, Progress
from offsited.core.record import Counts
from offsited.core.rsync_output import Tally
from offsited.errors import JobFailed
from offsited.worker import encrypted_names
from offsited.worker.confirmed import COMMIT_FILE
from offsited.worker.destination import Destination
from offsited.worker.job import DONE, Ending, Job
from offsited.worker.target import Target
from offsited.worker.transfer import Transfers, patiently
from offsited.worker.view import View, mounted

_COMMIT: Final = f"{names.OFFSITED_DIR}/{COMMIT_FILE}".encode()
_BACKUP: Final = names.BACKUP_DIR.encode()


async def restore_plainly(
    job: Job, destination: Destination, wanted: tuple[bytes, ...], transfers: Transfers, reached: Target, *, begins: Callable[[], None]
) -> Ending:
    """Write what the target's mirror has of the paths asked for, () = everything. Call `begins` before the first write. Raise JobFailed."""
    restoring = _Restore(job, destination, wanted, transfers, replace(transfers, tally=Tally()), reached, begins)
    try:
        async with restoring.encrypted_tree() as tree:
            times = await restoring.write(tree)
        destination.finish()
        if not wanted:  # removing what was ours there has changed it
            os.utime(destination.point, ns=times)
    finally:
        restoring.count()
    job.report.remark("restored without the manifest: no extended attributes, ACLs, flags, and nothing is checked against it")
    return DONE


@dataclass(frozen=True)
class _Restore:
    """The steps of a restore."""

    job: Job
    destination: Destination
    wanted: tuple[bytes, ...]
    """Paths relative to the top of the snapshot; none = everything."""
    fetching: Transfers
    writing: Transfers
    reached: Target
    begins: Callable[[], None]

    def count(self) -> None:
        """Put what was written, and what crossed the wire for it, into the record."""
        written = {"sent_entries": self.writing.tally.sent_entries, "sent_bytes": self.writing.tally.sent_bytes}
        counts = self.job.report.record.counts.model_copy(update={**written, "wire_bytes": self.fetching.tally.wire_bytes})
        self.job.report.note(counts=counts)

    @asynccontextmanager
    async def encrypted_tree(self) -> AsyncIterator[str]:
        """Within: a local path of the encrypted tree, whole or as much of it as is wanted. Raise JobFailed if there is none."""
        found = await self.reached.look(self.fetching, [names.DIRIV_FILE])
        if not found.files:
            raise JobFailed(Reason.TARGET_EMPTY)
        if isinstance(self.job.target, DiskTarget):
            yield self.reached.place.current
            return
        await self._fetch()
        yield f"{self.destination.scratch}/{names.CURRENT_DIR}"

    async def _fetch(self) -> None:
        below = tuple(_BACKUP + b"/" + path for path in self.wanted)
        encrypted = await encrypted_names.of(self.job, (_COMMIT, *below))
        paths = [encrypted[_COMMIT], *(encrypted[path] for path in below)] if below else []
        listed = sorted({needed for path in paths for needed in (path, *gocryptfs.companions(path))})
        current = [f"{names.CURRENT_DIR}/{path}" for path in listed] or [names.CURRENT_DIR]
        paths_file = self.fetching.list_file(path.encode() for path in current)
        command = rsync.fetch(self.job.tools.rsync, self.reached.place, paths_file, f"{self.destination.scratch}/")
        self.begins()
        await patiently(lambda: self.fetching.fetched(command, Progress(Phase.FETCHING)))

    async def write(self, tree: str) -> tuple[int, int]:
        """Write in clear what is wanted of the encrypted tree; return the times of the snapshot's top, in ns."""
        point = self.job.runtime / "view"
        command = gocryptfs.forward_mount(self.job.tools.gocryptfs, tree, point, key_file=self.job.files.key_file, notify=os.getpid())
        async with mounted(command, point, gocryptfs.FORWARD_FILE_SYSTEM, key=self.job.key) as view:
            return await view.guard(self._write(view))

    async def _write(self, view: View) -> tuple[int, int]:
        top = view.point / names.BACKUP_DIR
        commit = await view.look(lambda: _read_commit(view.point))
        counts = Counts(entries=commit.entries, bytes=commit.bytes) if commit else Counts()
        if commit:
            self.job.report.note(snapshot=commit.snapshot, snapshot_dated=commit.snapshot_dated, counts=counts)
        else:
            self.job.report.remark("the commit cannot be read: which snapshot this is, and whether it is whole, is not known")
        await view.look(lambda: self._check(top))
        # What begins with # or ; would be a comment to rsync.
        listed = self.writing.list_file(b"./" + path for path in self.wanted) if self.wanted else None
        start = Progress(Phase.WRITING) if listed else Progress(Phase.WRITING, bytes_total=counts.bytes, entries_total=counts.entries)
        self.begins()
        command = rsync.restore(self.job.tools.rsync, top, f"{self.destination.point}/", listed)
        await self.writing.fetched(command, start, sealed=False)
        status = await view.look(top.stat)
        return status.st_atime_ns, status.st_mtime_ns

    def _check(self, top: Path) -> None:
        """Raise JobFailed if there is no backup, or if something wanted is not in it."""
        if not top.is_dir():
            raise JobFailed(Reason.TARGET_EMPTY)
        for path in self.wanted:
            if not os.path.lexists(os.fsencode(top) + b"/" + path):
                raise JobFailed(Reason.PATH_NOT_IN_BACKUP, os.fsdecode(path))


def _read_commit(view: Path) -> Commit | None:
    """The commit, or None: the tree may be whole all the same."""
    try:
        return parse_commit((view / os.fsdecode(_COMMIT)).read_bytes())
    except OSError:
        return None
