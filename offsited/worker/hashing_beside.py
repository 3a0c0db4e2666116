# SPDX-License-Identifier: GPL-3.0-or-later
"""The hashes of what a transfer sends, taken beside it from the snapshot itself, while the content is in the page cache.

rsync names a file before it reads it (rsync(1), --out-format): whoever of the two comes second reads from memory.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Final

from offsited.core.manifest import Row
from offsited.core.plan import KEPT_BACK, REPLACED
from offsited.core.rsync_output import Item as Line
from offsited.worker.hashing import hash_files
from offsited.worker.pending import Item, Pending

_GATHERED: Final = 0.02
"""Seconds that names are gathered for before a thread takes them: one at a time would cost more than its hash."""


class HashingBeside:
    """The hashes of one transfer: of each file whose content is new, by one of its names."""

    def __init__(
        self, pending: Pending, snapshot: int, *, files: Mapping[bytes, Item], directories: Mapping[bytes, list[Item]] | None = None
    ) -> None:
        """By encrypted path: entries, each hashed when it is named, and directories, of which all are hashed when one is named."""
        self._pending = pending
        self._snapshot = snapshot
        self._files = files
        self._directories = dict(directories or {})
        self._begun: set[bytes | int] = set()
        self._waiting: list[Row] = []
        self._news = asyncio.Event()
        self._complete = False
        self._stop = threading.Event()

    def notice(self, line: Line) -> None:
        """rsync is about to send this."""
        if not line.is_content:
            return
        if item := self._files.get(line.path):
            self._begin((item,))
        elif items := self._directories.pop(line.path.rpartition(b"/")[0], None):
            self._begin(items)

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
        self._begin(self._files.values())
        for items in self._directories.values():
            self._begin(items)
        self._complete = True
        self._news.set()

    def _begin(self, items: Iterable[Item]) -> None:
        for item in items:
            row = item.row
            key: bytes | int = row.inode if row.link else row.path
            if is_new_content(item) and key not in self._begun:
                self._begun.add(key)
                self._waiting.append(row)
        self._news.set()

    async def _hash_all(self) -> None:
        """The hashes are entered at the end, all at once: each transaction writes what it changed."""
        found: list[tuple[Row, bytes]] = []
        while self._waiting or not self._complete:
            await self._news.wait()
            if not self._complete:
                await asyncio.sleep(_GATHERED)
            self._news.clear()
            rows, self._waiting = self._waiting, []
            found += await asyncio.to_thread(lambda rows: list(hash_files(self._snapshot, rows, self._stop)), rows)
            if self._complete:
                self._news.set()
        self._pending.set_hashes(found)


def is_new_content(item: Item) -> bool:
    """Whether an item is a file of which the hash is to be found when it is sent."""
    return item.row.kind == "f" and not item.row.sha256 and bool(item.change & REPLACED) and not item.change & KEPT_BACK
