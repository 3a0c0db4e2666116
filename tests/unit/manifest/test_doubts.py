# SPDX-License-Identifier: GPL-3.0-or-later
"""What an interrupted run may have left at the target, case by case: nothing of it is taken for what the manifest says."""

import os
from pathlib import Path

import pytest

from offsited.core.manifest import Row
from offsited.core.plan import Change, Changes
from offsited.worker.ledger import LEDGER_FILE, Doubt, Ledger

from .workshop import Bench, program, replaced_directories, without_capabilities

NOTHING = Doubt(b"f", 0, 0, 0, again=False, directory=False)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    top.mkdir()
    (top / "f").write_text("x")
    os.link(top / "f", top / "g")
    os.mkfifo(top / "p")
    return top


@pytest.fixture
def bench(tmp_path: Path, top: Path) -> Bench:
    (tmp_path / "state").mkdir()
    bench = Bench(tmp_path / "state")
    bench.sync(top)
    return bench


def doubted(bench: Bench, top: Path, *doubts: Doubt) -> dict[bytes, Changes]:
    """How the paths change in the next plan, after a run that left these doubts."""
    with Ledger.opened(bench.directory / LEDGER_FILE) as ledger:
        ledger.doubt(doubts)
    bench.survey(top)
    with bench.plan() as (_, pending):
        return {item.row.path: item.change for item in pending.select("1")}


def as_it_is(top: Path, name: str) -> Doubt:
    status = (top / name).lstat()
    size = status.st_size if (top / name).is_file() else 0
    return NOTHING._replace(path=name.encode(), size=size, mtime=status.st_mtime_ns, inode=status.st_ino)


def test_what_the_run_sent_as_it_still_is_need_not_be_sent_twice(bench: Bench, top: Path) -> None:
    assert doubted(bench, top, as_it_is(top, "p")) == {b"p": Change.DOUBTFUL}


def test_another_file_of_the_same_size_and_mtime_must_be_sent_again(bench: Bench, top: Path) -> None:
    assert Change.AGAIN & doubted(bench, top, as_it_is(top, "f")._replace(inode=1))[b"f"]


def test_of_another_size_or_mtime_rsync_sees_the_difference(bench: Bench, top: Path) -> None:
    assert not Change.AGAIN & doubted(bench, top, as_it_is(top, "f")._replace(inode=1, mtime=5))[b"f"]


def test_what_is_no_file_may_have_been_linked_to_something_else(bench: Bench, top: Path) -> None:
    assert Change.AGAIN & doubted(bench, top, as_it_is(top, "p")._replace(inode=1, mtime=5))[b"p"]


def test_what_was_to_be_sent_again_still_is(bench: Bench, top: Path) -> None:
    assert Change.AGAIN & doubted(bench, top, as_it_is(top, "p")._replace(again=True))[b"p"]


def test_the_names_of_a_doubtful_file_are_sent_together(bench: Bench, top: Path) -> None:
    assert doubted(bench, top, as_it_is(top, "f")) == {b"f": Change.DOUBTFUL | Change.GROUP, b"g": Change.GROUP}


def test_a_directory_that_the_run_made_is_in_the_way(bench: Bench, top: Path) -> None:
    assert Change.KIND & doubted(bench, top, NOTHING._replace(directory=True))[b"f"]
    with bench.plan() as (_, pending):
        assert [item.row.path for item in replaced_directories(pending)] == [b"f"]


def test_what_the_run_sent_in_place_of_what_the_manifest_carries_goes(bench: Bench, top: Path) -> None:
    os.symlink("t" * 3100, top / "l")
    bench.sync(top)
    assert bench.rows()[b"l"].carried
    doubted(bench, top, NOTHING._replace(path=b"l"))
    with bench.plan() as (_, pending):
        assert [item.row.path for item in pending.deletions()] == [b"l"]
    (top / "l").unlink()
    bench.survey(top)
    with bench.plan() as (_, pending):
        assert [item.row.path for item in pending.deletions()] == [b"l"]


def test_what_only_the_manifest_carried_is_not_deleted_at_the_target(bench: Bench, top: Path) -> None:
    os.symlink("t" * 3100, top / "l")
    bench.sync(top)
    (top / "l").unlink()
    bench.survey(top)
    with bench.plan() as (_, pending):
        assert list(pending.deletions()) == []
        assert b"l" in {line.path for line in pending.lines() if line.gone}


def test_an_inode_of_what_was_not_read_may_be_another_ones_now(bench: Bench, top: Path) -> None:
    """The ledger still has the old inode of what lies in an unreadable directory; the number was given to a new file."""
    (top / "new").write_text("new")
    stale = Row(b"d/old", "f", 0o644, size=9, mtime=9, sha256=bytes(32), inode=(top / "new").stat().st_ino)
    with Ledger.opened(bench.directory / LEDGER_FILE) as ledger, ledger.changing():
        rows = [(b"d", Row(b"d", "d", 0o755)), (stale.path, stale)]
        ledger.take_over(rows, ledger.commit_digest, forgetting=False)
    (top / "d").mkdir(mode=0)
    assert program(bench, top, *without_capabilities()).done
    with bench.plan() as (_, pending):
        assert [one.path for one in pending.unread()] == [b"d"]
        found = pending.item(b"new")
        assert found
        assert (found.row.link, list(pending.link_groups())) == (0, [])
