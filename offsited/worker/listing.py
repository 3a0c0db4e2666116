# SPDX-License-Identifier: GPL-3.0-or-later
"""How a directory of a snapshot is read: every entry's stat values and extended attributes, compared by directory with a known signature.

A directory's signature is a hash over names, stat values and extended attributes of its entries, in name order. Only a directory whose
signature is not the known one is listed in full. ctime never counts, since linking a snapshot moves it; a directory's inode and size do
not either, since a snapshot by hard links makes its directories anew.

Directories are entered with chdir(2), which keeps every look-up short, however deep they lie: this runs in a process of its own.
"""

import errno
import marshal
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Protocol

from offsited.core.manifest import TOP, Row, Xattrs, below
from offsited.core.plan import is_carried
from offsited.worker import entry

SIGNATURE_SIZE: Final = 16
BATCH: Final = 4000
"""Entries after which a process hands back what it found, and the directories that it has not entered."""
_CHUNK: Final = 3000
"""Bytes of a path that are entered at once; the kernel takes 4,095."""
_DIRECTORY, _REGULAR, _TYPE = 0o040000, 0o100000, 0o170000
_DEVICES: Final = (0o020000, 0o060000)

Place = tuple[bytes, int]
"""A directory's path, and the inode that it must turn out to have."""


class Excludes(Protocol):
    """Whether a path is excluded. What is below an excluded directory is never asked for."""

    def __call__(self, path: bytes, *, is_directory: bool) -> bool: ...


class Listing(NamedTuple):
    """A directory that is not as it was known."""

    directory: bytes
    inode: int
    mtime: int
    signature: bytes
    """b"" if something in it could not be read."""
    rows: list[Row]


class Unread(NamedTuple):
    """An entry, or a directory with all that is in it, that could not be read."""

    path: bytes
    error: int
    """The errno; EXDEV for what is on another file system."""


@dataclass
class Batch:
    """A piece of the walk's result."""

    entries: int = 0
    size: int = 0
    """Bytes of regular files, each name counted."""
    listings: list[Listing] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    excluded: list[bytes] = field(default_factory=list)


