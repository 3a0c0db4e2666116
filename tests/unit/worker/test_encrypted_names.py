# SPDX-License-Identifier: GPL-3.0-or-later
"""Names as a target has them, for paths that need not exist here: compared with a view of a tree that has them."""

import os
from pathlib import Path

import pytest

from offsited.core import gocryptfs
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker import encrypted_names, view
from offsited.worker.job import Job

from .conftest import TOOLS, run

PATHS = (
    b"backup/a",
    b"backup/d/\xff\xfe",
    b"backup/" + b"l" * 255 + b"/x",
    b"backup/" + b"m" * 176,
    b"offsited/commit.json",
    b"backup/d",
    b"backup/new\nline",
)


def test_names_are_those_of_the_view(mountable: Path, job: Job) -> None:
    found = run(encrypted_names.of(job, PATHS))
    for path in PATHS:
        (job.files.plain / os.fsdecode(path)).mkdir(parents=True, exist_ok=True)
    point = mountable / "view"
    command = gocryptfs.reverse_mount(TOOLS.gocryptfs, job.files.plain, point, control=mountable / "control", notify=os.getpid())

    async def inodes() -> dict[bytes, int]:
        async with view.mounted(command, point, gocryptfs.REVERSE_FILE_SYSTEM, key=job.key):
            return {path: (point / found[path]).lstat().st_ino & gocryptfs.INODE_BITS for path in PATHS}

    assert run(inodes()) == {path: (job.files.plain / os.fsdecode(path)).lstat().st_ino for path in PATHS}


@pytest.mark.usefixtures("mountable")
@pytest.mark.parametrize("path", [b"backup/" + b"x" * 256, b"backup/" + b"y/" * 3000])
def test_a_path_too_long_to_be_in_a_backup(job: Job, path: bytes) -> None:
    with pytest.raises(JobFailed) as caught:
        run(encrypted_names.of(job, (path,)))
    assert caught.value.reason == Reason.PATH_NOT_IN_BACKUP
