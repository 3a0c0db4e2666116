# SPDX-License-Identifier: GPL-3.0-or-later
"""The way from the view of one job to its target: what every step of a mirroring asks and sends by."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import gocryptfs, rsync
from offsited.worker.confirmed import COMMIT_FILE, INTENT_FILE
from offsited.worker.sealed_paths import SealedPaths
from offsited.worker.target import Target
from offsited.worker.transfer import Transfers, patiently

CANARY: Final = "canary"
"""A file beside the snapshot, new with each job: a view that shows it is of this very `plain/`."""
CANARY_BYTES: Final = 32


def put_canary(tree: Path) -> None:
    """Write a new one into the directory that the view shows beside the snapshot."""
    (tree / CANARY).write_bytes(os.urandom(CANARY_BYTES))


@dataclass(frozen=True)
class Way:
    """A view that is there, where it goes, and the encrypted paths that every job needs."""

    point: Path
    """Where the view is mounted."""
    sealed: SealedPaths
    transfers: Transfers
    target: Target
    backup: str
    offsited: str
    canary: str
    commit: str
    intent: str

    @classmethod
    async def opened(cls, point: Path, sealed: SealedPaths, transfers: Transfers, target: Target) -> "Way":
        """Raise JobFailed if gocryptfs does not tell those paths."""
        own = (f"{names.OFFSITED_DIR}/{name}" for name in (CANARY, COMMIT_FILE, INTENT_FILE))
        found = await sealed.of([path.encode() for path in (names.BACKUP_DIR, names.OFFSITED_DIR, *own)])
        return cls(point, sealed, transfers, target, *found)

    @property
    def place(self) -> rsync.Place:
        return self.target.place

    @property
    def tool(self) -> str:
        """rsync."""
        return self.transfers.tools.rsync

    async def own(self, files: Iterable[str]) -> list[str]:
        """The encrypted paths of files of ours that lie beside the snapshot."""
        return await self.sealed.of([f"{names.OFFSITED_DIR}/{name}".encode() for name in files])

    async def put(self, paths: Sequence[str], *, again: bool = False) -> None:
        """Send files of ours, of those that lie beside the snapshot, by their encrypted paths."""
        await self.send([f"{self.offsited}/{names.DIRIV_FILE}", *paths], again=again)

    async def send(self, paths: Iterable[str], **how: bool) -> None:
        """Send encrypted paths of the view, as `rsync.send_listed` does. Raise TransferFailed."""
        await self.run(rsync.send_listed(self.tool, self.point, self.place, self.listed(paths), **how))

    async def run(self, command: list[str]) -> None:
        """Run an rsync that writes to the target, of which nothing counts but the bytes on the wire. Raise TransferFailed."""
        await patiently(lambda: self.transfers.run(command, capabilities=self.place.capabilities, on_line=self.transfers.wire))

    def listed(self, paths: Iterable[str]) -> rsync.Listed:
        """Encrypted paths, as rsync takes them."""
        return self.transfers.listed(map(os.fsencode, paths))


def with_companions(paths: Iterable[str]) -> Iterator[str]:
    """Encrypted paths, each with what gocryptfs keeps for it alone."""
    for path in paths:
        yield path
        yield from gocryptfs.own_companions(path)
