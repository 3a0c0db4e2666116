# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory that a restore writes to: a descriptor that the caller opened. Nothing there is overwritten."""

import errno
import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from systemd import daemon as sd

from offsited.core import paths
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker import mounts

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY


def handed_over() -> dict[str, int]:
    """Descriptors that systemd passed on, by name."""
    return {name: descriptor for descriptor, name in sd.listen_fds_with_names().items()}


def requested_paths(descriptor: int | None) -> tuple[bytes, ...]:
    """Read the list of paths to restore; () = everything. The descriptor's offset is left alone."""
    if descriptor is None:
        return ()
    size = os.fstat(descriptor).st_size
    content = b""
    while chunk := os.pread(descriptor, size - len(content), len(content)):
        content += chunk
    return paths.parse(content)


@dataclass(frozen=True)
class Destination:
    """The directory, bound in our mount namespace."""

    point: Path
    scratch: Path
    """A directory of this job for encrypted files, on the destination's file system."""

    @classmethod
    def take(cls, descriptor: int | None, point: Path, job: int) -> "Destination":
        """Show the caller's directory at `point`. Raise JobFailed unless it is one on a writable file system, and can be found here.

        Its mount belongs to the caller's mount namespace, and rsync resolves /proc/self/fd/N by name (3.5.0), to a place that is
        read-only in this unit. So the name is a hint, and device and inode decide.
        """
        if descriptor is None or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise JobFailed(Reason.DESTINATION_UNUSABLE, "not a directory")
        if os.statvfs(f"/proc/self/fd/{descriptor}").f_flag & os.ST_RDONLY:
            raise JobFailed(Reason.DESTINATION_UNUSABLE, "its file system is read-only")
        point.mkdir(mode=0o700)
        try:
            own = _same_here(descriptor)
            mounts.bind(own, point, read_only=False)
        except OSError as error:
            raise JobFailed(Reason.DESTINATION_UNUSABLE, f"it cannot be reached from the job's unit: {error.strerror}") from error
        os.close(own)
        return cls(point, point / f".offsited-restore-{job}")

    def make_scratch(self) -> None:
        """Raise JobFailed if nothing can be made there."""
        try:
            self.scratch.mkdir(mode=0o700)
        except OSError as error:
            raise JobFailed(Reason.DESTINATION_UNUSABLE, str(error.strerror)) from error

    def remove_scratch(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)

    def check_free(self, wanted: Iterable[bytes]) -> None:
        """Given paths that are to be made here, raise JobFailed if one exists, or if a parent of one is no directory."""
        top = os.open(self.point, _DIRECTORY | os.O_CLOEXEC)
        try:
            taken = [path for path in wanted if _is_taken(top, path)]
        finally:
            os.close(top)
        if taken:
            raise JobFailed(Reason.DESTINATION_OCCUPIED, os.fsdecode(taken[0]))

    def set_times(self, times: tuple[int, int]) -> None:
        """Give the directory itself its access and modification time, in ns."""
        os.utime(self.point, ns=times)


def _same_here(descriptor: int) -> int:
    """Open the directory of a foreign descriptor through our own mounts. Raise OSError if it is not where its name says."""
    name = os.readlink(f"/proc/self/fd/{descriptor}")
    top = os.open("/", _DIRECTORY | os.O_CLOEXEC)
    try:
        own = mounts.open_beneath(top, name.lstrip("/") or ".", _DIRECTORY)
    finally:
        os.close(top)
    if not os.path.samestat(os.fstat(own), os.fstat(descriptor)):
        os.close(own)
        raise OSError(errno.ESTALE, f"another directory is at {name}")
    return own


def _is_taken(top: int, path: bytes) -> bool:
    try:
        parent = mounts.open_beneath(top, os.fsdecode(paths.parent(path)), _DIRECTORY)
    except OSError as error:
        return error.errno != errno.ENOENT
    try:
        os.stat(path.rpartition(b"/")[2], dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    finally:
        os.close(parent)
    return True
