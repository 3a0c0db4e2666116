# SPDX-License-Identifier: GPL-3.0-or-later
"""A census of a snapshot: how much there is, and which directories, so that a change of it while it is sent does not go unseen."""

import asyncio
import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from offsited.core import gocryptfs
from offsited.core.outcome import Reason
from offsited.errors import JobFailed

_Result = TypeVar("_Result")
Told = Callable[[int, int], None]
"""Called now and then with the entries and bytes met so far."""


@dataclass(frozen=True)
class Census:
    """What a walk met below a directory, the directory itself not counted among the entries."""

    entries: int
    size: int
    """Bytes in regular files; a file of several names counts once."""
    shown: int
    """Entries that the encrypted view has for these: a directory has its IV beside it, a long name its companion."""
    directories: Mapping[bytes, tuple[int, int, int]]
    """Device, inode and mtime in ns of every directory, by its path."""
    device: int
    inode: int


async def take(top: str, told: Told) -> Census:
    """Walk a directory natively, by lstat alone, in a thread that ends when the caller is cancelled.

    Raise JobFailed for what cannot be read.
    """
    return await _in_thread(lambda stop: _walk(os.fsencode(top), told, stop))


async def _in_thread(work: Callable[[threading.Event], _Result]) -> _Result:
    stop = threading.Event()
    try:
        return await asyncio.to_thread(work, stop)
    finally:
        stop.set()


def _walk(top: bytes, told: Told, stop: threading.Event) -> Census:
    walk = _Walk()
    left = [top]
    try:
        status = os.lstat(top)
        walk.enter(top, status)
        while left and not stop.is_set():
            left += walk.read(left.pop())
            told(walk.entries, walk.size)
    except OSError as error:
        raise JobFailed(Reason.SNAPSHOT_UNREADABLE, str(error)) from error
    return Census(walk.entries, walk.size, walk.shown, walk.directories, status.st_dev, status.st_ino)


class _Walk:
    """The sums of a walk under way."""

    def __init__(self) -> None:
        self.entries = self.size = self.shown = 0
        self.directories: dict[bytes, tuple[int, int, int]] = {}
        self._linked: set[tuple[int, int]] = set()

    def enter(self, path: bytes, status: os.stat_result) -> None:
        self.directories[path] = (status.st_dev, status.st_ino, status.st_mtime_ns)
        self.shown += 2

    def read(self, directory: bytes) -> list[bytes]:
        """Count the entries of a directory; return those that are directories."""
        below = []
        with os.scandir(directory) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                self.entries += 1
                self.shown += len(entry.name) >= gocryptfs.LONG_NAME
                if stat.S_ISDIR(status.st_mode):
                    self.enter(entry.path, status)
                    below.append(entry.path)
                else:
                    self._count(status)
        return below

    def _count(self, status: os.stat_result) -> None:
        self.shown += 1
        if stat.S_ISREG(status.st_mode) and not self._seen(status):
            self.size += status.st_size

    def _seen(self, status: os.stat_result) -> bool:
        if status.st_nlink == 1:
            return False
        key = (status.st_dev, status.st_ino)
        if key in self._linked:
            return True
        self._linked.add(key)
        return False
