# SPDX-License-Identifier: GPL-3.0-or-later
"""Sending entries of the plan, by list or by whole subtrees, in transfers of bounded size, and hashing their content meanwhile."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import gocryptfs, rsync, rsync_output
from offsited.core.manifest import parent
from offsited.core.plan import KEPT_BACK, SENT
from offsited.core.progress import Progress
from offsited.worker.hashing_beside import HashingBeside, is_new_content
from offsited.worker.pending import Item, Pending
from offsited.worker.sealed_paths import SealedPaths
from offsited.worker.transfer import TransferFailed, Transfers, patiently

BATCH: Final = 20_000
"""Entries of one rsync. A hard-link group is never cut."""
_AT_ONCE: Final = 64 << 20
"""Bytes that are surely still in the page cache when rsync, or the hashing beside it, comes to them."""


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
        hashing = HashingBeside(self.pending, self.snapshot, files=dict(zip((path.encode() for path in paths), batch, strict=True)))
        command = rsync.send_listed(self.tool, self.view, self.place, listed, again=again, force=force)

        async def transfer() -> None:
            try:
                await self._transfer(command, hashing)
            except TransferFailed as failure:
                self._postpone(failure, dict(zip(paths, batch, strict=True)))

        try:
            await hashing.beside(transfer())
        finally:
            listed.unlink()
        self._advance(batch)

    async def send_trees(self, roots: Sequence[bytes]) -> None:
        """Send directories with all below them. All of that must be on the plan, and new to the target."""
        items = [item for root in roots for item in self.pending.within(root)]
        by_name, by_directory = _how_to_hash(items)
        directories = [item.row.path for item in items if item.row.kind == "d"]
        wanted = [*directories, *(item.row.path for item in by_name)]
        paths = dict(zip(wanted, await self.sealed.of([sealed_from(path) for path in wanted]), strict=True))
        tops = [paths[root] for root in roots]
        listed = self.transfers.list_file(one.encode() for top in tops for one in (top, *gocryptfs.own_companions(top)))
        hashing = HashingBeside(
            self.pending,
            self.snapshot,
            files={paths[item.row.path].encode(): item for item in by_name},
            directories={paths[path].encode(): found for path, found in by_directory.items()},
        )
        command = rsync.send_listed(self.tool, self.view, self.place, listed, below=True)
        try:
            await hashing.beside(self._transfer(command, hashing))
        finally:
            listed.unlink()
        self._advance([item for item in items if not item.row.link])  # groups were counted when they were sent

    async def _transfer(self, command: list[str], hashing: HashingBeside) -> None:
        start = self.progress
        await patiently(lambda: self.transfers.counted(command, start, capabilities=self.place.capabilities, on_item=hashing.notice))

    def _advance(self, items: Sequence[Item]) -> None:
        size = sum(item.row.size for item in items)
        self.progress = replace(
            self.progress, bytes_done=self.progress.bytes_done + size, entries_done=self.progress.entries_done + len(items)
        )

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


def _how_to_hash(items: Sequence[Item]) -> tuple[list[Item], dict[bytes, list[Item]]]:
    """What must be hashed of items: by their names where their directory holds more than may lie in memory, else with their directory."""
    found: dict[bytes, list[Item]] = {}
    for item in items:
        if is_new_content(item):
            found.setdefault(parent(item.row.path), []).append(item)
    large = [path for path, within in found.items() if sum(item.row.size for item in within) > _AT_ONCE]
    return [item for path in large for item in found.pop(path)], found
