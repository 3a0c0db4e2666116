# SPDX-License-Identifier: GPL-3.0-or-later
"""When a file was made: statx(2), which Python's os.stat does not tell on Linux."""

import ctypes
import os
from typing import Final

_AT_EMPTY_PATH: Final = 0x1000
_STATX_BTIME: Final = 0x800
_libc = ctypes.CDLL(None, use_errno=True)


class _Timestamp(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_uint32), ("spare", ctypes.c_int32))


class _Statx(ctypes.Structure):
    """struct statx of linux/stat.h, as far as the birth time; the kernel writes 256 bytes."""

    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64),
        ("links_owner_group", ctypes.c_uint32 * 3),
        ("mode", ctypes.c_uint16 * 2),
        ("inode_size_blocks_attributes", ctypes.c_uint64 * 4),
        ("atime", _Timestamp),
        ("btime", _Timestamp),
        ("rest", ctypes.c_uint8 * 256),
    )


def birth_time(descriptor: int) -> int:
    """Given an open file or directory, return when it was made, in ns since the epoch; 0 = its file system does not know. Raise OSError."""
    found = _Statx()
    if _libc.statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_BTIME, ctypes.byref(found)):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(found.btime.seconds) * 10**9 + int(found.btime.nanoseconds) if found.mask & _STATX_BTIME else 0