class Reader:
    """Reads directories, in whichever process; it changes the current directory."""

    def __init__(self, top: int, known: Mapping[bytes, bytes], excluded: Excludes | None) -> None:
        self._top = top
        self._known = known
        self._excluded = excluded
        self._device = os.fstat(top).st_dev
        self._listxattr = _listxattr(top)

    def top_listing(self) -> Listing:
        os.fchdir(self._top)
        status = os.stat(b".")
        xattrs = _values(b".", self._listxattr(b".", follow_symlinks=False))
        return Listing(TOP, status.st_ino, status.st_mtime_ns, b"", [_row(TOP, status, xattrs, entry.detail(b".", status))])

    def read(self, places: list[Place]) -> tuple[Batch, list[Place]]:
        """Read directories, the last first, until a batch is full; return it with the places that are left."""
        batch = Batch()
        while places and batch.entries < BATCH:
            path, inode = places.pop()
            try:
                self._enter(path, inode)
                self._list(path, batch, places)
            except OSError as error:
                batch.unread.append(Unread(path, error.errno or errno.EIO))
        return batch, places

    def _enter(self, path: bytes, inode: int) -> None:
        """Raise OSError unless it is the directory that its parent showed: a symbolic link may have taken the place of a part of it."""
        os.fchdir(self._top)
        while len(path) > _CHUNK:
            cut = path.rindex(b"/", 0, _CHUNK)
            os.chdir(path[:cut])
            path = path[cut + 1 :]
        if path:
            os.chdir(path)
        status = os.stat(b".")
        if (status.st_ino, status.st_dev) != (inode, self._device):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _list(self, path: bytes, batch: Batch, places: list[Place]) -> None:
        """Read the current directory.

        This is the one loop that runs for every entry of every walk: it does two system calls and makes one tuple for each, keeps what it
        calls in local names, and leaves everything else to directories that changed.
        """
        listxattr, excluded, device = self._listxattr, self._excluded, self._device
        values: list[tuple[Any, ...]] = []
        statuses: list[os.stat_result] = []
        unread = len(batch.unread)
        size = 0
        prefix = path + b"/" if path else b""
        with os.scandir(b".") as entries:
            for found in entries:
                name = found.name
                try:
                    status = found.stat(follow_symlinks=False)
                    names = listxattr(name, follow_symlinks=False)
                    xattrs = _values(name, names) if names else ()
                except OSError as error:
                    if excluded is None or not (excluded(prefix + name, is_directory=False) or excluded(prefix + name, is_directory=True)):
                        batch.unread.append(Unread(prefix + name, error.errno or errno.EIO))
                    continue
                mode, inode, at, _, uid, gid, length = status[:7]
                is_directory = mode & _TYPE == _DIRECTORY
                if excluded is not None and excluded(prefix + name, is_directory=is_directory):
                    batch.excluded.append(prefix + name)
                    continue
                if is_directory and at != device:  # of files overlayfs tells the device below it
                    batch.unread.append(Unread(prefix + name, errno.EXDEV))
                    continue
                if is_directory:
                    places.append((prefix + name, inode))
                    values.append((name, mode, 0, uid, gid, 0, status.st_mtime_ns, 0, xattrs))
                else:
                    rdev = status.st_rdev if mode & _TYPE in _DEVICES else 0
                    values.append((name, mode, inode, uid, gid, length, status.st_mtime_ns, rdev, xattrs))
                    if mode & _TYPE == _REGULAR:
                        size += length
                statuses.append(status)
        batch.entries += len(values)
        batch.size += size
        signature = _signature(values)
        if len(batch.unread) > unread or self._known.get(path) != signature:
            batch.listings.append(self._changed(path, signature, values, statuses, batch))

    def _changed(
        self, path: bytes, signature: bytes, values: list[tuple[Any, ...]], statuses: list[os.stat_result], batch: Batch
    ) -> Listing:
        """Read the rest of a directory's entries. No signature if something in it could not be read: it is listed again next time."""
        rows = []
        complete = not any(unread.path.rpartition(b"/")[0] == path for unread in batch.unread)
        for value, status in sorted(zip(values, statuses, strict=True)):
            name = value[0]
            try:
                rows.append(_row(below(path, name), status, value[-1], entry.detail(name, status)))
            except OSError as error:
                batch.unread.append(Unread(below(path, name), error.errno or errno.EIO))
                complete = False
        status = os.stat(b".")
        return Listing(path, status.st_ino, status.st_mtime_ns, signature if complete else b"", rows)


def _signature(values: list[tuple[Any, ...]]) -> bytes:
    """Form 2 of marshal has no references and is fixed since Python 2.5; were it to change, everything would be compared once."""
    return blake2b(marshal.dumps(sorted(values), 2), digest_size=SIGNATURE_SIZE).digest()


def _row(path: bytes, status: os.stat_result, xattrs: Xattrs, detail: entry.Detail) -> Row:
    kind = entry.kind(status.st_mode)
    target, flags, holes = detail
    row = Row(
        path,
        kind,
        status.st_mode & 0o7777,
        status.st_uid,
        status.st_gid,
        status.st_size if kind == "f" else 0,
        status.st_mtime_ns,
        rdev=(os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in "cb" else (0, 0),
        target=target,
        xattrs=xattrs,
        flags=flags,
        holes=holes,
        inode=status.st_ino,
    )
    return row._replace(carried=True) if is_carried(row) else row


def _values(name: bytes, names: list[str]) -> Xattrs:
    found = []
    for attribute in sorted(names):
        try:
            found.append((attribute, os.getxattr(name, attribute, follow_symlinks=False)))
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
    return tuple(found)


def _listxattr(top: int) -> Callable[..., list[str]]:
    """listxattr(2), or what says "none" where the file system has no such thing."""
    try:
        os.listxattr(top)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return lambda _name, *, follow_symlinks: []
    return os.listxattr
