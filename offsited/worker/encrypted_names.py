# SPDX-License-Identifier: GPL-3.0-or-later
"""Names as a target has them, for paths that need not exist here.

A name's encryption depends on its path and the key alone. So a skeleton of empty directories with these paths, shown by gocryptfs in
reverse mode, has the encrypted names, and inode numbers tell which is which. (gocryptfs's control socket would answer a path that is not
UTF-8 with a wrong name and no error.)
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from offsited.core import gocryptfs
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker.job import Job
from offsited.worker.view import mounted


async def of(job: Job, paths: Iterable[bytes]) -> dict[bytes, str]:
    """Given paths below `plain/`, return the path of each in the vault's view. Raise JobFailed for one too long to be in a backup."""
    work = Path(tempfile.mkdtemp(prefix="names-", dir=job.runtime))
    skeleton, point = work / "skeleton", work / "names"
    paths = tuple(paths)
    try:
        for path in paths:
            (skeleton / os.fsdecode(path)).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise JobFailed(Reason.PATH_NOT_IN_BACKUP, str(error.strerror)) from None
    command = gocryptfs.names_mount(job.tools.gocryptfs, skeleton, point, key_file=job.files.key_file, notify=os.getpid())
    async with mounted(command, point, gocryptfs.REVERSE_FILE_SYSTEM, key=job.key) as view:
        found = await view.guard(view.look(lambda: _pairs(skeleton, point)))
    await asyncio.to_thread(shutil.rmtree, skeleton)
    return {path: found[path] for path in paths}


def _pairs(skeleton: Path, view: Path) -> dict[bytes, str]:
    """Every path below `skeleton`, with its path below `view`."""
    shown = {entry.stat(follow_symlinks=False).st_ino & gocryptfs.INODE_BITS: entry.name for entry in os.scandir(view) if entry.is_dir()}
    found = {}
    for entry in os.scandir(skeleton):
        name = shown[entry.stat(follow_symlinks=False).st_ino & gocryptfs.INODE_BITS]
        found[os.fsencode(entry.name)] = name
        for path, encrypted in _pairs(Path(entry.path), view / name).items():
            found[os.fsencode(entry.name) + b"/" + path] = f"{name}/{encrypted}"
    return found
