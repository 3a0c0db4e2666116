# SPDX-License-Identifier: GPL-3.0-or-later
"""The IVs of directories that a mirror on this machine has already: each gets its time, and is not sent.

Every directory in which something changed would else send its 16 bytes: that was half of all transfers. What an IV is, its directory's
path says, and what the view shows of it, its directory.
"""

import os
import stat
from collections.abc import Iterable

from offsited import names
from offsited.core import gocryptfs
from offsited.core.manifest import Row
from offsited.worker import mounts


def settle(mirror: int, directories: Iterable[tuple[str, Row]]) -> set[str]:
    """Given the open top of a mirror, and encrypted path and row of directories, return the IVs, by path, that are now as in the view."""
    return {f"{path}/{names.DIRIV_FILE}" for path, row in directories if _settle(mirror, path, row)}


def _settle(mirror: int, path: str, row: Row) -> bool:
    """Only of what is right in everything else; what is not is left to rsync."""
    try:
        file = mounts.open_deep(mirror, f"{path}/{names.DIRIV_FILE}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        status = os.fstat(file)
        wanted = (stat.S_IFREG | gocryptfs.IV_MODE, row.uid, row.gid, gocryptfs.IV_BYTES)
        if (status.st_mode, status.st_uid, status.st_gid, status.st_size) != wanted:
            return False
        os.utime(file, ns=(status.st_atime_ns, row.mtime + gocryptfs.IV_LATER))
    except OSError:
        return False
    finally:
        os.close(file)
    return True
