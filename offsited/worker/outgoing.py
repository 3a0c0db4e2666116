# SPDX-License-Identifier: GPL-3.0-or-later
"""Sending entries of the plan, by list or by whole subtrees, in transfers of bounded size, and hashing their content meanwhile."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from offsited import names
from offsited.core import gocryptfs, rsync, rsync_output
from offsited.core.manifest import Row, parent
from offsited.core.plan import KEPT_BACK, SENT, sealed_length
from offsited.core.rsync_output import Item as Line
from offsited.worker import ivs
from offsited.worker.gauge import Gauge
from offsited.worker.hashing_beside import HashingBeside, is_new_content
from offsited.worker.patching import LARGE, Patching
from offsited.worker.pending import Item, Pending
from offsited.worker.renewal import Renewal
from offsited.worker.sealed_paths import SealedPaths
from offsited.worker.tasks import abreast, to_its_end
from offsited.worker.transfer import TransferFailed, Transfers, patiently

BATCH: Final = 20_000
"""Entries of one rsync. A hard-link group is never cut."""
_LOT: Final = 1200
"""Entries of one rsync that walks subtrees: it comes to a file again within the second for which the kernel keeps what gocryptfs said of
it. With 5,000 a first sync took a twentieth more processor time, with 600 a tenth: each rsync costs something, too."""
_WORTHWHILE: Final = 500
"""Entries from which on a transfer is cut for a second lane: each begins with 50 ms and the directories above."""
_SMALL: Final = 1 << 20
"""Bytes of a file on average, below which its cost is not its content's."""
_HEAVY: Final = 256 << 20
"""Bytes from which on a transfer is cut for the sake of another lane."""
_LONG: Final = 8 << 20
_LONG_AWAY: Final = 256 << 10
"""Bytes of a file of which it is worth telling how far it is: on a disk here, and at a host."""
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
    gauge: Gauge
    renewal: Renewal
    entries: int = 0
    """How many are to be sent in all."""
    size: int = 0
    """Bytes of them."""
    whole: bool = False
    """Nothing is taken for granted of what the target has."""
    streams: int = 1
    """Large files that may be read and written at the same time: disks that turn want one."""
    mirror: int | None = None
    """Descriptor of the mirror's top, where it is on this machine."""
    patched: set[bytes] = field(default_factory=set)
    """Paths of files that have their new content already."""
    postponed: list[Item] = field(default_factory=list)
    """What a directory at the target stands in the way of."""

    async def send(self, groups: Iterable[Sequence[Item]], *, again: bool = False) -> None:
        """Send groups of items, each group by one rsync. `again`: also what looks unchanged."""
        await self._side_by_side(self._send(batch, again=again) for batch in batches(groups, self.limit, self.weight))

    async def patch(self, earlier: Sequence[Path]) -> None:
        """Bring large files of a mirror on this machine to their new content, where that can be done by blocks: rsync has nothing to send.

        `earlier`: where snapshots lie that may have the old content.
        """
        if self.mirror is None:
            return
        stop = threading.Event()
        patching = Patching(self.snapshot, earlier, self.view, self.mirror, Path(self.place.partial), stop)
        for item in await asyncio.to_thread(lambda: list(self.pending.rewritten(LARGE))):
            old = self.pending.ledger.row(item.row.path)
            if old is not None and old.sha256 and not old.link:
                await self._patch(patching, old, item.row)

    async def _patch(self, patching: Patching, old: Row, new: Row) -> None:
        (sealed,) = await self.sealed.of([sealed_from(new.path)])
        loop = asyncio.get_running_loop()
        with self.gauge.transfer() as told:
            found = await to_its_end(
                lambda: patching.patch(old, new, sealed, lambda size: loop.call_soon_threadsafe(told, size, 0)), patching.stop
            )
        if found:
            self.pending.set_hashes([(new, found.sha256)])
            self.patched.add(new.path)
            self.gauge.advance(new.size, 0)
            self.transfers.tally.sent_entries += 1
            self.transfers.tally.sent_bytes += found.written

    async def send_trees(self, lots: Iterable[Sequence[bytes]]) -> None:
        """Send directories with all below them, each lot by one rsync: directories of one directory, which is at the target.

        All of that must be on the plan, and new to the target.
        """
        touched: set[str] = set()
        await self._side_by_side(self._send_trees(roots, touched) for roots in lots)
        if touched:
            await self._transfer(self._command(sorted(touched)))

    async def _side_by_side(self, work: Iterator[Coroutine[Any, Any, None]]) -> None:
        """What costs time is what is done for each small file, and encrypting each large one, one after the other: several transfers keep
        the processors busy."""
        await abreast(work, self.place.lanes if self.size < self.entries * _SMALL else min(self.place.lanes, self.streams))

    @property
    def limit(self) -> int:
        """Entries of one transfer by list: a third of each lane's share, so that it travels while the names of the next are asked for."""
        return min(BATCH, max(_WORTHWHILE, -(-self.entries // self.place.lanes // 3)))

    @property
    def lot(self) -> int:
        """Entries of one transfer of subtrees. Small ones: no lane is left alone at the end with a long one."""
        return min(_LOT, max(_WORTHWHILE, self.entries // self.place.lanes // 4))

    @property
    def weight(self) -> int:
        """Bytes of one transfer."""
        return max(_HEAVY, self.size // self.place.lanes // 4)

    def _takes_long(self, items: Iterable[Item]) -> bool:
        """Whether one of them does: then rsync tells how far it is, and else only what it begins."""
        long = _LONG_AWAY if self.mirror is None else _LONG
        return self.place.limited or any(item.row.size >= long for item in items)

    async def _send(self, batch: Sequence[Item], *, again: bool) -> None:
        async with self.renewal.showing(len(batch)):
            await self._send_now(batch, again=again)

    async def _send_now(self, batch: Sequence[Item], *, again: bool) -> None:
        paths = await self.sealed.of([sealed_from(item.row.path) for item in batch])
        sure = not again and not self.whole
        own = await self._companions(batch, paths, sure=sure)
        constant = own if sure and self.mirror is None else []
        listed = [*paths, *([] if constant else own)]
        hashing = HashingBeside(self.pending, self.snapshot, files=dict(zip((path.encode() for path in paths), batch, strict=True)))

        async def transfer() -> None:
            try:
                if constant:
                    await self._transfer(self._command(constant, constant=True), hashing.notice)
                await self._transfer(self._command(listed, again=again, running=self._takes_long(batch)), hashing.notice)
            except TransferFailed as failure:
                self._postpone(failure, dict(zip(paths, batch, strict=True)))

        await hashing.beside(transfer())
        self._advance(batch)

    async def _send_trees(self, roots: Sequence[bytes], touched: set[str]) -> None:
        items = [item for root in roots for item in self.pending.within(root)]
        async with self.renewal.showing(len(items)):
            await self._send_trees_now(roots, items, touched)

    async def _send_trees_now(self, roots: Sequence[bytes], items: Sequence[Item], touched: set[str]) -> None:
        by_name, by_directory = _how_to_hash(items)
        directories = [item.row.path for item in items if item.row.kind == "d"]
        wanted = [*directories, *(item.row.path for item in by_name)]
        paths = dict(zip(wanted, await self.sealed.of([sealed_from(path) for path in wanted]), strict=True))
        tops = [paths[root] for root in roots]
        hashing = HashingBeside(
            self.pending,
            self.snapshot,
            files={paths[item.row.path].encode(): item for item in by_name},
            directories={paths[path].encode(): found for path, found in by_directory.items()},
        )
        # Only as a part of the transfer is a directory made writable for a receiver that is not root.
        above = tops[0].rpartition("/")[0] if self.place.unhindered else ""
        named = self._named(tops, above)
        command = rsync.send_trees(self.tool, self.view, self.place, above, named, running=self._takes_long(items))
        await hashing.beside(self._transfer(command, hashing.notice, above=above))
        touched.add(above or ".")
        self._advance([item for item in items if not item.row.link])  # groups were counted when they were sent

    async def _companions(self, batch: Sequence[Item], paths: Sequence[str], *, sure: bool) -> list[str]:
        """What gocryptfs keeps for each item alone; where one may be sure of that, without the IVs that need not be sent."""
        pairs = [(path, item.row) for item, path in zip(batch, paths, strict=True)]
        own = [one for path, row in pairs for one in gocryptfs.own_companions(path, directory=row.kind == "d")]
        if self.mirror is None or not sure:
            return own
        settled = await asyncio.to_thread(ivs.settle, self.mirror, [(path, row) for path, row in pairs if row.kind == "d"])
        return [one for one in own if one not in settled]

    def _command(self, paths: Sequence[str], **how: bool) -> list[str]:
        return rsync.send_listed(self.tool, self.view, self.place, self.transfers.listed(path.encode() for path in paths), **how)

    def _named(self, tops: Sequence[str], above: str) -> rsync.Listed:
        """Directories, and what gocryptfs keeps for them beside them, by their paths from the directory `above`."""
        listed = [one.encode() for top in tops for one in (top, *gocryptfs.own_companions(top))]
        named = [path.removeprefix(f"{above}/".encode() if above else b"") for path in listed]
        return named if rsync.are_few(listed) else self.transfers.list_file(named)

    async def _transfer(self, command: list[str], on_item: Callable[[Line], None] | None = None, above: str = "") -> None:
        to = self.place.capabilities
        await patiently(lambda: self.transfers.counted(command, self.gauge, capabilities=to, above=above, on_item=on_item))

    def _advance(self, items: Sequence[Item]) -> None:
        self.gauge.advance(sum(item.row.size for item in items if item.row.path not in self.patched), len(items))

    def _postpone(self, failure: TransferFailed, batch: Mapping[str, Item]) -> None:
        """Go on if all that rsync complained of were directories in the way, else raise `failure`."""
        obstacles, nothing_else = rsync_output.obstacles(failure.complaints)
        if not obstacles or not nothing_else:
            raise failure
        found = [item for path in obstacles if (item := batch.get(rsync.in_mirror(path).decode()))]
        # Of a hard-link group whose first name is in trouble rsync makes none.
        groups = {item.row.inode for item in found if item.row.link}
        self.postponed += [item for item in batch.values() if item in found or (item.row.link and item.row.inode in groups)]


def travels(item: Item) -> bool:
    """Whether an item of a plan is to be sent."""
    return bool(item.change & SENT) and not item.change & KEPT_BACK and not item.row.carried


def sealed_from(path: bytes) -> bytes:
    """Given a path of the snapshot, return it relative to `plain/`."""
    return f"{names.BACKUP_DIR}/".encode() + path if path else names.BACKUP_DIR.encode()


def batches(groups: Iterable[Sequence[Item]], limit: int = BATCH, weight: int = _HEAVY) -> Iterator[list[Item]]:
    """Join groups to batches: of so many entries and bytes at most, and such that their names have room in a command line."""
    batch: list[Item] = []
    room = left = 0
    for group in groups:
        cost, size = sum(map(_cost, group)), sum(item.row.size for item in group)
        if batch and (len(batch) + len(group) > limit or cost > room or size > left):
            yield batch
            batch = []
        room = (room if batch else rsync.ARGUMENTS_MAX) - cost
        left = (left if batch else weight) - size
        batch.extend(group)
    if batch:
        yield batch


def _cost(item: Item) -> int:
    """What an item takes of a command line at most: its own path, and those of what gocryptfs keeps for it alone."""
    lines = 1 + (item.row.kind == "d") + (len(item.row.path.rpartition(b"/")[2]) >= gocryptfs.LONG_NAME)
    return lines * rsync.argument(sealed_length(item.row.path) + len(names.DIRIV_FILE))


def _how_to_hash(items: Sequence[Item]) -> tuple[list[Item], dict[bytes, list[Item]]]:
    """What must be hashed of items: by their names where their directory holds more than may lie in memory, else with their directory."""
    found: dict[bytes, list[Item]] = {}
    for item in items:
        if is_new_content(item):
            found.setdefault(parent(item.row.path), []).append(item)
    large = [path for path, within in found.items() if sum(item.row.size for item in within) > _AT_ONCE]
    return [item for path in large for item in found.pop(path)], found
