# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding and opening the snapshot of a job. The names and dates themselves are judged in core.snapshot."""

import errno
import glob
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from offsited.core import snapshot as text
from offsited.core.config import Source
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker import mounts
from offsited.worker.report import now
from offsited.worker.statx import birth_time

_EARLIER: Final = 50

_REFUSALS: Final = {
    errno.ENOENT: Reason.SNAPSHOT_MISSING,
    errno.ELOOP: Reason.SNAPSHOT_SYMLINK,
    errno.EXDEV: Reason.SNAPSHOT_OUTSIDE_ROOT,
    errno.ENOTDIR: Reason.SNAPSHOT_NOT_DIRECTORY,
}


@dataclass(frozen=True)
class Snapshot:
    """An open snapshot. Whatever becomes of its path, `descriptor` stays this directory."""

    descriptor: int
    path: str
    """Relative to the source's root."""
    name: str
    """Its last path component, printable."""
    dated: int
    """By its name; microseconds since the epoch, 0 = undated."""
    opened: int
    device: int
    inode: int
    modified: int
    """Its mtime in ns: it tells whether anything at its top came or went since."""


def open_newest(source: Source, *, last: int, any_age: bool) -> Snapshot:
    """Open what the source resolves to, without following a symbolic link below its root.

    `last` is the date of the snapshot committed last, 0 = none; `any_age` = an older or a future one will do.
    Raise JobFailed if there is none, or one that must not be synced.
    """
    relative = resolve(source)
    name = PurePosixPath(relative).name or PurePosixPath(source.root).name
    descriptor = _open(source.root, relative)
    try:
        dated = birth_time(descriptor) // 1000 if source.order == "btime" else text.date_of(relative)
        if not any_age:
            text.check_age(dated, last, now())
        check_finished(source, descriptor)
        _check_not_empty(descriptor, f"{source.root}/{relative}")
    except JobFailed:
        os.close(descriptor)
        raise
    status = os.fstat(descriptor)
    return Snapshot(descriptor, relative, text.printable(name), dated, now(), status.st_dev, status.st_ino, status.st_mtime_ns)


def check_finished(source: Source, descriptor: int) -> None:
    """Raise JobFailed if the source's markers say that an open snapshot is not complete, or that nothing here is to be trusted now."""
    for marker in source.unfinished:
        if _is_there(descriptor, marker):
            raise JobFailed(Reason.SNAPSHOT_UNFINISHED, f"{marker} is there")
    for marker in source.finished:
        if not _is_there(descriptor, marker):
            raise JobFailed(Reason.SNAPSHOT_UNFINISHED, f"{marker} is not there")


def _is_there(descriptor: int, marker: str) -> bool:
    """Whether a marker exists; a relative one in the snapshot, whatever it is. One that cannot be looked for counts as the wrong answer."""
    if marker.startswith("/"):
        return os.path.lexists(marker)
    try:
        os.close(mounts.open_beneath(descriptor, marker, os.O_PATH | os.O_NOFOLLOW))
    except OSError as error:
        return error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV}
    return True


def is_newest(source: Source, opened: Snapshot) -> bool:
    """Whether the source still names that snapshot. One that names none, just now, names no newer one."""
    try:
        return resolve(source) == opened.path
    except JobFailed:
        return True


def earlier(source: Source, opened: Snapshot, last: str) -> list[Path]:
    """Directories beside an open snapshot, at most _EARLIER of them: first the one named `last`, then the newest by name.

    Snapshot tools keep the older ones there. Of a source that is always the same path it is not known what lies beside it.
    """
    above = PurePosixPath(source.root, opened.path).parent
    if source.kind == "path":
        return []
    try:
        with os.scandir(above) as entries:
            found = [entry.name for entry in entries if entry.inode() != opened.inode and entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    found.sort(key=lambda name: (name == last, name), reverse=True)
    return [Path(above, name) for name in found[:_EARLIER]]


def resolve(source: Source) -> str:
    """The snapshot's path relative to the root."""
    match source.kind:
        case "lastdst":
            return text.below_root(text.parse_lastdst(_read_lastdst(source)), source.root)
        case "newest":
            return _newest(source)
        case "path":
            return text.below_root(source.path, source.root, itself=True)


def _newest(source: Source) -> str:
    """Symbolic links are no candidates: one named `latest` beside the snapshots must not win."""
    directories = (path for path in glob.iglob(source.path) if os.path.isdir(path) and not os.path.islink(path))
    if source.order == "btime":
        found = max(((_born(path), os.fsencode(path)) for path in directories), default=None)
        newest = text.below_root(os.fsdecode(found[1]), source.root) if found else None
    else:
        newest = text.newest(text.below_root(path, source.root) for path in directories)
    if newest is None:
        raise JobFailed(Reason.SNAPSHOT_MISSING, f"no directory matches {source.path}")
    return newest


def _born(path: str) -> int:
    """When a directory was made; one that has gone meanwhile is the oldest."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        return birth_time(descriptor)
    finally:
        os.close(descriptor)


def _read_lastdst(source: Source) -> bytes:
    """The file's bytes, one more than may be. A fifo, a device or a link put in its place is refused, and cannot make us wait.

    So is a file of somebody who has no say in the snapshots: it decides what is read with root's rights, and what is deleted.
    """
    path = source.path
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise JobFailed(Reason.SOURCE_MISSING, str(error)) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise JobFailed(Reason.SOURCE_MALFORMED, f"{path} is not a regular file")
        if status.st_uid not in {0, os.stat(source.root).st_uid}:
            raise JobFailed(Reason.SOURCE_MALFORMED, f"{path} belongs neither to root nor to the owner of {source.root}")
        if status.st_mode & stat.S_IWOTH:
            raise JobFailed(Reason.SOURCE_MALFORMED, f"{path} can be written by everybody")
        return os.read(descriptor, text.LASTDST_MAX + 2)
    except OSError as error:
        raise JobFailed(Reason.SOURCE_MISSING, f"{path}: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _open(root: str, relative: str) -> int:
    try:
        top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise JobFailed(Reason.SNAPSHOT_MISSING, str(error)) from None
    try:
        descriptor = mounts.open_beneath(top, relative, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise JobFailed(_REFUSALS.get(error.errno or 0, Reason.SNAPSHOT_UNREADABLE), f"{root}/{relative}: {error.strerror}") from None
    finally:
        os.close(top)
    return descriptor


def _check_not_empty(directory: int, path: str) -> None:
    try:
        with os.scandir(directory) as entries:
            empty = next(entries, None) is None
    except OSError as error:
        raise JobFailed(Reason.SNAPSHOT_UNREADABLE, f"{path}: {error.strerror}") from None
    if empty:
        raise JobFailed(Reason.SNAPSHOT_EMPTY, path)
