# SPDX-License-Identifier: GPL-3.0-or-later
"""Meeting everything that lies in a target's mirror, encrypted: natively on a disk, by one rsync at a host."""

import asyncio
import itertools
import os
import threading
from collections.abc import Callable
from typing import Final

from offsited.core import gocryptfs, rsync
from offsited.core.config import DiskTarget
from offsited.core.rsync_output import Topmost, parse_detailed
from offsited.core.verification import Difference, What
from offsited.names import TARGET_KEY_FILE
from offsited.worker.findings import Findings
from offsited.worker.inventory import Inventory, Met
from offsited.worker.job import Job
from offsited.worker.target import Target
from offsited.worker.tasks import to_its_end
from offsited.worker.transfer import Transfers, patiently

_KEY_FILE: Final = TARGET_KEY_FILE.encode()
_COMPANION_MAX: Final = 4096


class Listed:
    """One pass over a mirror. `extra` are the encrypted paths that should not be there, the topmost alone."""

    def __init__(self, inventory: Inventory, findings: Findings, told: Callable[[int], None]) -> None:
        """Differences become `findings`; `told` is given how many entries were met."""
        self._inventory = inventory
        self._findings = findings
        self._before = findings.mark()
        self._told = told
        self._extra = Topmost()
        self._mistaken: set[bytes] = set()
        self._met = 0

    @property
    def extra(self) -> list[str]:
        return sorted(path.decode("utf-8", "surrogateescape") for path in self._extra.paths - self._mistaken)

    async def of(self, job: Job, reached: Target, transfers: Transfers) -> None:
        """Meet everything. Raise JobFailed."""
        if isinstance(job.target, DiskTarget):
            stop = threading.Event()
            await to_its_end(lambda: self._walk(os.fsencode(reached.place.current.rstrip("/")), stop), stop)
            return
        nothing = job.runtime / "nothing-there"
        await asyncio.to_thread(nothing.mkdir, mode=0o700, exist_ok=True)
        command = rsync.list_details(job.tools.rsync, reached.place, nothing)

        async def listing() -> None:
            self._begin()
            await transfers.run(command, on_line=self._hear)

        await patiently(listing)

    def _begin(self) -> None:
        """A listing begins, maybe after one that broke off: that one's entries are met again."""
        self._findings.back_to(self._before)
        self._inventory.begin()
        self._extra, self._mistaken, self._met = Topmost(), set(), 0

    def _hear(self, line: bytes) -> None:
        found = parse_detailed(line)
        if found and found.path != b".":
            nanoseconds = found.mtime * 10**9
            self._meet(found.path, Met(found.kind, found.mode, found.uid, found.gid, found.length, nanoseconds))

    def _walk(self, top: bytes, stop: threading.Event) -> None:
        """Depth first, without a recursion of Python's: a tree may be as deep as a path is long."""
        waiting = [b""]
        while waiting and not stop.is_set():
            directory = waiting.pop()
            try:
                entries = os.scandir(os.path.join(top, directory) if directory else top)
            except OSError as error:
                self._findings.note([Difference(directory, What.NAMES, f"the directory cannot be listed: {error.strerror}", own=True)])
                continue
            with entries:
                for entry in itertools.takewhile(lambda _: not stop.is_set(), entries):
                    path = directory + b"/" + entry.name if directory else entry.name
                    if self._look(entry, path):
                        waiting.append(path)

    def _look(self, entry: "os.DirEntry[bytes]", path: bytes) -> bool:
        """Meet an entry of a disk; whether it is a directory to be looked into."""
        try:
            met = Met.of(entry.stat(follow_symlinks=False))
        except OSError as error:
            self._findings.note([Difference(path, What.NAMES, f"cannot be looked at: {error.strerror}", own=True)])
            return False
        expected = self._meet(path, met)
        if expected and met.kind == "f" and gocryptfs.is_companion(path) and path != _KEY_FILE and not _is_right(entry, path):
            self._findings.note(self._inventory.wrong_companion(path))
        return expected and met.kind == "d"

    def _meet(self, path: bytes, met: Met) -> bool:
        differences = self._inventory.meet(path, met)
        self._met += 1
        if self._met % 100 == 0:
            self._told(self._inventory.entries)
        if differences is None:
            self._extra.add(path)
            return False
        self._findings.note(differences)
        if any(one.what is What.TYPE for one in differences):  # what is below it goes with it
            self._mistaken.add(path)
            self._extra.add(path)
            return False
        return True


def _is_right(entry: "os.DirEntry[bytes]", path: bytes) -> bool:
    try:
        with open(entry.path, "rb") as file:
            return gocryptfs.is_companion_right(os.fsdecode(path), file.read(_COMPANION_MAX))
    except OSError:
        return False
