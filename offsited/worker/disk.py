# SPDX-License-Identifier: GPL-3.0-or-later
"""A target on a local file system: mounted by the job, in its own mount namespace, never a bare directory by mistake."""

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from offsited import layers, names
from offsited.core import rsync
from offsited.core.config import DiskTarget
from offsited.core.outcome import Reason
from offsited.core.rsync import Place
from offsited.errors import Failed, JobFailed
from offsited.worker import mounts, process, releasing
from offsited.worker.job import Job
from offsited.worker.target import SMALL, Found
from offsited.worker.transfer import Transfers

_OPTIONS: Final = "nosuid,nodev,noexec,noatime"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_BESIDE_CURRENT: Final = (names.OWNER_FILE, names.CURRENT_DIR, names.PARTIAL_DIR, names.PAST_DIR, "lost+found")
_BUSY: Final = 32
"""mount(8): failure; among others, EBUSY when the file system is already mounted writable elsewhere and is asked for read-only."""


@dataclass(frozen=True)
class Disk:
    """A mounted disk target. Its directory is shown at `point`, which is not there as long as the directory is not."""

    place: Place
    root: Path
    path: str
    point: Path
    device: str
    lent: bool = False
    """It is mounted by somebody else, and shown here."""

    async def look(self, _transfers: Transfers, files: Sequence[str]) -> Found:
        """Natively: no program is run."""
        return await asyncio.to_thread(self._look, files)

    def _look(self, files: Sequence[str]) -> Found:
        owner = _small_file(self.point / names.OWNER_FILE)
        return Found(
            owner=owner,
            files={path: content for path in files if (content := _small_file(self.point / names.CURRENT_DIR / path)) is not None},
            complete=(self.point / names.CURRENT_DIR).is_dir() and (self.point / names.PARTIAL_DIR).is_dir(),
            empty=owner is None and not (self.point.is_dir() and any(self.point.iterdir())),
        )

    async def check(self, _transfers: Transfers) -> None:
        """It is this machine's own rsync that writes."""

    async def gather(self, key_file: bytes) -> None:
        """Renames; the key file goes last, so that what was interrupted is taken up."""
        if self.point.is_dir() and _small_file(self.point / names.TARGET_KEY_FILE) == key_file:
            await asyncio.to_thread(self._gather)

    def _gather(self) -> None:
        (self.point / names.CURRENT_DIR).mkdir(mode=0o700, exist_ok=True)
        found = sorted(self.point.iterdir(), key=lambda path: path.name == names.TARGET_KEY_FILE)
        for path in found:
            if path.name not in _BESIDE_CURRENT:
                path.rename(self.point / names.CURRENT_DIR / path.name)

    async def make_directory(self) -> None:
        """Make the directory, with its parents in the disk's file system, if it is missing. Raise JobFailed."""
        if not self.point.exists():
            await asyncio.to_thread(self._show, _open_or_make, writing=True)

    async def let_go(self) -> None:
        """Unmount it, see that nobody else has it mounted, and take apart what it lies on. Raise JobFailed.

        One that somebody else has mounted stays so.
        """
        try:
            await asyncio.to_thread(self._unmount)
            node = None if self.lent else layers.node_of(Path(self.device))
            if node is not None:
                await releasing.release(node)
        except OSError as error:
            raise JobFailed(Reason.TARGET_BUSY, f"{self.device}: {error.strerror}") from error
        except Failed as error:
            raise JobFailed(Reason.TARGET_BUSY, error.message) from error

    def _unmount(self) -> None:
        mounts.unmount(self.point)
        mounts.unmount(self.root)
        if not self.lent:
            # Whoever has a file system mounted has claimed its device, in whatever mount namespace. open(2), O_EXCL.
            os.close(os.open(self.device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))

    async def flush(self) -> None:
        """syncfs(2)."""
        await asyncio.to_thread(mounts.flush, self.point)

    def show(self, *, writing: bool) -> None:
        """Show the directory if it is there. Raise JobFailed."""
        if writing and os.statvfs(self.root).f_flag & os.ST_RDONLY:
            raise JobFailed(Reason.TARGET_READ_ONLY, "the kernel mounted it read-only")
        self._show(_open_if_there, writing=writing)

    def facts(self) -> dict[str, int]:
        """Bytes free in its file system, and in all, as a record has them; nothing if the disk does not tell any more."""
        try:
            found = os.statvfs(self.root)
        except OSError:
            return {}
        return {"free": found.f_bavail * found.f_frsize, "capacity": found.f_blocks * found.f_frsize}

    def _show(self, opening: Callable[[int, str], int | None], *, writing: bool) -> None:
        top = os.open(self.root, _DIRECTORY | os.O_CLOEXEC)
        try:
            directory = opening(top, self.path)
            if directory is not None:
                self.point.mkdir(mode=0o700)
                mounts.bind(directory, self.point, read_only=not writing)
                os.close(directory)
        except OSError as error:
            raise JobFailed(_REFUSALS.get(error.errno or 0, Reason.TARGET_UNOWNED), f"{self.path} on the disk: {error.strerror}") from error
        finally:
            os.close(top)


