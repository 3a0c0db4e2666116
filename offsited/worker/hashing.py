# SPDX-License-Identifier: GPL-3.0-or-later
"""The hash of a file's content, of exactly the file that the walk met."""

import errno
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Final, Self

from offsited.core.manifest import Row
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker.mounts import open_deep

_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
"""Without O_NOATIME, which needs CAP_FOWNER: a job binds the snapshot read-only, and that moves no access time either."""
_PIECE: Final = 1 << 20
_NEVER: Final = threading.Event()


def hash_files(top: int, rows: Iterable[Row], stop: threading.Event = _NEVER) -> Iterator[tuple[Row, bytes]]:
    """Given the snapshot's open directory and rows of regular files, yield the hash of each one's content.

    Raise JobFailed if one cannot be read, or is another file than the row's, before or after it was read; also after `stop`.
    """
    with _Directory(top) as directory:
        for row in rows:
            try:
                yield row, _sha256(directory, row, stop)
            except OSError as error:
                reason = Reason.SNAPSHOT_UNREADABLE if error.errno == errno.EIO else Reason.SNAPSHOT_CHANGED
                raise JobFailed(reason, f"{os.fsdecode(row.path)}: {error.strerror}") from error


class _Directory:
    """Opens files of a tree; those of one directory after each other at little cost."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._path = b""
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def open(self, path: bytes) -> int:
        directory, _, name = path.rpartition(b"/")
        if not directory:
            return os.open(name, _FLAGS | os.O_CLOEXEC, dir_fd=self._top)
        if directory != self._path or self._descriptor < 0:
            opened = open_deep(self._top, os.fsdecode(directory), os.O_PATH | os.O_DIRECTORY)
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._path, self._descriptor = directory, opened
        return os.open(name, _FLAGS | os.O_CLOEXEC, dir_fd=self._descriptor)


def _sha256(directory: _Directory, row: Row, stop: threading.Event) -> bytes:
    descriptor = directory.open(row.path)
    try:
        _require(row, os.fstat(descriptor))
        digest = hashlib.sha256()
        left = row.size
        while left and (piece := os.read(descriptor, min(left, _PIECE))):
            digest.update(piece)
            left -= len(piece)
            if stop.is_set():
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        _require(row, os.fstat(descriptor))
        return digest.digest()
    finally:
        os.close(descriptor)


def _require(row: Row, status: os.stat_result) -> None:
    if (status.st_ino, status.st_size, status.st_mtime_ns) != (row.inode, row.size, row.mtime):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
