# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files are hashed beside a transfer, and when: the plan knows their hashes afterwards."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from offsited.core.manifest import Row
from offsited.core.outcome import Reason
from offsited.core.plan import Change
from offsited.core.rsync_output import Item as Line
from offsited.errors import JobFailed
from offsited.worker import hashing_beside
from offsited.worker.hashing import hash_files
from offsited.worker.hashing_beside import HashingBeside
from offsited.worker.pending import Item, Pending

from .workshop import Bench

FILES = ("a/1", "a/2", "b/1", "large")


@dataclass
class Plan:
    """A plan against nothing, and which of its files were read."""

    pending: Pending
    top: Path
    snapshot: int
    read: list[str] = field(default_factory=list)

    def item(self, name: str) -> Item:
        found = self.pending.item(name.encode())
        assert found
        return found

    def hashed(self) -> dict[str, bytes]:
        return {name: sha256 for name in FILES if (sha256 := self.item(name).row.sha256)}

    async def until_read(self, *names: str) -> None:
        while sorted(self.read) != sorted(names):
            assert len(self.read) < len(names), "no other is read before rsync comes to it"
            await asyncio.sleep(0.01)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plan]:
    for name in FILES:
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).write_text(f"content of {name}")
    bench = Bench(tmp_path / "state")
    bench.directory.mkdir()
    bench.survey(tmp_path / "top")
    descriptor = os.open(tmp_path / "top", os.O_RDONLY)
    try:
        with bench.plan() as (_, pending):
            made = Plan(pending, tmp_path / "top", descriptor)

            def heard(snapshot: int, rows: Iterable[Row], stop: threading.Event) -> Iterator[tuple[Row, bytes]]:
                for row, sha256 in hash_files(snapshot, rows, stop):
                    made.read.append(os.fsdecode(row.path))
                    yield row, sha256

            monkeypatch.setattr(hashing_beside, "hash_files", heard)
            yield made
    finally:
        os.close(descriptor)


def content(*names: str) -> dict[str, bytes]:
    return {name: hashlib.sha256(f"content of {name}".encode()).digest() for name in names}


def test_a_directory_is_hashed_when_one_of_it_is_named_and_the_rest_at_the_end(plan: Plan) -> None:
    beside = HashingBeside(
        plan.pending,
        plan.snapshot,
        files={b"xl": plan.item("large")},
        directories={b"xa": [plan.item("a/1"), plan.item("a/2")], b"xb": [plan.item("b/1")]},
    )

    async def transfer() -> None:
        beside.notice(Line(".d..t......", 0, b"xb/"))
        beside.notice(Line(">f+++++++++", 9, b"xa/anything"))
        await plan.until_read("a/1", "a/2")
        beside.notice(Line(">f+++++++++", 9, b"xl"))
        await plan.until_read("a/1", "a/2", "large")

    asyncio.run(asyncio.wait_for(beside.beside(transfer()), 60))
    assert plan.hashed() == content(*FILES)


def test_what_has_a_hash_or_no_new_content_is_not_read(plan: Plan) -> None:
    one, two, three = plan.item("a/1"), plan.item("a/2"), plan.item("b/1")
    unread = {
        b"has one": Item(one.change, one.row._replace(sha256=b"x")),
        b"attributes": Item(Change.ATTRIBUTES, two.row),
        b"held": Item(Change.NEW | Change.HELD, three.row),
    }
    asyncio.run(asyncio.wait_for(HashingBeside(plan.pending, plan.snapshot, files=unread).beside(asyncio.sleep(0)), 60))
    assert plan.hashed() == {}


def test_a_file_that_changed_ends_the_transfer(plan: Plan) -> None:
    beside = HashingBeside(plan.pending, plan.snapshot, files={b"l": plan.item("large")})
    (plan.top / "large").write_text("another")

    async def transfer() -> None:
        beside.notice(Line(">f+++++++++", 9, b"l"))
        await asyncio.Event().wait()

    with pytest.raises(JobFailed) as caught:
        asyncio.run(asyncio.wait_for(beside.beside(transfer()), 60))
    assert caught.value.reason == Reason.SNAPSHOT_CHANGED
