# SPDX-License-Identifier: GPL-3.0-or-later
"""A large file that changed in part, on a disk that can share blocks: a clone of its old ciphertext, with what changed written into it.

rsync would write all of it again, and gocryptfs would encrypt all of it. What changed is told by the snapshot that was synced last, if it
is still there: a file with the size and time that the ledger knows is a candidate, and its hash must be the ledger's before anything
counts. The clone takes the place of the old ciphertext at the end, with its size and time, so that rsync has nothing left to send.
Whatever is not as it should be is left to rsync.
"""

import contextlib
import fcntl
import hashlib
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from offsited.core import gocryptfs
from offsited.core.manifest import Row
from offsited.worker import mounts

LARGE: Final = 64 << 20
"""Bytes of a file from which on this is worth its while."""
_PIECE: Final = 1024 * gocryptfs.BLOCK
_SAMPLES: Final = 16
"""Blocks that did not change, of which the ciphertext is compared all the same."""
_FICLONE: Final = 0x40049409
"""ioctl_ficlone(2)."""
_READING: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Patched(NamedTuple):
    """What was done to a file."""

    sha256: bytes
    """Of its content now."""
    written: int
    """Bytes of its content that were written."""


class _LeftToRsync(Exception):
    """Something is not as it should be."""


@dataclass(frozen=True)
class Patching:
    """Patches files of one mirror."""

    snapshot: int
    """Descriptor of the snapshot's top."""
    earlier: Sequence[Path]
    """Where snapshots lie that may have the old content."""
    view: Path
    mirror: int
    """Descriptor of the mirror's top."""
    partial: Path
    stop: threading.Event

    def patch(self, old: Row, new: Row, sealed: str, told: Callable[[int], object]) -> Patched | None:
        """Given a regular file's rows in the ledger and in the plan, and its encrypted path, bring the mirror's file to the new content.

        Return None if it is left to rsync: then the mirror is as it was. `told` hears how many bytes were looked at.
        """
        with contextlib.ExitStack() as closing, contextlib.suppress(OSError, _LeftToRsync):
            now, then = closing.enter_context(self._now(new)), closing.enter_context(self._then(old))
            view = closing.enter_context(_open(os.open(self.view / sealed, _READING)))
            clone = closing.enter_context(self._cloned(old, sealed))
            _require(os.pread(view, gocryptfs.HEADER, 0) == os.pread(clone, gocryptfs.HEADER, 0))
            found = self._compare(_Sides(now, then, view, clone), old, new, told)
            _require(_facts(os.fstat(now)) == (new.size, new.mtime))
            os.ftruncate(clone, gocryptfs.sealed_size(new.size))
            self._put(clone, new, sealed)
            return found
        return None

    @contextlib.contextmanager
    def _now(self, row: Row) -> Iterator[int]:
        with _open(mounts.open_deep(self.snapshot, os.fsdecode(row.path), _READING)) as file:
            status = os.fstat(file)
            _require(stat.S_ISREG(status.st_mode) and status.st_ino == row.inode and _facts(status) == (row.size, row.mtime))
            yield file

    @contextlib.contextmanager
    def _then(self, row: Row) -> Iterator[int]:
        """The old content, where it seems to be."""
        for top in self.earlier:
            with contextlib.suppress(OSError), contextlib.ExitStack() as closing:
                directory = closing.enter_context(_open(os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)))
                file = mounts.open_deep(directory, os.fsdecode(row.path), _READING)
                status = os.fstat(file)
                if stat.S_ISREG(status.st_mode) and _facts(status) == (row.size, row.mtime):
                    break
                os.close(file)
        else:
            raise _LeftToRsync
        with _open(file):
            yield file

    @contextlib.contextmanager
    def _cloned(self, old: Row, sealed: str) -> Iterator[int]:
        """A clone of the mirror's file in `partial/`; what is left of it there in the end is removed."""
        with _open(mounts.open_deep(self.mirror, sealed, _READING)) as file:
            status = os.fstat(file)
            _require(stat.S_ISREG(status.st_mode) and status.st_nlink == 1)
            _require(_facts(status) == (gocryptfs.sealed_size(old.size), old.mtime))
            name = self._name(sealed)
            name.unlink(missing_ok=True)  # of a job that was killed
            with _open(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)) as clone:
                try:
                    fcntl.ioctl(clone, _FICLONE, file)
                    yield clone
                finally:
                    name.unlink(missing_ok=True)

    def _name(self, sealed: str) -> Path:
        return self.partial / f".{hashlib.sha256(sealed.encode()).hexdigest()}.clone"

    def _compare(self, sides: "_Sides", old: Row, new: Row, told: Callable[[int], object]) -> Patched:
        """Read old and new content, and write the ciphertext of what differs. Raise _LeftToRsync if the old is not what the ledger says."""
        was, now, written = hashlib.sha256(), hashlib.sha256(), 0
        blocks = range(0, new.size, gocryptfs.BLOCK)
        samples = set(random.sample(blocks, min(_SAMPLES, len(blocks))))
        with ThreadPoolExecutor(1) as beside:
            for start in range(0, max(old.size, new.size), _PIECE):
                _require(not self.stop.is_set())
                before, after = _read(sides.then, start, old.size), _read(sides.now, start, new.size)
                hashing = beside.submit(was.update, before)
                now.update(after)
                same = samples.intersection(range(start, start + len(after), gocryptfs.BLOCK))
                for offset, length in _differing(before, after):
                    sides.write(start + offset, length)
                    written += length
                    same.difference_update(range(start + offset, start + offset + length, gocryptfs.BLOCK))
                for offset in same:
                    _require(sides.are_equal(offset))
                hashing.result()
                told(start + len(after))
        _require(was.digest() == old.sha256)
        return Patched(now.digest(), written)

    def _put(self, clone: int, new: Row, sealed: str) -> None:
        """Give the clone what the view shows of the file beside its content, and the file's place."""
        os.fchown(clone, new.uid, new.gid)
        os.fchmod(clone, new.mode)
        os.utime(clone, ns=(new.mtime, new.mtime))
        above, _, name = sealed.rpartition("/")
        with _open(mounts.open_deep(self.mirror, above, os.O_PATH | os.O_DIRECTORY)) as directory:
            os.rename(self._name(sealed), name, dst_dir_fd=directory)


