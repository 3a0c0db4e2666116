# SPDX-License-Identifier: GPL-3.0-or-later
"""The hash of a file's content, of exactly the file that the walk met."""

import errno
import hashlib
import os
from typing import Final

from offsited.core.manifest import Row
from offsited.worker.mounts import open_beneath

_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW


def sha256(top: int, row: Row) -> bytes:
    """Given the snapshot's open directory and a row of a regular file, return the hash of its content.

    Raise OSError if it cannot be read; ESTALE if it is another file than the row's, before or after it was read.
    """
    descriptor = _open(top, os.fsdecode(row.path))
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        _require(row, os.fstat(descriptor))
        found = hashlib.file_digest(file, "sha256").digest()
        _require(row, os.fstat(descriptor))
        return found


def _open(top: int, path: str) -> int:
    try:
        return open_beneath(top, path, _FLAGS | os.O_NOATIME)
    except PermissionError as error:
        # Not the owner, and no CAP_FOWNER: then reading it counts as an access.
        if error.errno != errno.EPERM:
            raise
        return open_beneath(top, path, _FLAGS)


def _require(row: Row, status: os.stat_result) -> None:
    if (status.st_ino, status.st_size, status.st_mtime_ns) != (row.inode, row.size, row.mtime):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