async def reach(job: Job, target: DiskTarget, *, writing: bool) -> Disk:
    """Mount the target's file system. Changes nothing there.

    Raise JobFailed: the disk is absent, cannot be mounted or written to, or its directory leads through a symbolic link.
    """
    if not await asyncio.to_thread(Path(target.device).is_block_device):
        raise JobFailed(Reason.TARGET_ABSENT, target.device)
    root, point = job.runtime / "disk", job.runtime / "target"
    if target.path is None:
        await _mount(job.tools.mount, target.device, root, writing=writing)
    else:
        await asyncio.to_thread(_borrow, target.path, target.device, root, writing=writing)
    options = (*((f"--bwlimit={target.bandwidth}",) if target.bandwidth else ()), *target.rsync_options)
    place = Place(str(point), str(point), options, capabilities=rsync.WRITING_FILES, unhindered=True)
    disk = Disk(place, root, target.directory, point, target.device, lent=target.path is not None)
    await asyncio.to_thread(disk.show, writing=writing)
    return disk


def _borrow(path: str, device: str, point: Path, *, writing: bool) -> None:
    """Show at `point` the file system that somebody has mounted at `path`. Raise JobFailed for anything but that of the device.

    What is opened is what is judged: a mount that comes or goes meanwhile makes no difference, nor does the bare directory below it.
    """
    try:
        directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise JobFailed(Reason.TARGET_ABSENT, f"{path}: {error.strerror}") from None
    try:
        mount = mounts.of_descriptor(directory)
        if mount is None or mount.point != os.fsencode(path) or not _is_device(mount.source, device):
            raise JobFailed(Reason.TARGET_ABSENT, f"{device} is not mounted at {path}")
        if writing and not mount.writable:
            raise JobFailed(Reason.TARGET_READ_ONLY, f"it is mounted read-only at {path}")
        point.mkdir(mode=0o700)
        mounts.bind(directory, point, read_only=not writing)
    finally:
        os.close(directory)


def _is_device(source: bytes, device: str) -> bool:
    """Whether two names are of one block device."""
    try:
        one, other = os.stat(source), os.stat(device)
    except OSError:
        return False
    return stat.S_ISBLK(one.st_mode) and one.st_rdev == other.st_rdev


async def _mount(tool: str, device: str, point: Path, *, writing: bool) -> None:
    """Mount a file system. For a reader the mount alone is read-only, not the file system: a sync that comes meanwhile could not write to
    it. Only where it cannot be had otherwise (a disk that is write-protected, or mounted read-only elsewhere) it is read-only itself."""
    await asyncio.to_thread(point.mkdir, mode=0o700)
    tries = [_OPTIONS] if writing else [f"ro=vfs,{_OPTIONS}", f"ro,{_OPTIONS}", _OPTIONS]
    for options in tries:
        try:
            ended = await process.run([tool, "-o", options, "--", device, str(point)])
        except OSError as error:
            raise JobFailed(Reason.CONFIG_INVALID, f"tools.mount: {tool}: {error.strerror}") from None
        if ended.status != _BUSY:
            break
    if ended.status or mounts.find(point) is None:
        raise JobFailed(Reason.TARGET_ABSENT, f"{device} cannot be mounted: {ended.complaints}")


def _small_file(path: Path) -> bytes | None:
    """The content of a regular file of sensible size, or None. Raise JobFailed for one that the disk does not give."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise JobFailed(Reason.TARGET_DAMAGED, f"{path.name}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        return file.read(SMALL) if stat.S_ISREG(status.st_mode) and status.st_size <= SMALL else None


def _open_if_there(top: int, path: str) -> int | None:
    try:
        return mounts.open_beneath(top, path, _DIRECTORY)
    except FileNotFoundError:
        return None


def _open_or_make(top: int, path: str) -> int:
    """Open a directory below `top`, made with its parents where missing."""
    directory = os.dup(top)
    for name in PurePosixPath(path).parts:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=directory)
            below = mounts.open_beneath(directory, name, _DIRECTORY)
        finally:
            os.close(directory)
        directory = below
    return directory


_REFUSALS: Final = {
    errno.ENOSPC: Reason.TARGET_FULL,
    errno.EROFS: Reason.TARGET_READ_ONLY,
    errno.EACCES: Reason.TARGET_READ_ONLY,
    errno.EIO: Reason.TARGET_READ_ONLY,
}
