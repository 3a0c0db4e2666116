# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore for proof: files by chance, the largest, the smallest, one whole directory, by the very way of a restore, read once more.

What is written lies in a directory of root's alone and is removed. It reads, and begins anew when a sync comes (worker.turns).
"""

import asyncio
import errno
import itertools
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core.manifest import Row
from offsited.core.outcome import Outcome, Reason
from offsited.core.record import Counts
from offsited.errors import JobFailed
from offsited.worker import entry, target
from offsited.worker.contents import Contents
from offsited.worker.destination import SCRATCH, Destination
from offsited.worker.fetching import shown_in_clear
from offsited.worker.job import DONE, Ending, Job
from offsited.worker.ledger import Ledger
from offsited.worker.reach import reach
from offsited.worker.rebuilding import Rebuilding
from offsited.worker.restore import manifest, selection
from offsited.worker.target import Target
from offsited.worker.tasks import to_its_end
from offsited.worker.transfer import Transfers
from offsited.worker.turns import Turns
from offsited.worker.view import require

SCRATCH_DIR: Final = "restore-test"
"""In a target's directory here, while a test runs."""
FILES: Final = 200
OTHERS: Final = 20
"""Links and nodes."""
DIRECTORY_ENTRIES: Final = 1000
DIRECTORY_BYTES: Final = 1 << 30
"""Of the whole directory at most."""
_CANDIDATES: Final = 50


async def restore_test(job: Job) -> Ending:
    """Restore some of what a target holds and compare it with the manifest. Raise JobFailed if that cannot be done."""
    await require(job.tools.gocryptfs)
    transfers = Transfers(job.tools, job.runtime, job.report)
    testing = _Testing(job, job.files.target(job.target.name) / SCRATCH_DIR, transfers, await reach(job, writing=False))
    try:
        return await Turns(job).take(testing.run)
    finally:
        await asyncio.to_thread(remove, testing.directory)


@dataclass
class _Testing:
    """The steps of one."""

    job: Job
    directory: Path
    transfers: Transfers
    reached: Target

    async def run(self) -> Ending:
        await asyncio.to_thread(self._make_anew)
        found = await target.inspect(self.transfers, self.reached, self.job.files.identity(), [])
        if found.owner is None:
            raise JobFailed(Reason.TARGET_EMPTY)
        destination = Destination(self.directory / names.BACKUP_DIR)
        async with shown_in_clear(self.job, self.reached, self.transfers, destination.scratch) as clear:
            with Ledger.opened(await manifest(self.job, clear, destination)) as ledger:
                chosen = await asyncio.to_thread(self._choose, ledger)
                rebuilding = Rebuilding(self.job, ledger, destination, clear, chosen)
                await rebuilding.run()
                stop = threading.Event()
                await to_its_end(lambda: self._read_again(ledger, chosen, destination, stop), stop)
        return self._ending(rebuilding, destination)

    def _make_anew(self) -> None:
        remove(self.directory)
        for made in (self.directory, self.directory / names.BACKUP_DIR, self.directory / "scratch"):
            made.mkdir(mode=0o700, parents=True)

    # --- what is restored ------------------------------------------------------------------------------------------

    def _choose(self, ledger: Ledger) -> list[Row]:
        """What the test is of. Raise JobFailed if there is no room for it."""
        chosen = [*ledger.sample(FILES), *ledger.sample(1, order="size"), *ledger.sample(OTHERS, "lpscb")]
        largest = ledger.sample(1, order="size DESC")
        room = shutil.disk_usage(self.directory).free // 2
        room -= sum(row.size for row in chosen)
        if room < 0:
            raise JobFailed(Reason.SCRATCH_FULL, f"{sum(row.size for row in chosen)} bytes are to be restored")
        if sum(row.size for row in largest) <= room:
            room -= sum(row.size for row in largest)
            chosen += largest
        else:
            self.job.report.remark(f"the largest file was left out: it has {largest[0].size} bytes, and there is no room for it")
        chosen += _whole_directory(ledger, min(room, DIRECTORY_BYTES))
        return selection(ledger, sorted({row.path for row in chosen if row.path.partition(b"/")[0] != SCRATCH.encode()}))

    def _read_again(self, ledger: Ledger, chosen: Sequence[Row], destination: Destination, stop: threading.Event) -> None:
        """What was written is read as anybody would, and compared with the manifest."""
        top = os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            contents = Contents(top, stop, fetched=True)
            for row in itertools.takewhile(lambda _: not stop.is_set(), _all(ledger, chosen)):
                for one in contents.compare(row):
                    destination.differences.note(one.path, f"{one.what} {one.detail}".rstrip())
        finally:
            os.close(top)

    # --- how it went -----------------------------------------------------------------------------------------------

    def _ending(self, rebuilding: Rebuilding, destination: Destination) -> Ending:
        lines = destination.differences.read()
        # This machine's own disk may not keep what the snapshot's did: that says nothing of the target.
        unkept = [line for line in lines if line.endswith(os.strerror(errno.EOPNOTSUPP))]
        differences = [line for line in lines if line not in unkept]
        report = self.job.report
        counts = Counts(entries=rebuilding.entries, bytes=rebuilding.bytes, differences=len(differences))
        report.note(counts=counts.model_copy(update={"wire_bytes": self.transfers.tally.wire_bytes}))
        if unkept:
            report.remark(f"{len(unkept)} attributes could not be tried: the file system of /var/lib/offsited does not have them")
        if not differences:
            return DONE
        listed = self.job.files.jobs / f"{self.job.number}.differences"
        destination.differences.move(listed)
        report.remark(f"{len(differences)} differences, listed in {listed}")
        return Outcome.PARTIAL, Reason.RESTORED_DIFFERENT


def _whole_directory(ledger: Ledger, room: int) -> list[Row]:
    """A directory by chance, with something in it and not too much, at most `room` bytes; [] if there is none."""
    for row in ledger.sample(_CANDIDATES, "d"):
        entries = size = 0
        for found in ledger.entries_below(row.path):
            entries, size = entries + 1, size + found.size
            if entries > DIRECTORY_ENTRIES or size > room:
                break
        else:
            if entries:
                return [row]
    return []


def _all(ledger: Ledger, chosen: Sequence[Row]) -> Iterator[Row]:
    """Everything that was asked for, but for directories: theirs is no content."""
    for row in chosen:
        yield from ledger.entries_below(row.path) if row.kind == "d" else (row,)


def remove(directory: Path) -> None:
    """Remove a tree, whatever flags it was restored with. Raise OSError if that is not to be."""
    if not os.path.lexists(directory):
        return
    for path, directories, files in os.walk(directory):
        _clear_flags(Path(path))
        for name in (*files, *directories):
            _clear_flags(Path(path, name))
    shutil.rmtree(directory)


def _clear_flags(path: Path) -> None:
    """Of a file or directory; nothing else has any."""
    mode = os.lstat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        entry.clear_flags(descriptor)
    except OSError:
        return  # it has none
    finally:
        os.close(descriptor)
