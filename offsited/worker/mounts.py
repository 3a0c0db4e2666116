# SPDX-License-Identifier: GPL-3.0-or-later
"""The mount system calls that Python lacks, by descriptor: openat2(2), open_tree(2), mount_setattr(2), move_mount(2), syncfs(2).

Everything happens in the job's own mount namespace, which the kernel takes away with the job: nothing here is ever undone, but for what is
mounted for everybody to see (worker.mounting).
"""

import contextlib
import ctypes
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_OPEN_TREE, _MOVE_MOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 437, 442
"""System call numbers; the same on every architecture since Linux 5.1, but for alpha."""

_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
_BLOCK_DEVICES: Final = Path("/sys/dev/block")
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 0x1, 0x2, 0x4, 0x8
_MS_PRIVATE = 1 << 18
_MNT_FORCE, _MNT_DETACH = 1, 2
_UMOUNT_NOFOLLOW = 8

_TRIES: Final = 16
"""openat2(2) answers EAGAIN when something was renamed while it resolved."""

AT_ONCE: Final = 1000
"""Characters; each may be four bytes."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd"))


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo, proc_pid_mountinfo(5)."""

    number: int
    point: bytes
    file_system: str
    source: bytes
    writable: bool
    """The mount and its file system."""


def open_beneath(directory: int, path: str, flags: int) -> int:
    """Open a path that lies below an open directory and leads through no symbolic link. Raise OSError: EXDEV it leads out, ELOOP a link."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    for _ in range(_TRIES):
        try:
            return _call(_OPENAT2, ctypes.c_long(directory), os.fsencode(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
        except BlockingIOError:
            continue
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def open_deep(directory: int, path: str, flags: int) -> int:
    """As `open_beneath`, for a path of any length: the kernel takes 4,095 bytes at once."""
    if len(path) < AT_ONCE:
        return open_beneath(directory, path, flags)
    cut = path.rindex("/", 0, AT_ONCE)
    above = open_beneath(directory, path[:cut], os.O_PATH | os.O_DIRECTORY)
    try:
        return open_deep(above, path[cut + 1 :], flags)
    finally:
        os.close(above)


def bind(directory: int, point: Path, *, read_only: bool) -> None:
    """Show an open directory at `point`, without what is mounted below it; no devices, no programs, no set-id bits. Raise OSError.

    Not `read_only`: writable even where the unit's own sandbox made the mount of the directory read-only.
    """
    tree = _call(_OPEN_TREE, ctypes.c_long(directory), b"", ctypes.c_ulong(_AT_EMPTY_PATH | _OPEN_TREE_CLONE | os.O_CLOEXEC))
    try:
        attributes = _ATTR_NOSUID | _ATTR_NODEV | _ATTR_NOEXEC | (_ATTR_RDONLY if read_only else 0)
        wanted = _MountAttr(attributes, 0 if read_only else _ATTR_RDONLY, _MS_PRIVATE, 0)
        size = ctypes.c_size_t(ctypes.sizeof(wanted))
        _call(_MOUNT_SETATTR, ctypes.c_long(tree), b"", ctypes.c_ulong(_AT_EMPTY_PATH), ctypes.byref(wanted), size)
        flags = ctypes.c_ulong(_MOVE_MOUNT_F_EMPTY_PATH)
        _call(_MOVE_MOUNT, ctypes.c_long(tree), b"", ctypes.c_long(_AT_FDCWD), os.fsencode(point), flags)
    finally:
        os.close(tree)


def detach(point: Path) -> None:
    """Take away what is mounted at a point, on top first, whether or not it is in use. Nothing need be there."""
    while find(point) is not None:
        if _libc.umount2(os.fsencode(point), _MNT_DETACH) < 0:
            return


def abort(point: Path) -> None:
    """As `detach`, of a FUSE file system: whoever waits for an answer of it gets an error, its own server too. umount(2), MNT_FORCE."""
    if find(point) is not None:
        _libc.umount2(os.fsencode(point), _MNT_FORCE | _MNT_DETACH)
    detach(point)


def may_turn(descriptor: int) -> bool:
    """Whether what lies there may be on a disk that turns: the kernel does not say that it is none (sysfs, queue/rotational)."""
    device = os.fstat(descriptor).st_dev
    beside = _BLOCK_DEVICES / f"{os.major(device)}:{os.minor(device)}"
    for queue in (beside / "queue", beside / ".." / "queue"):  # a partition has none of its own
        with contextlib.suppress(OSError):
            return (queue / "rotational").read_text().strip() != "0"
    return True


def flush(directory: Path) -> None:
    """Bring everything of the file system that holds `directory` to its disk. Raise OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) < 0:
            raise _last_error()
    finally:
        os.close(descriptor)


def find(point: Path) -> Mount | None:
    """Return what is mounted at `point` on top, as this process sees it, or None. Never touches the mounted file system."""
    wanted = os.fsencode(point)
    mounts = [mount for mount in _all() if mount.point == wanted]
    return mounts[-1] if mounts else None


def of_descriptor(descriptor: int) -> Mount | None:
    """Return the mount that an open file or directory is in, proc_pid_fdinfo(5)."""
    facts = Path(f"/proc/self/fdinfo/{descriptor}").read_text("ascii")
    number = int(facts.partition("mnt_id:")[2].split()[0])
    return next((mount for mount in _all() if mount.number == number), None)


def unmount(point: Path) -> None:
    """Take away what is mounted at `point` on top. Raise OSError: EBUSY something of it is in use."""
    if _libc.umount2(os.fsencode(point), _UMOUNT_NOFOLLOW) < 0:
        raise _last_error()


def _all() -> list[Mount]:
    return [_parse(line) for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]


def _parse(line: bytes) -> Mount:
    head, _, tail = line.partition(b" - ")
    fields, (file_system, source, *options) = head.split(b" "), tail.split(b" ")
    writable = b"ro" not in {*fields[5].split(b","), *b" ".join(options).split(b",")}
    return Mount(int(fields[0]), _unescaped(fields[4]), file_system.decode("ascii", "replace"), _unescaped(source), writable)


def _unescaped(text: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes((int(match[1], 8),)), text)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise _last_error()
    return result


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
