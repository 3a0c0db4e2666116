# SPDX-License-Identifier: GPL-3.0-or-later
"""What a changed entry has beyond its stat values: a link's target, chattr flags, holes. Read in the current directory, by name.

The flags are also set from here.
"""

import errno
import fcntl
import os
import stat
import struct
from typing import Final

from offsited.core.manifest import HOLES_KEPT, Ranges

_GETFLAGS: Final = 0x80086601
_SETFLAGS: Final = 0x40086602
"""ioctl_iflags(2) on 64-bit machines."""
LETTERS: Final = (
    (0x1, "s"), (0x2, "u"), (0x4, "c"), (0x8, "S"), (0x10, "i"), (0x20, "a"), (0x40, "d"), (0x80, "A"), (0x4000, "j"), (0x8000, "t"),
    (0x10000, "D"), (0x20000, "T"), (0x800000, "C"), (0x2000000, "x"), (0x20000000, "P"), (0x40000000, "F"),
)  # fmt: skip
"""linux/fs.h against the letters of chattr(1), of those flags that can be set."""
_KINDS: Final = {
    stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p", stat.S_IFSOCK: "s", stat.S_IFCHR: "c", stat.S_IFBLK: "b",
}  # fmt: skip

Detail = tuple[bytes, str, Ranges]
"""A link's target, flags, holes."""


def kind(mode: int) -> str:
    """The letter of a type, of st_mode."""
    return _KINDS[stat.S_IFMT(mode)]


def detail(name: bytes, status: os.stat_result) -> Detail:
    """Read what an entry has beyond its stat values. Raise OSError if it cannot be read, or is no longer the one that was met."""
    mode = stat.S_IFMT(status.st_mode)
    if mode == stat.S_IFLNK:
        return os.readlink(name), "", ()
    if mode not in {stat.S_IFREG, stat.S_IFDIR}:
        return b"", "", ()
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        opened = os.fstat(descriptor)
        if (opened.st_ino, opened.st_dev) != (status.st_ino, status.st_dev):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        sparse = mode == stat.S_IFREG and status.st_blocks * 512 < status.st_size
        return b"", _flags(descriptor), _holes(descriptor, status.st_size) if sparse else ()
    finally:
        os.close(descriptor)


def flag_bits(letters: str) -> int:
    """Given flags as chattr(1) writes them, return their bits."""
    return sum(bit for bit, letter in LETTERS if letter in letters)


def add_flags(descriptor: int, letters: str) -> None:
    """Give an open entry flags, beside those that it has. Raise OSError."""
    fcntl.ioctl(descriptor, _SETFLAGS, struct.pack("=q", _bits(descriptor) | flag_bits(letters)))


def clear_flags(descriptor: int) -> None:
    """Take all flags from an open entry. Raise OSError."""
    fcntl.ioctl(descriptor, _SETFLAGS, struct.pack("=q", 0))


def _bits(descriptor: int) -> int:
    (bits,) = struct.unpack("=i", fcntl.ioctl(descriptor, _GETFLAGS, bytes(8))[:4])
    return int(bits)


def _flags(descriptor: int) -> str:
    try:
        bits = _bits(descriptor)
    except OSError as error:
        if error.errno in {errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
            return ""
        raise
    return "".join(letter for bit, letter in LETTERS if bits & bit)


def _holes(descriptor: int, size: int) -> Ranges:
    """The longest holes, ascending; compression and inline data have none although they take few blocks."""
    found: list[tuple[int, int]] = []
    position = 0
    while position < size:
        start = _seek(descriptor, position, os.SEEK_HOLE, size)
        if start >= size:
            break
        position = _seek(descriptor, start, os.SEEK_DATA, size)
        found.append((start, position - start))
        if len(found) >= 2 * HOLES_KEPT:
            found = _longest(found)
    return tuple(_longest(found))


def _longest(holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return sorted(sorted(holes, key=lambda hole: -hole[1])[:HOLES_KEPT])


def _seek(descriptor: int, position: int, whence: int, size: int) -> int:
    try:
        return os.lseek(descriptor, position, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        raise
