# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger and the plan beside it: crashes, damage, doubts, holding back, hard-link groups."""

import os
import sqlite3
from pathlib import Path

import pytest

from offsited.core.config import Limits
from offsited.core.manifest import Header, ManifestDamaged, Row
from offsited.core.plan import Change
from offsited.worker import segments
from offsited.worker.holding import Holding
from offsited.worker.ledger import LEDGER_FILE, Doubt, Ledger

from .workshop import Bench, changes, groups, groups_on_disk, remote_groups, replaced_directories, seen, to_hash, without_numbers

C = Change


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    top.mkdir()
    return top


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "state").mkdir()
    return Bench(tmp_path / "state")


def tree(top: Path) -> None:
    for name in ("a/b/c", "a/b/d", "a/e", "f"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)


def test_a_crash_between_both_commits_is_mended_by_the_segment(top: Path, bench: Bench) -> None:
    tree(top)
    bench.sync(top)
    (top / "f").write_text("changed")
    (top / "a" / "e").unlink()
    bench.survey(top)
    with bench.plan() as (ledger, pending):
        pending.set_hash(b"f", bytes(32))
        written = segments.append(bench.directory, bench.segments, Header("v", "t", 2), pending.lines())
        assert ledger.commit_digest == "commit 1"
    with Ledger.opened(bench.directory / LEDGER_FILE) as ledger:
        for _ in range(2):
            ledger.apply(segments.rows(bench.directory / written[-1].name, written[-1]), "commit 2")
        assert (ledger.commit_digest, ledger.row(b"a/e")) == ("commit 2", None)
        assert ledger.signatures().keys() == {b"a/b"}, "of the directories whose rows changed nothing is known"
        found = ledger.row(b"f")
        assert found
        assert (found.size, found.sha256, found.inode) == (7, bytes(32), 0)
    bench.survey(top)
    with bench.plan() as (_, pending):
        assert b"f" in {item.row.path for item in pending.to_compare()}, "its inode is not known any more: the hash must prove it"
        assert list(pending.lines()) == []


def test_a_commit_that_fails_changes_nothing(top: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(top)
    bench.sync(top)
    before, remembered = bench.rows(), _signatures(bench)
    (top / "f").write_text("changed")
    bench.survey(top)
    with bench.plan() as (_, pending), monkeypatch.context() as patched:
        patched.setattr(Ledger, "set_fact", _fail)
        with pytest.raises(OSError, match="full"):
            pending.commit("commit 2")
    assert (bench.rows(), _signatures(bench)) == (before, remembered)


def test_what_was_prepared_for_a_commit_that_never_came_is_forgotten(top: Path, bench: Bench) -> None:
    tree(top)
    bench.sync(top)
    before, remembered = bench.rows(), _signatures(bench)
    (top / "f").write_text("changed")
    bench.survey(top)
    with bench.plan() as (_, pending):
        pending.enter()
        pending.begin()
        pending.written()
        assert bench.rows() == before, "to others, until then"
    assert (bench.rows(), _signatures(bench)) == (before, remembered)
    bench.sync(top)
    assert bench.rows() != before


def _fail(*_: object) -> None:
    raise OSError("full")


def _signatures(bench: Bench) -> dict[bytes, bytes]:
    with Ledger.opened(bench.directory / LEDGER_FILE) as ledger:
        return ledger.signatures()


def test_a_damaged_segment_leaves_the_ledger_as_it_was(top: Path, bench: Bench) -> None:
    tree(top)
    bench.sync(top)
    before = bench.rows()
    file = bench.directory / bench.segments[0].name
    file.write_bytes(file.read_bytes()[:-20])
    with Ledger.opened(bench.directory / LEDGER_FILE) as ledger:
        with pytest.raises(ManifestDamaged):
            ledger.rebuild([segments.rows(file)], "x")
        assert ledger.commit_digest == "commit 1"
    assert bench.rows() == before


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_ledger_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ManifestDamaged):
        Ledger(tmp_path / "m")


def test_the_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path / "m").close()
    database = sqlite3.connect(tmp_path / "m")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ManifestDamaged, match="99"):
        Ledger(tmp_path / "m")


def test_a_reader_is_not_disturbed_by_a_commit(top: Path, bench: Bench) -> None:
    tree(top)
    bench.sync(top)
    with Ledger.opened(bench.directory / LEDGER_FILE) as reader, reader.reading():
        rows = reader.rows()
        first = next(rows)
        (top / "f").unlink()
        bench.sync(top)
        assert {row.path for row in (first, *rows)} >= {b"f", b"a/b/c"}


