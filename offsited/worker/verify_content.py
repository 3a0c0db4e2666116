# SPDX-License-Identifier: GPL-3.0-or-later
"""The third step of a verification: every byte, decrypted and hashed; or files by chance; or as much as is due."""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import gocryptfs
from offsited.core.manifest import Row, parent
from offsited.core.outcome import Reason
from offsited.core.progress import Phase, Progress
from offsited.core.verification import Difference, What, due
from offsited.errors import JobFailed
from offsited.worker.contents import Contents
from offsited.worker.fetching import Clear, Fetcher, parts, shown_in_clear
from offsited.worker.ledger import Ledger
from offsited.worker.outgoing import sealed_from
from offsited.worker.renewal import MOUNT_ENTRIES
from offsited.worker.report import now
from offsited.worker.rotation import Rotation
from offsited.worker.verification import Verification

SLICE_ENTRIES: Final = 2000
SLICE_BYTES: Final = 256 << 20
"""Of content that is fetched or read at once. What a sync makes us read again is no more than that, but for a single larger file."""
READERS: Final = 4
"""Threads: each waits for gocryptfs most of the time."""


async def verify_all(verification: Verification) -> None:
    """Read everything."""
    await _Reading(verification).to_end()
    Rotation(read=now()).write(verification.confirmed.directory)


async def verify_sample(verification: Verification, files: int) -> None:
    """Read so many files by chance."""
    await _Reading(verification, sample=files).to_end()


async def verify_due(verification: Verification, days: int) -> None:
    """Read what is due today if every byte is to be read within so many days."""
    rotation = Rotation.load(verification.confirmed.directory)
    share = due(verification.size, now() - rotation.read if rotation.read else 0, days)
    reading = _Reading(verification, cursor=rotation.path, left=share)
    await reading.to_end()
    if reading.at_end and reading.left and rotation.path is not None:
        reading.cursor = None
        await reading.to_end()
    Rotation.at(None if reading.at_end else reading.cursor, now()).write(verification.confirmed.directory)


