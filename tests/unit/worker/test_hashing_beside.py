# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files are hashed beside a transfer, and when."""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from offsited.core.manifest import Row
from offsited.core.outcome import Reason
from offsited.core.plan import Change
from offsited.core.rsync_output import Item as Line
from offsited.errors import JobFailed
from offsited.worker.hashing_beside import HashingBeside
from offsited.worker.pending import Item

from .conftest import run


class Hashes:
    """What a plan is told, in place of one."""

    def __init__(self) -> None:
        self.told: dict[bytes, bytes] = {}
        self.news = asyncio.Event()

    def set_hashes(self, found: list[tuple[Row, bytes]]) -> None:
        self.told |= {row.path: sha256 for row, sha256 in found}
        self.news.set()


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name in ("a/1", "a/2", "b/1", "large"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}")
    return tmp_path


def item(top: Path, name: str, change: Change = Change.NEW) -> Item:
    status = (top / name).stat()
    return Item(change, Row(name.encode(), "f", 0o600, size=status.st_size, mtime=status.st_mtime_ns, inode=status.st_ino))


def content(path: str) -> bytes:
    return hashlib.sha256(f"content of {path}".encode()).digest()


def test_a_directory_is_hashed_when_one_of_it_is_named_and_the_rest_at_the_end(top: Path) -> None:
    hashes, descriptor = Hashes(), os.open(top, os.O_RDONLY)
    beside = HashingBeside(
        hashes,  # type: ignore[arg-type]
        descriptor,
        files={b"xl": item(top, "large")},
        directories={b"xa": [item(top, "a/1"), item(top, "a/2")], b"xb": [item(top, "b/1")]},
    )

    async def transfer() -> None:
        beside.notice(Line(".d..t......", 0, b"xb/"))
        beside.notice(Line(">f+++++++++", 9, b"xa/anything"))
        await hashes.news.wait()
        assert set(hashes.told) == {b"a/1", b"a/2"}, "no other is read before rsync comes to it"
        hashes.news.clear()
        beside.notice(Line(">f+++++++++", 9, b"xl"))
        await hashes.news.wait()
        assert b"large" in hashes.told

    try:
        run(beside.beside(transfer()))
    finally:
        os.close(descriptor)
    assert hashes.told == {name.encode(): content(name) for name in ("a/1", "a/2", "b/1", "large")}


def test_what_has_a_hash_or_no_new_content_is_not_read(top: Path) -> None:
    hashes, descriptor = Hashes(), os.open(top, os.O_RDONLY)
    known = item(top, "a/1")
    unread = {b"k": Item(known.change, known.row._replace(sha256=b"x")), b"m": item(top, "a/2", Change.ATTRIBUTES)}
    beside = HashingBeside(hashes, descriptor, files={**unread, b"h": item(top, "b/1", Change.NEW | Change.HELD)})  # type: ignore[arg-type]
    try:
        run(beside.beside(asyncio.sleep(0)))
    finally:
        os.close(descriptor)
    assert hashes.told == {}


def test_a_file_that_changed_ends_the_transfer(top: Path) -> None:
    hashes, descriptor = Hashes(), os.open(top, os.O_RDONLY)
    beside = HashingBeside(hashes, descriptor, files={b"l": item(top, "large")})  # type: ignore[arg-type]
    (top / "large").write_text("another")

    async def transfer() -> None:
        beside.notice(Line(">f+++++++++", 9, b"l"))
        await asyncio.Event().wait()

    try:
        with pytest.raises(JobFailed) as caught:
            run(beside.beside(transfer()))
    finally:
        os.close(descriptor)
    assert caught.value.reason == Reason.SNAPSHOT_CHANGED