def test_only_the_topmost_of_what_is_gone_is_deleted(top: Path, bench: Bench) -> None:
    tree(top)
    bench.sync(top)
    for name in ("a/b/c", "a/b/d"):
        (top / name).unlink()
    (top / "a" / "b").rmdir()
    (top / "f").unlink()
    bench.survey(top)
    with bench.plan() as (_, pending):
        assert [item.row.path for item in pending.deletions()] == [b"a/b", b"f"]
        assert [item.row.path for item in pending.gone()] == [b"a/b", b"a/b/c", b"a/b/d", b"f"]
        assert list(pending.directories()) == [b"", b"a"]
        assert pending.totals().deleted == (3, 11)


def test_below_what_is_no_directory_any_more_nothing_is_deleted(top: Path, bench: Bench) -> None:
    tree(top)
    bench.sync(top)
    (top / "a").rename(top.parent / "away")
    (top / "a").write_text("a file now")
    bench.survey(top)
    with bench.plan() as (_, pending):
        assert list(pending.deletions()) == []
        assert [item.row.path for item in replaced_directories(pending)] == [b"a"]
        assert len(list(pending.gone())) == 4
    bench.sync(top)
    assert without_numbers(bench.rows()) == seen(top)


def test_the_attributes_of_one_entry_are_one_row(top: Path, bench: Bench) -> None:
    tree(top)
    bench.sync(top)
    (top / "a" / "e").chmod(0o600)
    assert changes(bench.sync(top)) == {b"a/e": C.ATTRIBUTES}
    assert bench.segments[-1].rows == 1


def test_the_same_size_and_mtime_but_another_content_is_sent_again(top: Path, bench: Bench) -> None:
    tree(top)
    bench.sync(top)
    mtime = os.stat(top / "f").st_mtime_ns
    (top / "f").unlink()
    (top / "f").write_text("F")
    os.utime(top / "f", ns=(0, mtime))
    found = bench.sync(top)
    assert found[b"f"].change >= C.INODE | C.CONTENT | C.AGAIN
    assert bench.remote.nodes[b"f"].content == b"F"


def test_what_is_held_keeps_its_row_and_is_looked_at_again(top: Path, bench: Bench) -> None:
    tree(top)
    bench.sync(top)
    before = bench.rows()
    (top / "f").unlink()
    (top / "a" / "e").write_text("changed")
    (top / "new").touch()
    bench.survey(top)
    with bench.plan() as (_, pending):
        Holding(pending, Limits(max_delete=0, max_change=0), bench.directory).settle()
        assert list(pending.deletions()) == []
        assert [item.row.path for item in pending.to_send()] == [b"", b"new"]
        pending.set_hash(b"new", bytes(32))
        assert {line.path for line in pending.lines()} == {b"", b"a/e", b"f", b"new"}
        pending.commit("held")
    rows = bench.rows()
    assert {path for path, row in rows.items() if row.held} == {b"f", b"a/e"}
    assert rows[b"f"] == before[b"f"]._replace(held=True)
    assert rows[b"a/e"] == before[b"a/e"]._replace(held=True)
    bench.survey(top)
    with bench.plan() as (_, pending):
        assert [item.row.path for item in pending.deletions()] == [b"f"]
        Holding(pending, Limits(max_delete=0, max_change=0), bench.directory).settle()
        assert pending.is_empty, "held as before: nothing is new"


def test_a_group_of_links_comes_grows_splits_and_goes(top: Path, bench: Bench) -> None:
    (top / "a").write_text("x")
    (top / "d").mkdir()
    bench.sync(top)

    os.link(top / "a", top / "d" / "b")
    bench.survey(top)
    with bench.plan() as (_, pending):
        assert list(pending.link_groups()) == [[b"a", b"d/b"]]
        assert list(to_hash(pending)) == [], "the ledger knows the inode's hash"
    bench.sync(top)
    number = bench.rows()[b"a"].link

    os.link(top / "a", top / "c")
    bench.sync(top)
    assert bench.rows()[b"c"].link == number, "a group that grows keeps its number"
    assert bench.segments[-1].rows <= 2

    status = os.stat(top / "a")
    (top / "a").unlink()
    (top / "a").write_text("x")
    (top / "a").chmod(0o600)
    os.utime(top / "a", ns=(status.st_mtime_ns, status.st_mtime_ns))
    bench.survey(top)
    with bench.plan() as (_, pending):
        assert {item.row.path for item in pending.again()} == {b"a", b"c", b"d/b"}, "rsync would not break the link"
    bench.sync(top)
    assert groups(bench.rows()) == groups_on_disk(top) == remote_groups(bench.remote) == {frozenset({b"c", b"d/b"})}

    (top / "c").unlink()
    bench.sync(top)
    assert groups(bench.rows()) == set()
    assert {row.link for row in bench.listed().values()} == {0}