class _Reading:
    """One reading, that can be taken up where it was."""

    def __init__(self, verification: Verification, *, cursor: bytes | None = None, left: int | None = None, sample: int = 0) -> None:
        self._all = verification
        self._sample = sample
        self._known = verification.findings.known()
        self.cursor = cursor
        """The entry that was compared last."""
        self.left = left
        """Bytes to read still; None = all."""
        self.at_end = False
        self._seen: set[str] = set()
        """Encrypted paths of directories whose companions were looked at."""

    async def to_end(self) -> None:
        """Read from the cursor on, until nothing is left to be read."""
        self.at_end = False
        while not self.at_end and self.left != 0:
            await self._all.turns.take(self._run)

    async def _run(self) -> None:
        """Read slice by slice, as long as one mount is good for; a slice counts once it is known that no sync came in between."""
        self._all.anew()
        read = 0
        self._seen.clear()
        async with self._shown() as (clear, top):
            with self._all.ledger() as ledger:
                for part in parts(self._rows(ledger), SLICE_ENTRIES, self._limit):
                    found = await self._read(clear, top, part)
                    self._all.turns.check()
                    self._settle(part, found)
                    read += len(part)
                    if self.left == 0 or (read >= MOUNT_ENTRIES and not self._sample):
                        return
        self.at_end = True

    def _settle(self, part: Sequence[Row], found: Sequence[Difference]) -> None:
        size = sum(row.size for row in part)
        self._all.findings.note(found)
        self._all.settle()
        self._all.read += size
        self.cursor = part[-1].path
        if self.left is not None:
            self.left = max(self.left - size, 0)
        total = self._all.read + self.left if self.left is not None else 0 if self._sample else self._all.size
        self._all.job.report.progress(Progress(Phase.READING, bytes_done=self._all.read, bytes_total=total))

    def _limit(self) -> int:
        return SLICE_BYTES if self.left is None else min(self.left, SLICE_BYTES)

    def _rows(self, ledger: Ledger) -> Iterator[Row]:
        found = iter(ledger.sample(self._sample)) if self._sample else ledger.rows_from(self.cursor)
        for row in found:
            if row.kind != "d" and not row.carried and not self._all.is_in_doubt(ledger, row.path):
                yield row

    @asynccontextmanager
    async def _shown(self) -> AsyncIterator[tuple[Clear, int]]:
        """Within: what the target holds in clear, and its open top."""
        async with shown_in_clear(self._all.job, self._all.reached, self._all.transfers, self._all.scratch) as clear:
            try:
                top = await clear.view.look(lambda: os.open(clear.view.point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            except OSError as error:
                raise JobFailed(Reason.TARGET_DAMAGED, str(error.strerror)) from error
            try:
                yield clear, top
            finally:
                os.close(top)

    async def _read(self, clear: Clear, top: int, part: Sequence[Row]) -> list[Difference]:
        """Compare some entries. Return how they differ, but for what is known to be missing already."""
        size = sum(row.size for row in part)
        if clear.fetcher and shutil.disk_usage(self._all.scratch).free < 2 * size:
            raise JobFailed(Reason.SCRATCH_FULL, f"{size} bytes are to be fetched at once")
        await clear.fetch([row.path for row in part], size, exact=True)
        wrong = await self._wrong_companions(clear.fetcher, part) if clear.fetcher else []
        stop = threading.Event()
        contents = Contents(top, stop, fetched=clear.fetcher is not None)
        with ThreadPoolExecutor(READERS, "reader") as pool:
            try:
                found = await clear.view.guard(_compare(pool, contents, part))
            finally:
                stop.set()
        await clear.forget()
        return wrong + [self._told(one) for one in found if one.what is not What.MISSING or one.path not in self._known]

    async def _wrong_companions(self, fetcher: Fetcher, part: Sequence[Row]) -> list[Difference]:
        """What gocryptfs keeps for the names of what was fetched, and of the directories above. On a disk it was looked at already."""
        sealed = await fetcher.sealed.of([sealed_from(row.path) for row in part])
        return await asyncio.to_thread(self._look_at_companions, fetcher.scratch / names.CURRENT_DIR, part, sealed)

    def _look_at_companions(self, mirror: Path, part: Sequence[Row], sealed: Sequence[str]) -> list[Difference]:
        found = []
        for row, path in zip(part, sealed, strict=True):
            for one, plain in _above(path, row.path):
                if one not in self._seen:
                    found += [Difference(plain, What.NAMES, "what gocryptfs keeps for its name is damaged") for _ in _damaged(mirror, one)]
                if plain != row.path:
                    self._seen.add(one)
        return found

    @staticmethod
    def _told(one: Difference) -> Difference:
        """What lies there and is not found by its name."""
        return Difference(one.path, What.NAMES, "it cannot be found by its name") if one.what is What.MISSING else one


def _above(sealed: str, plain: bytes) -> Iterator[tuple[str, bytes]]:
    """An entry and each directory above it, encrypted and in clear, up to the snapshot's top."""
    yield sealed, plain
    while plain:
        sealed, plain = sealed.rpartition("/")[0], parent(plain)
        yield sealed, plain


def _damaged(mirror: Path, sealed: str) -> Iterator[str]:
    """The companions of an entry itself that are there and damaged."""
    for companion in (f"{sealed}/{names.DIRIV_FILE}", f"{sealed}.name"):
        try:
            content = (mirror / companion).read_bytes()
        except OSError:
            continue
        if not gocryptfs.is_companion_right(companion, content):
            yield companion


async def _compare(pool: ThreadPoolExecutor, contents: Contents, part: Sequence[Row]) -> list[Difference]:
    loop = asyncio.get_running_loop()
    shares = [part[start::READERS] for start in range(READERS)]
    results = await asyncio.gather(*(loop.run_in_executor(pool, contents.compare_each, share) for share in shares))
    return sorted((one for found in results for one in found), key=lambda one: one.path)
