# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing restored entries: each exactly as its row of the manifest says, or noted as different.

Everything happens below an open directory, by way of open parents and single names: a symbolic link that somebody lays into the destination
leads nowhere. What a row says is checked against what the file system made of it.
"""

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from offsited.core.manifest import Row
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker import entry, mounts

_PIECE: Final = 1 << 20
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_UNUSABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_TYPES: Final = {"p": stat.S_IFIFO, "s": stat.S_IFSOCK, "c": stat.S_IFCHR, "b": stat.S_IFBLK}


@dataclass(frozen=True)
class Difference:
    """An entry that is not as the manifest says, and in what."""

    path: bytes
    what: str


class Writer:
    """Writes below one destination. `differs` is told what does not come out as it should; it may be called from several threads."""

    def __init__(self, top: int, source: int, differs: Callable[[Difference], None], stop: threading.Event) -> None:
        """`top`: the destination. `source`: the snapshot's top as the target holds it, in clear."""
        self._top = top
        self.source = source
        self._differs = differs
        self._stop = stop

    def close(self) -> None:
        """Let go of the source; another one may be given."""
        if self.source >= 0:
            os.close(self.source)
        self.source = -1

    def open_directory(self, path: bytes) -> int:
        """Open a directory that was made. Raise OSError."""
        return mounts.open_deep(self._top, os.fsdecode(path) or ".", _DIRECTORY)

    def unfinish_directory(self, row: Row) -> None:
        """Take from a directory that an interrupted restore has finished what hinders to write into it. Raise OSError."""
        if row.flags:
            descriptor = self.open_directory(row.path)
            try:
                entry.clear_flags(descriptor)
            finally:
                os.close(descriptor)

    def make_directory(self, parent: int, row: Row) -> bool:
        """Make a directory, closed to others until it is finished; whether it was not there. Raise OSError."""
        try:
            os.mkdir(_name(row), 0o700, dir_fd=parent)
        except FileExistsError:
            return False
        return True

    def finish_directory(self, row: Row) -> None:
        """Give a directory its attributes, when nothing more will be written into it."""
        try:
            descriptor = self.open_directory(row.path)
        except OSError as error:
            self._note(row, f"cannot be opened: {error.strerror}")
            return
        try:
            self._dress(descriptor, row)
        finally:
            os.close(descriptor)

    def write(self, parent: int, row: Row) -> None:
        """Write what is no directory, unless it is there already, whole."""
        name = _name(row)
        try:
            if self._is_written(parent, name, row):
                return
            if row.kind == "f":
                self._write_file(parent, name, row)
            else:
                self._make_other(parent, name, row)
        except OSError as error:
            self._cannot(row, "written", error)

    def link(self, first: bytes, parent: int, row: Row) -> None:
        """Make another name of an entry that was written. If that one was not, this one is written alone."""
        name = _name(row)
        above = None
        try:
            above = self.open_directory(first.rpartition(b"/")[0])
            there = os.lstat(first.rpartition(b"/")[2], dir_fd=above)
            if self._exists(parent, name):
                if os.path.samestat(os.lstat(name, dir_fd=parent), there):
                    return
                self._remove(parent, name)
            os.link(first.rpartition(b"/")[2], name, src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            self._note(row, "the first name of its hard-link group could not be restored")
            self.write(parent, row)
        except OSError as error:
            self._cannot(row, "linked", error)
        finally:
            if above is not None:
                os.close(above)

    def finish_linked(self, row: Row) -> None:
        """Give an entry of several names its flags, when it has all of them: an immutable one takes no further name."""
        try:
            above = self.open_directory(row.path.rpartition(b"/")[0])
            try:
                self._flag_again(above, _name(row), row)
            finally:
                os.close(above)
        except OSError as error:
            self._note(row, f"chattr flags {row.flags}: {error.strerror}")

    # --- what is there already -------------------------------------------------------------------------------------

    def _is_written(self, parent: int, name: bytes, row: Row) -> bool:
        """Whether an interrupted restore has written this entry to its end: the time is set last. What is there else is removed."""
        try:
            status = os.lstat(name, dir_fd=parent)
        except FileNotFoundError:
            return False
        same = entry.kind(status.st_mode) == row.kind and status.st_mtime_ns == row.mtime and status.st_uid == row.uid
        if same and (row.kind != "f" or status.st_size == row.size):
            if row.flags and not row.link:
                self._flag_again(parent, name, row)
            return True
        self._remove(parent, name)
        return False

    def _flag_again(self, parent: int, name: bytes, row: Row) -> None:
        """Flags come after the time."""
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._set_flags(descriptor, row)
        finally:
            os.close(descriptor)

    @staticmethod
    def _exists(parent: int, name: bytes) -> bool:
        try:
            os.lstat(name, dir_fd=parent)
        except FileNotFoundError:
            return False
        return True

    @staticmethod
    def _remove(parent: int, name: bytes) -> None:
        """Remove what an interrupted restore left, immutable or not."""
        try:
            os.unlink(name, dir_fd=parent)
        except PermissionError:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
            try:
                entry.clear_flags(descriptor)
            finally:
                os.close(descriptor)
            os.unlink(name, dir_fd=parent)

    # --- files -----------------------------------------------------------------------------------------------------

    def _write_file(self, parent: int, name: bytes, row: Row) -> None:
        if not row.size:
            self._write_empty(parent, name, row)
            return
        try:
            source = mounts.open_deep(self.source, os.fsdecode(row.path), os.O_RDONLY)
        except OSError as error:
            self._note(row, f"the target does not have it: {error.strerror}")
            return
        try:
            target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
            try:
                self._copy(source, target, row)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _write_empty(self, parent: int, name: bytes, row: Row) -> None:
        """An empty file needs nothing of the target."""
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            self._dress(target, row)
        finally:
            os.close(target)

    def _copy(self, source: int, target: int, row: Row) -> None:
        """Copy content, hashing it; leave the row's holes out."""
        digest = hashlib.sha256()
        position = 0
        holes = list(reversed(row.holes))
        while (piece := self._read(source, position, row)) and not self._stop.is_set():
            digest.update(piece)
            _write_around(target, piece, position, holes)
            position += len(piece)
        os.ftruncate(target, position)
        if self._stop.is_set():
            return
        if row.sha256 and digest.digest() != row.sha256:
            self._note(row, "its content is not the one that was committed")
            row = row._replace(size=position, mtime=os.fstat(source).st_mtime_ns)
        self._dress(target, row)

    def _read(self, source: int, position: int, row: Row) -> bytes:
        """The next piece, b"" at the end or where the target does not give more."""
        try:
            return os.pread(source, _PIECE, position)
        except OSError as error:
            what = "is damaged at the target" if error.errno == errno.EIO else "cannot be read at the target"
            self._note(row, f"{what}, from byte {position} on: {error.strerror}")
            return b""

    # --- others ----------------------------------------------------------------------------------------------------

    def _make_other(self, parent: int, name: bytes, row: Row) -> None:
        if row.kind == "l":
            os.symlink(row.target, name, dir_fd=parent)
        else:
            os.mknod(name, _TYPES[row.kind] | 0o600, os.makedev(*row.rdev), dir_fd=parent)
        os.chown(name, row.uid, row.gid, dir_fd=parent, follow_symlinks=False)
        if row.kind != "l":
            os.chmod(name, row.mode, dir_fd=parent)
        self._set_xattrs(f"/proc/self/fd/{parent}/".encode() + name, row)
        os.utime(name, ns=(row.mtime, row.mtime), dir_fd=parent, follow_symlinks=False)
        self._check(os.lstat(name, dir_fd=parent), row)

    # --- attributes ------------------------------------------------------------------------------------------------

    def _dress(self, descriptor: int, row: Row) -> None:
        """Give an open file or directory its attributes, in the order in which none takes away another: the time is next to last."""
        try:
            os.fchown(descriptor, row.uid, row.gid)
            os.fchmod(descriptor, row.mode)
            self._set_xattrs(descriptor, row)
            os.utime(descriptor, ns=(row.mtime, row.mtime))
            self._check(os.fstat(descriptor), row)
            if not row.link:
                self._set_flags(descriptor, row)
        except (OSError, OverflowError) as error:
            self._note(row, f"attributes: {error}")

    def _set_xattrs(self, where: int | bytes, row: Row) -> None:
        for name, value in row.xattrs:
            try:
                os.setxattr(where, name, value, follow_symlinks=isinstance(where, int))
            except OSError as error:
                self._note(row, f"extended attribute {name}: {error.strerror}")

    def _set_flags(self, descriptor: int, row: Row) -> None:
        if not row.flags:
            return
        try:
            entry.add_flags(descriptor, row.flags)
        except OSError as error:
            self._note(row, f"chattr flags {row.flags}: {error.strerror}")

    def _check(self, status: os.stat_result, row: Row) -> None:
        """What the file system made of it."""
        wanted = {"owner": (row.uid, row.gid), "time": row.mtime, "mode": row.mode, "size": row.size}
        found = {
            "owner": (status.st_uid, status.st_gid),
            "time": status.st_mtime_ns,
            "mode": stat.S_IMODE(status.st_mode) if row.kind != "l" else row.mode,
            "size": status.st_size if row.kind == "f" else row.size,
        }
        for what, value in wanted.items():
            if found[what] != value:
                self._note(row, f"{what} is {found[what]}, not {value}")

    def _cannot(self, row: Row, done: str, error: OSError) -> None:
        """Raise JobFailed if the destination is to blame, and not this entry."""
        if error.errno in _UNUSABLE:
            raise JobFailed(Reason.DESTINATION_UNUSABLE, str(error.strerror)) from error
        self._note(row, f"cannot be {done}: {error.strerror}")

    def _note(self, row: Row, what: str) -> None:
        self._differs(Difference(row.path, what))


def _name(row: Row) -> bytes:
    return row.path.rpartition(b"/")[2]


def _write_around(target: int, piece: bytes, position: int, holes: list[tuple[int, int]]) -> None:
    """Write a piece, but for the holes in it; they come in reverse order, and those that are past are taken off."""
    start = position
    end = position + len(piece)
    while start < end:
        while holes and sum(holes[-1]) <= start:
            holes.pop()
        hole_start, hole_length = holes[-1] if holes else (end, 0)
        if hole_start <= start:
            start = min(hole_start + hole_length, end)
            continue
        stop = min(hole_start, end)
        written = os.pwrite(target, memoryview(piece)[start - position : stop - position], start)
        start += written
