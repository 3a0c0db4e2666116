# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount for browsing: what a target holds, read-only, where everybody sees it. Its unit has no mount namespace of its own.

So nothing goes by itself here. Where mounts are is written down before the first is made, and `unmount`, which systemd runs when the unit
has stopped in whatever way, takes away what is left.
"""

import asyncio
import contextlib
import json
import os
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import gocryptfs, ssh
from offsited.core.config import SshTarget
from offsited.core.outcome import Reason
from offsited.core.progress import Phase
from offsited.errors import Exit, JobFailed
from offsited.store import VaultFiles, write_whole
from offsited.worker import mounts, process, target
from offsited.worker.destination import handed_over, same_here
from offsited.worker.job import DONE, Ending, Job
from offsited.worker.process import Child
from offsited.worker.reach import reach
from offsited.worker.transfer import Transfers
from offsited.worker.view import mounted, require

_PLACES: Final = "mounts"
"""Directory in a vault's state: where each job has mounted something."""
_UNMOUNTED_LAST: Final = ("target", "disk")
_MOUNTED_WITHIN: Final = 60.0


async def mount(job: Job) -> Ending:
    """Show the snapshot that a target holds at the caller's directory, until asked to end. Raise JobFailed."""
    point = await asyncio.to_thread(_point, handed_over().get(names.MOUNT_POINT_FD))
    await require(job.tools.gocryptfs)
    own = Path(f"/run/offsited-mounted-{job.number}")
    await asyncio.to_thread(_write_down, job, [str(point), *(str(own / name) for name in ("view", "sshfs", *_UNMOUNTED_LAST))], own)
    seen = replace(job, runtime=own)
    reached = await reach(seen, writing=False)
    found = await target.inspect(Transfers(job.tools, job.runtime, job.report), reached, job.files.identity(), [])
    if found.owner is None:
        raise JobFailed(Reason.TARGET_EMPTY)
    async with _mirror(seen, reached.place.current) as sealed:
        view = own / "view"
        command = gocryptfs.forward_mount(job.tools.gocryptfs, sealed, view, key_file=job.files.key_file, notify=os.getpid(), others=True)
        async with mounted(command, view, gocryptfs.FORWARD_FILE_SYSTEM, key=job.key) as clear:
            await clear.look(lambda: _show(view / names.BACKUP_DIR, point))
            job.report.phase(Phase.MOUNTED)
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await clear.guard(asyncio.Event().wait())
            finally:
                mounts.detach(point)
    return DONE


def unmount(files: VaultFiles, number: int) -> Exit:
    """Take away what a job has left mounted."""
    file = files.state / _PLACES / f"{number}.json"
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return Exit.DONE
    for place in document["points"]:
        mounts.detach(Path(place))
    own = Path(document["own"])
    for place in (*own.glob("*"), own):
        with contextlib.suppress(OSError):
            place.rmdir() if place.is_dir() else place.unlink()
    if own.exists():
        print(f"{own} cannot be removed", file=sys.stderr)
        return Exit.FAILED
    file.unlink()
    return Exit.DONE


def _point(descriptor: int | None) -> Path:
    """The caller's directory, by its name. Raise JobFailed unless it is one, empty, and can be found here."""
    if descriptor is None or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise JobFailed(Reason.MOUNT_POINT_UNUSABLE, "not a directory")
    try:
        os.close(same_here(descriptor))
        point = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if os.listdir(point):
            raise JobFailed(Reason.MOUNT_POINT_UNUSABLE, "it is not empty")
    except OSError as error:
        raise JobFailed(Reason.MOUNT_POINT_UNUSABLE, str(error.strerror)) from error
    return point


def _write_down(job: Job, points: list[str], own: Path) -> None:
    """Before anything is mounted: in which order it is to be taken away."""
    directory = job.files.state / _PLACES
    directory.mkdir(mode=0o700, exist_ok=True)
    for old in directory.glob("*.json"):  # of a power loss: what was mounted went with it
        if not Path(json.loads(old.read_bytes())["own"]).exists():
            old.unlink()
    write_whole(directory / f"{job.number}.json", json.dumps({"points": points, "own": str(own)}).encode())
    own.mkdir(mode=0o700)


def _show(top: Path, point: Path) -> None:
    """Raise JobFailed if there is no snapshot."""
    try:
        directory = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise JobFailed(Reason.TARGET_EMPTY, str(error.strerror)) from error
    try:
        mounts.bind(directory, point, read_only=True)
    except OSError as error:
        raise JobFailed(Reason.MOUNT_POINT_UNUSABLE, str(error.strerror)) from error
    finally:
        os.close(directory)


@asynccontextmanager
async def _mirror(job: Job, current: str) -> AsyncIterator[str]:
    """Within: a local path of the target's mirror."""
    if not isinstance(job.target, SshTarget):
        yield current
        return
    point = job.runtime / "sshfs"
    await asyncio.to_thread(point.mkdir, mode=0o700)
    shell = ssh.command(job.tools.ssh, job.target, job.known_hosts, job.runtime / ssh.CONTROL)
    try:
        child = await Child.start(ssh.sshfs(job.tools.sshfs, job.target, shell, point), on_line=process.relay)
    except OSError as error:
        raise JobFailed(Reason.SSHFS_MISSING, f"{job.tools.sshfs}: {error.strerror}") from None
    try:
        await _until_mounted(child, point)
        yield str(point)
    finally:
        await child.end()
        mounts.detach(point)


async def _until_mounted(child: Child, point: Path) -> None:
    """sshfs does not say when it is ready. Raise JobFailed if it ends, or is not in time."""
    try:
        async with asyncio.timeout(_MOUNTED_WITHIN):
            while mounts.find(point) is None:
                if not child.running:
                    ended = await child.wait()
                    raise JobFailed(ssh.meaning(ended.complaints) or Reason.TARGET_UNREACHABLE, ended.complaints[-500:])
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise JobFailed(Reason.TARGET_UNREACHABLE, f"sshfs mounted nothing within {_MOUNTED_WITHIN:.0f} seconds") from None
