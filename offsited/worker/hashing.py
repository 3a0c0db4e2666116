# SPDX-License-Identifier: GPL-3.0-or-later
"""The hash of a file's content, of exactly the file that the walk met."""

import errno
import hashlib
import os
import threading
from typing import Final

from offsited.core.manifest import Row
from offsited.worker.mounts import open_deep

_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
"""Without O_NOATIME, which needs CAP_FOWNER: a job binds the snapshot read-only, and that moves no access time either."""
_PIECE: Final = 1 << 20
_NEVER: Final = threading.Event()


def sha256(top: int, row: Row, stop: threading.Event = _NEVER) -> bytes:
    """Given the snapshot's open directory and a row of a regular file, return the hash of its content.

    Raise OSError if it cannot be read: ESTALE if it is another file than the row's, before or after it was read; ECANCELED after `stop`.
    """
    descriptor = open_deep(top, os.fsdecode(row.path), _FLAGS)
    try:
        _require(row, os.fstat(descriptor))
        digest = hashlib.sha256()
        while piece := os.read(descriptor, _PIECE):
            digest.update(piece)
            if stop.is_set():
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        _require(row, os.fstat(descriptor))
        return digest.digest()
    finally:
        os.close(descriptor)


def _require(row: Row, status: os.stat_result) -> None:
    if (status.st_ino, status.st_size, status.st_mtime_ns) != (row.inode, row.size, row.mtime):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
