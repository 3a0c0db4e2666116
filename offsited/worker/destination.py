# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory that a restore writes to: a descriptor that the caller opened. Nothing there is overwritten."""

import errno
import json
import os
import shutil
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from systemd import daemon as sd

from offsited.core import paths
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.store import write_whole
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


SCRATCH: Final = ".offsited-restore"
"""In the destination while a restore into it is not finished."""
_REQUEST: Final = "request.json"


class Differences:
    """What is not as the manifest says: a line each, on disk, so that a restore that is taken up again knows of earlier ones."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()

    def note(self, path: bytes, what: str) -> None:
        """May be called from several threads."""
        line = f"{path.decode('utf-8', 'backslashreplace') or '.'}: {what}".replace("\n", "\\n")
        with self._lock, self._file.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line + "\n")

    def read(self) -> list[str]:
        """All of them, once each."""
        try:
            return list(dict.fromkeys(self._file.read_text("utf-8", "backslashreplace").splitlines()))
        except FileNotFoundError:
            return []

    def move(self, to: Path) -> None:
        """Keep the list elsewhere."""
        write_whole(to, ("\n".join(self.read()) + "\n").encode())


@dataclass(frozen=True)
class Destination:
    """The directory, bound in our mount namespace."""

    point: Path
    times: tuple[int, int] = (0, 0)
    """Its own before anything was done there, in ns."""

    @classmethod
    def take(cls, descriptor: int | None, point: Path) -> "Destination":
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
            own = same_here(descriptor)
            mounts.bind(own, point, read_only=False)
        except OSError as error:
            raise JobFailed(Reason.DESTINATION_UNUSABLE, f"it cannot be reached from the job's unit: {error.strerror}") from error
        status = os.fstat(own)
        os.close(own)
        return cls(point, (status.st_atime_ns, status.st_mtime_ns))

    @property
    def scratch(self) -> Path:
        """A directory of ours there: encrypted files, and what an interrupted restore is known by.

        It is bound into the unit's own directory, where nobody can put a link in its place.
        """
        return self.point.with_name("scratch")

    @property
    def differences(self) -> Differences:
        return Differences(self.scratch / "differences")

    def begin(self, vault: str, target: str, wanted: Sequence[bytes]) -> bool:
        """Make the scratch directory, or take up a restore of the same that was interrupted here; return whether it was that.

        Raise JobFailed if something of what is to be made is there already, or if the restore that was interrupted was of something else.
        """
        request = json.dumps({"vault": vault, "target": target, "paths": [os.fsdecode(path) for path in sorted(wanted)]}).encode()
        top = os.open(self.point, _DIRECTORY | os.O_CLOEXEC)
        try:
            if not _is_taken(top, os.fsencode(SCRATCH)):
                self._check_free(top, wanted)
                os.mkdir(SCRATCH, 0o700, dir_fd=top)
            self._bind_scratch(top)
            earlier = self._requested()
            if earlier == request:
                return True
            if earlier is not None:
                raise JobFailed(Reason.DESTINATION_OCCUPIED, f"{SCRATCH} is of another restore, which was interrupted here")
            self._check_free(top, wanted)
            write_whole(self.scratch / _REQUEST, request)
        except OSError as error:
            raise JobFailed(Reason.DESTINATION_UNUSABLE, str(error.strerror)) from error
        finally:
            os.close(top)
        return False

    def _bind_scratch(self, top: int) -> None:
        """Raise JobFailed if it is not a directory into which nobody else could write."""
        found = os.open(SCRATCH, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
        try:
            status = os.fstat(found)
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise JobFailed(Reason.DESTINATION_OCCUPIED, f"{SCRATCH} is not root's alone")
            self.scratch.mkdir(mode=0o700, exist_ok=True)
            mounts.bind(found, self.scratch, read_only=False)
        finally:
            os.close(found)

    def _requested(self) -> bytes | None:
        """What the restore that was interrupted here was of; None = none was."""
        try:
            return (self.scratch / _REQUEST).read_bytes()
        except FileNotFoundError:
            return None

    def is_of(self, commit: str) -> None:
        """Remember, by its digest, the commit that is restored here. A restore of another one that is taken up leaves what went since."""
        file = self.scratch / "commit"
        if not file.exists():
            write_whole(file, commit.encode())
        elif file.read_text() != commit:
            self.differences.note(b"", "begun with another snapshot, before a sync: what is not in this one may be left of it")

    def made(self, path: bytes) -> None:
        """Remember a directory that was made only because it holds something that was asked for."""
        with (self.scratch / "made").open("ab") as file:
            file.write(path + b"\0")

    def all_made(self) -> set[bytes]:
        """Those directories, of this restore and of what it takes up."""
        try:
            return set((self.scratch / "made").read_bytes().split(b"\0"))
        except FileNotFoundError:
            return set()

    def finish(self) -> None:
        """Nothing of the restore is left to be taken up."""
        shutil.rmtree(self.point / SCRATCH, ignore_errors=True)

    def leave(self) -> None:
        """Nothing was restored: leave it as it was."""
        self.finish()
        os.utime(self.point, ns=self.times)

    def _check_free(self, top: int, wanted: Sequence[bytes]) -> None:
        """Raise JobFailed if a path that is to be made exists, or if a parent of one is no directory. Everything needs it empty."""
        taken = [path for path in wanted if _is_taken(top, path)]
        if not wanted:
            taken = [os.fsencode(name) for name in os.listdir(self.point) if name not in {SCRATCH, "lost+found"}]
        if taken:
            raise JobFailed(Reason.DESTINATION_OCCUPIED, os.fsdecode(taken[0]))


def same_here(descriptor: int) -> int:
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