def test_numbers_of_groups_are_never_used_twice(top: Path, bench: Bench) -> None:
    used: set[int] = set()
    for day in range(4):
        (top / f"a{day}").write_text(str(day))
        os.link(top / f"a{day}", top / f"b{day}")
        bench.sync(top)
        number = bench.rows()[b"a%d" % day].link
        assert number
        assert number not in used
        used.add(number)
        if day % 2:
            (top / f"a{day}").unlink()
            (top / f"b{day}").unlink()
            bench.sync(top)


def test_what_an_interrupted_run_left_is_deleted_though_no_manifest_knows_it(top: Path, bench: Bench) -> None:
    tree(top)
    bench.sync(top)
    with Ledger.opened(bench.directory / LEDGER_FILE) as ledger:
        ledger.doubt([Doubt(b"g", 0, 0, 1, again=False, directory=True), Doubt(b"g/h", 5, 0, 2, again=False, directory=False)])
    bench.survey(top)
    with bench.plan() as (_, pending):
        assert [item.row.path for item in pending.deletions()] == [b"g"]
        assert not pending.is_empty
        assert pending.totals().deleted == (0, 0), "it was never committed"
        assert list(pending.lines()) == []
        pending.commit("two")
    assert not bench.in_doubt()


def test_a_second_interrupted_run_makes_a_doubt_no_smaller(tmp_path: Path) -> None:
    with Ledger.opened(tmp_path / "m") as ledger:
        ledger.doubt([Doubt(b"a", 1, 1, 1, again=False, directory=True)])
        ledger.doubt([Doubt(b"a", 1, 1, 1, again=False, directory=False)])
        assert list(ledger.doubts()) == [Doubt(b"a", 1, 1, 1, again=False, directory=True)]
        ledger.doubt([Doubt(b"a", 1, 1, 2, again=False, directory=False)])
        assert list(ledger.doubts()) == [Doubt(b"a", 1, 1, 2, again=True, directory=True)]
        ledger.doubt([Doubt(b"a", 1, 1, 2, again=False, directory=False)])
        assert list(ledger.doubts()) == [Doubt(b"a", 1, 1, 2, again=True, directory=True)]
        ledger.apply([(b"a", Row(b"a", "f", 0o644))], "c")
        assert list(ledger.doubts()) == []


def test_totals_count_a_file_of_several_names_once(top: Path, bench: Bench) -> None:
    (top / "a").write_text("12345")
    os.link(top / "a", top / "b")
    (top / "c").write_text("12")
    (top / "d").mkdir()
    bench.sync(top)
    with Ledger.opened(bench.directory / LEDGER_FILE) as ledger:
        assert ledger.totals() == (5, 3, 7)


def test_inodes_beyond_63_bits_survive(tmp_path: Path) -> None:
    inode = (1 << 64) - 5
    with Ledger.opened(tmp_path / "m") as ledger:
        ledger.apply([(b"", Row(b"", "d", 0o755)), (b"a", Row(b"a", "f", 0o644, inode=inode))], "c")
        assert [row.inode for row in ledger.of_inode(inode)] == [inode]


def test_rows_can_be_taken_up_after_any_of_them(top: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pages of any size: a reader stops wherever a sync wants to write."""
    tree(top)
    for number in range(7):
        (top / "a" / "b" / f"{number}").write_text("x")
        (top / f"a-{number}").mkdir()
    bench.sync(top)
    monkeypatch.setattr("offsited.worker.ledger._PAGE", 3)
    with bench.plan() as (ledger, _):
        expected = list(ledger.rows())
        assert [row.path for row in ledger.rows_from()] == sorted(
            [row.path for row in expected], key=lambda path: (path.rpartition(b"/")[0], path)
        )
        everything = list(ledger.rows_from())
        assert len(everything) == len(expected) == len({row.path for row in everything})
        for index, row in enumerate(everything):
            assert list(ledger.rows_from(row.path)) == everything[index + 1 :], row.path
