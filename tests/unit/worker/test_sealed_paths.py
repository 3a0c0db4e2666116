# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths in the view, for any path that a snapshot can have: compared with what the view of such a snapshot shows."""

import asyncio
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from offsited.core import gocryptfs
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker import sealed_paths, view
from offsited.worker.job import Job
from offsited.worker.sealed_paths import SealedPaths

from .conftest import TOOLS, run

NAMES = (
    b"a",
    b" ",
    b"\xff\xfe",
    b"\xed\xb3\xbf",
    "\ufffd".encode(),
    "\u00e4 a\u0308 \U0001f600".encode(),
    b"new\nline",
    b"carriage\rreturn",
    b'"quoted"',
    b"back\\slash",
    b"\\u0041",
    b"{}",
    b"tab\t\x01\x7f",
    b"-dash",
    b"gocryptfs.diriv",
    b"gocryptfs.longname.x",
    b"l" * 175,
    b"l" * 176,
    b"l" * 255,
    b"\xff" * 255,
    b"\n" * 255,
    b'"' * 255,
)
PATHS = [b"backup", b"offsited", *(b"backup/" + name for name in NAMES), *(b"backup/" + name + b"/below" for name in NAMES)]
DEEP = [b"backup/" + b"/".join([name] * 13) for name in (b"d" * 255, b'"' * 255, b"\n" * 255, b"\xff" * 255)]
"""Asking for some of these takes more than a request can hold."""


async def asked(job: Job, point: Path, paths: Sequence[bytes]) -> tuple[list[str], list[int]]:
    """The paths in a view of plain/, and the inodes that the view shows there, 0 = it shows nothing."""
    control = point.with_name("control")
    command = gocryptfs.reverse_mount(TOOLS.gocryptfs, job.files.plain, point, control=control, notify=os.getpid())
    async with view.mounted(command, point, gocryptfs.REVERSE_FILE_SYSTEM, key=job.key):
        found = await SealedPaths(job, control).of(paths)
        return found, [(point / path).lstat().st_ino & gocryptfs.INODE_BITS if (point / path).exists() else 0 for path in found]


def test_every_path_is_the_one_that_the_view_shows(mountable: Path, job: Job) -> None:
    paths = PATHS + DEEP
    for path in paths:
        (job.files.plain / os.fsdecode(path)).mkdir(parents=True, exist_ok=True)
    found, inodes = run(asked(job, mountable / "view", paths))
    assert inodes == [(job.files.plain / os.fsdecode(path)).lstat().st_ino for path in paths]
    assert len(set(found)) == len(paths)


def test_a_directory_is_told_by_what_is_below_it(mountable: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_about: list[bytes] = []
    ask = sealed_paths._ask

    def noted(connection: socket.socket, request: bytes) -> str:
        asked_about.append(request)
        return ask(connection, request)

    monkeypatch.setattr(sealed_paths, "_ask", noted)
    alone, _ = run(asked(job, mountable / "one", [b"backup/a/b"]))
    together, _ = run(asked(job, mountable / "two", [b"backup", b"backup/a", b"backup/a/b", b"backup/a-b", b"backup/a/b/c/d"]))
    assert together[2] == alone[0]
    assert together == [together[4][: len(path)] if path != together[3] else path for path in together]
    assert len(asked_about) == 3


def test_the_paths_need_not_exist(mountable: Path, job: Job) -> None:
    missing, _ = run(asked(job, mountable / "view", PATHS))
    for path in PATHS:
        (job.files.plain / os.fsdecode(path)).mkdir(parents=True, exist_ok=True)
    found, _ = run(asked(job, mountable / "again", PATHS))
    assert missing == found


def test_the_order_is_that_of_the_question_and_one_may_be_asked_for_twice(mountable: Path, job: Job) -> None:
    paths = [b"backup/b", b"backup/\xff", b"backup/a", b"backup/\xff", b"backup/b"]
    found, _ = run(asked(job, mountable / "view", paths))
    assert [paths[found.index(path)] for path in found] == paths


def test_no_question_no_answer(mountable: Path, job: Job) -> None:
    assert run(asked(job, mountable / "view", [])) == ([], [])


def test_thousands_at_once(mountable: Path, job: Job) -> None:
    paths = [b"backup/%d" % number for number in range(3000)] + [b"backup/\xff%d" % number for number in range(4500)]
    found, _ = run(asked(job, mountable / "view", paths))
    assert len(set(found)) == len(paths)


@pytest.mark.usefixtures("mountable")
def test_nobody_answers(job: Job, runtime: Path) -> None:
    with pytest.raises(JobFailed) as caught:
        run(SealedPaths(job, runtime / "control").of([b"backup"]))
    assert caught.value.reason == Reason.GOCRYPTFS_FAILED


@pytest.mark.usefixtures("mountable")
@pytest.mark.parametrize("answer", [b"", b"not json\n", b"{}\n", b'{"ErrNo": 2, "ErrText": "no"}\n', b"[]\n"])
def test_an_answer_that_is_none(job: Job, runtime: Path, answer: bytes) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        writer.close()

    async def work() -> None:
        async with await asyncio.start_unix_server(reply, runtime / "control"):
            await SealedPaths(job, runtime / "control").of([b"backup"])

    with pytest.raises(JobFailed) as caught:
        run(work())
    assert caught.value.reason == Reason.GOCRYPTFS_FAILED
