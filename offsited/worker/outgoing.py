# SPDX-License-Identifier: GPL-3.0-or-later
"""Sending entries of the plan by list, in batches, and hashing their content while it is in the page cache.

rsync names a file before it reads it (rsync(1), --out-format). The hash of it is taken from then on beside rsync, from the snapshot
itself: whoever of the two comes second reads from memory.
"""

import asyncio
import errno
import os
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from offsited import names
from offsited.core import gocryptfs, rsync, rsync_output
from offsited.core.manifest import Row
from offsited.core.outcome import Reason
from offsited.core.plan import KEPT_BACK, REPLACED, SENT
from offsited.core.progress import Progress
from offsited.core.rsync_output import Item as Line
from offsited.errors import JobFailed
from offsited.worker import hashing
from offsited.worker.pending import Item, Pending
from offsited.worker.sealed_paths import SealedPaths
from offsited.worker.transfer import TransferFailed, Transfers, patiently

BATCH: Final = 20_000
"""Entries of one rsync. A hard-link group is never cut."""


@dataclass
class Outgoing:
    """Sends parts of one plan to one place."""

    pending: Pending
    snapshot: int
    """Descriptor of the snapshot's top."""
    sealed: SealedPaths
    view: Path
    place: rsync.Place
    tool: str
    transfers: Transfers
    progress: Progress
    """Of the phase, as far as earlier batches have brought it."""
    postponed: list[Item] = field(default_factory=list)
    """What a directory at the target stands in the way of."""

    async def send(self, groups: Iterable[Sequence[Item]], *, again: bool = False, force: bool = False) -> None:
        """Send groups of items, each group by one rsync. `again`: also what looks unchanged; `force`: in place of directories."""
        for batch in batches(groups):
            await self._send(batch, again=again, force=force)

    async def _send(self, batch: Sequence[Item], *, again: bool, force: bool) -> None:
        paths = await self.sealed.of([sealed_from(item.row.path) for item in batch])
        listed = self.transfers.list_file(line.encode() for line in _lines(batch, paths))
        hashing = _Hashing(self.pending, self.snapshot, dict(zip((path.encode() for path in paths), batch, strict=True)))
        command = rsync.send_listed(self.tool, self.view, self.place, listed, again=again, force=force)
        start = self.progress

        async def transfer() -> None:
            try:
                await patiently(
                    lambda: self.transfers.counted(command, start, capabilities=self.place.capabilities, on_item=hashing.notice)
                )
            except TransferFailed as failure:
                self._postpone(failure, dict(zip(paths, batch, strict=True)))

        try:
            await hashing.beside(transfer())
        finally:
            listed.unlink()
        size = sum(item.row.size for item in batch)
        self.progress = replace(start, bytes_done=start.bytes_done + size, entries_done=start.entries_done + len(batch))

    def _postpone(self, failure: TransferFailed, batch: Mapping[str, Item]) -> None:
        """Go on if all that rsync complained of were directories in the way, else raise `failure`."""
        obstacles, nothing_else = rsync_output.obstacles(failure.complaints)
        if not obstacles or not nothing_else:
            raise failure
        found = [item for path in obstacles if (item := batch.get(path.decode()))]
        # Of a hard-link group whose first name is in trouble rsync makes none.
        groups = {item.row.inode for item in found if item.row.link}
        self.postponed += [item for item in batch.values() if item in found or (item.row.link and item.row.inode in groups)]


def travels(item: Item) -> bool:
    """Whether an item of a plan is to be sent."""
    return bool(item.change & SENT) and not item.change & KEPT_BACK and not item.row.carried


def sealed_from(path: bytes) -> bytes:
    """Given a path of the snapshot, return it relative to `plain/`."""
    return f"{names.BACKUP_DIR}/".encode() + path if path else names.BACKUP_DIR.encode()


def batches(groups: Iterable[Sequence[Item]]) -> Iterator[list[Item]]:
    """Join groups to batches."""
    batch: list[Item] = []
    for group in groups:
        if batch and len(batch) + len(group) > BATCH:
            yield batch
            batch = []
        batch.extend(group)
    if batch:
        yield batch


def _lines(batch: Sequence[Item], paths: Sequence[str]) -> Iterator[str]:
    """Every path with the files of gocryptfs's own that belong to it alone."""
    for item, path in zip(batch, paths, strict=True):
        yield path
        yield from gocryptfs.own_companions(path, directory=item.row.kind == "d")


class _Hashing:
    """The hashes of one batch: of each file whose content is new, by one of its names."""

    def __init__(self, pending: Pending, snapshot: int, items: Mapping[bytes, Item]) -> None:
        self._pending = pending
        self._snapshot = snapshot
        self._items = items
        self._begun: set[bytes | int] = set()
        self._waiting: list[Row] = []
        self._news = asyncio.Event()
        self._complete = False
        self._stop = threading.Event()

    def notice(self, line: Line) -> None:
        """rsync is about to send this."""
        item = self._items.get(line.path)
        if item is not None and line.is_content:
            self._begin(item)

    async def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Await `work`, hashing meanwhile what it notices; then hash what is left. Raise JobFailed, and what `work` raises."""
        sending = asyncio.create_task(work)
        hashing = asyncio.create_task(self._hash_all())
        try:
            await asyncio.wait({hashing, sending}, return_when=asyncio.FIRST_COMPLETED)
            if hashing.done():
                hashing.result()
            await sending
            self._rest()
            await hashing
        finally:
            self._stop.set()
            for task in (hashing, sending):
                task.cancel()
            await asyncio.wait({hashing, sending})

    def _rest(self) -> None:
        """What rsync found to be at the target already, from an interrupted run, is hashed too."""
        for item in self._items.values():
            self._begin(item)
        self._complete = True
        self._news.set()

    def _begin(self, item: Item) -> None:
        row = item.row
        wanted = row.kind == "f" and not row.sha256 and item.change & REPLACED and not item.change & KEPT_BACK
        key: bytes | int = row.inode if row.link else row.path
        if wanted and key not in self._begun:
            self._begun.add(key)
            self._waiting.append(row)
            self._news.set()

    async def _hash_all(self) -> None:
        while self._waiting or not self._complete:
            await self._news.wait()
            self._news.clear()
            rows, self._waiting = self._waiting, []
            found = await asyncio.to_thread(lambda rows: [(row, hash_file(self._snapshot, row, self._stop)) for row in rows], rows)
            self._pending.set_hashes(found)
            if self._complete:
                self._news.set()


def hash_file(top: int, row: Row, stop: threading.Event) -> bytes:
    """As `hashing.sha256`; raise JobFailed if the file is no longer the one that the row is of, or cannot be read."""
    try:
        return hashing.sha256(top, row, stop)
    except OSError as error:
        reason = Reason.SNAPSHOT_UNREADABLE if error.errno == errno.EIO else Reason.SNAPSHOT_CHANGED
        raise JobFailed(reason, f"{os.fsdecode(row.path)}: {error.strerror}") from error
