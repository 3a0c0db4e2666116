# SPDX-License-Identifier: GPL-3.0-or-later
"""A census of a snapshot, in real trees."""

import asyncio
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from offsited import names
from offsited.core import gocryptfs
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.store import VaultFiles
from offsited.worker import census, view

from .conftest import TOOLS, run


def take(top: Path) -> census.Census:
    return run(census.take(str(top), lambda _entries, _bytes: None))


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "vault/plain/backup"
    for name in ("a", "d/b", "d/deep/c", "d/" + "l" * 176, "m" * 175, "n" * 200 + "/x"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"x" * 100)
    os.link(top / "a", top / "hard")
    (top / "soft").symlink_to("d")
    os.mkfifo(top / "fifo")
    (top / os.fsdecode(b"\xff")).mkdir()
    return top


def test_entries_and_sizes(top: Path) -> None:
    """A file of several names counts once; a link is not followed."""
    met = take(top)
    assert (met.entries, met.size) == (len(list(top.rglob("*"))), 600)
    assert set(met.directories) == {os.fsencode(path) for path in (top, *top.rglob("*")) if path.is_dir() and not path.is_symlink()}
    assert (met.device, met.inode) == (top.stat().st_dev, top.stat().st_ino)


def test_what_the_view_shows_is_computed(top: Path, mountable: Path, files: VaultFiles, key: int) -> None:
    point, control = mountable / "view", mountable / "control"

    async def shown() -> int:
        command = gocryptfs.reverse_mount(TOOLS.gocryptfs, files.plain, point, control=control, notify=os.getpid())
        async with view.mounted(command, point, gocryptfs.REVERSE_FILE_SYSTEM, key=key):
            backup = point / await view.encrypt_path(control, names.BACKUP_DIR)
            return 1 + len(list(backup.rglob("*")))

    assert run(shown()) == take(top).shown


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file appears": lambda top: (top / "d/new").touch(),
    "a file goes": lambda top: (top / "d/b").unlink(),
    "a file is renamed": lambda top: (top / "d/b").rename(top / "d/b2"),
    "a file grows": lambda top: (top / "a").write_bytes(b"x" * 101),
    "a directory is emptied": lambda top: (top / "d/deep/c").unlink(),
    "a directory is replaced": lambda top: (top / "d/deep").rename(top / "d/old").with_name("deep").mkdir(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(top: Path, change: str) -> None:
    before = take(top)
    assert take(top) == before
    CHANGES[change](top)
    assert take(top) != before


def test_what_is_mounted_over_it_is_seen(top: Path, mountable: Path) -> None:
    before = take(top)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(mountable / "vault/plain/backup/d/deep")], check=True)
    assert take(top) != before


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(JobFailed) as caught:
        take(tmp_path / "missing")
    assert caught.value.reason == Reason.SNAPSHOT_UNREADABLE


def test_an_entry_that_cannot_be_read(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def fails(path: bytes) -> object:
        if path.endswith(b"/deep"):
            raise OSError(5, "Input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fails)
    with pytest.raises(JobFailed) as caught:
        take(top)
    assert caught.value.reason == Reason.SNAPSHOT_UNREADABLE


def test_a_cancelled_walk_ends(top: Path) -> None:
    """Its thread is held at the first directory until the caller is gone, and must not go on to a second one."""
    held, go, told = threading.Event(), threading.Event(), []

    def listen(entries: int, _bytes: int) -> None:
        told.append(entries)
        held.set()
        go.wait()

    async def work() -> None:
        task = asyncio.create_task(census.take(str(top), listen))
        await asyncio.to_thread(held.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()

    asyncio.run(work())
    assert len(told) == 1