class _Sides(NamedTuple):
    """Open files."""

    now: int
    then: int
    view: int
    clone: int

    def write(self, offset: int, length: int) -> None:
        """Write the ciphertext of so much content, from the beginning of a block on, into the clone."""
        sealed = gocryptfs.sealed_size(length) - gocryptfs.HEADER
        content = os.pread(self.view, sealed, _sealed(offset))
        _require(len(content) == sealed)
        _require(os.pwrite(self.clone, content, _sealed(offset)) == sealed)

    def are_equal(self, offset: int) -> bool:
        """Whether view and clone have the same ciphertext of a block."""
        of_view, of_clone = (os.pread(file, gocryptfs.BLOCK + gocryptfs.OVERHEAD, _sealed(offset)) for file in (self.view, self.clone))
        return of_view == of_clone


def _require(right: bool) -> None:  # noqa: FBT001 - reads as a sentence
    if not right:
        raise _LeftToRsync


@contextlib.contextmanager
def _open(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _facts(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _read(file: int, start: int, size: int) -> bytes:
    """A piece of a file of this size."""
    length = max(0, min(_PIECE, size - start))
    content = os.pread(file, length, start) if length else b""
    _require(len(content) == length)
    return content


def _differing(before: bytes, after: bytes) -> Iterator[tuple[int, int]]:
    """Offset and length of what differs in `after`, in whole blocks but for its end."""
    begin = -1
    if before != after:
        for offset in range(0, len(after), gocryptfs.BLOCK):
            differs = before[offset : offset + gocryptfs.BLOCK] != after[offset : offset + gocryptfs.BLOCK]
            if differs and begin < 0:
                begin = offset
            elif not differs and begin >= 0:
                yield begin, offset - begin
                begin = -1
    if begin >= 0:
        yield begin, len(after) - begin


def _sealed(offset: int) -> int:
    """Where the ciphertext of a block begins."""
    return gocryptfs.HEADER + offset // gocryptfs.BLOCK * (gocryptfs.BLOCK + gocryptfs.OVERHEAD)
