# SPDX-License-Identifier: GPL-3.0-or-later
"""The walk and the survey on real trees: what they see, what they must not take for gone, what they leave alone."""

import base64
import errno
import fcntl
import gzip
import json
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from offsited.core.plan import Change
from offsited.errors import Internal
from offsited.worker import listing, survey
from offsited.worker.compare import recognise_renames, rename_candidates
from offsited.worker.ledger import LEDGER_FILE, Ledger
from offsited.worker.listing import BATCH, Unread
from offsited.worker.survey import Request, Told
from offsited.worker.walk import walk

from .workshop import Bench, changes, digest, program, seen, to_hash, without_capabilities, without_numbers

MOUNTING = 'mount --make-private "$(findmnt -no TARGET -T "$0")" && mount -t tmpfs tmpfs "$0" && exec "$@"'
SETFLAGS, NODUMP = 0x40086602, 0x40


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    top.mkdir()
    return top


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "state").mkdir()
    return Bench(tmp_path / "state")


def fill(top: Path) -> None:
    """Files in directories, some way down."""
    for number in range(40):
        directory = top / f"d{number % 7}" / f"e{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_text(str(number))


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_any_number_of_processes_sees_the_same(top: Path, bench: Bench, processes: int) -> None:
    fill(top)
    told = bench.survey(top, processes=processes)
    with bench.plan() as (_, pending):
        found = {item.row.path: item.row._replace(inode=0) for item in pending.select("1")}
    assert found == {path: row._replace(sha256=b"") for path, row in seen(top).items()}
    assert (told.entries, told.done) == (len(found), True)


def test_work_beyond_one_batch_is_shared(top: Path) -> None:
    for number in range(BATCH + 10):
        (top / f"{number % 50}").mkdir(exist_ok=True)
        (top / f"{number % 50}" / f"f{number}").touch()
    descriptor = os.open(top, os.O_RDONLY)
    batches = list(walk(descriptor, {}))
    assert sum(batch.entries for batch in batches) == BATCH + 61
    assert len({row.path for batch in batches for found in batch.listings for row in found.rows}) == BATCH + 61
    os.close(descriptor)


def test_nobody_waits_for_ever_for_room_in_a_pipe(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process gets its next work before its last answer was read: of long paths more than a pipe takes."""
    monkeypatch.setattr(listing, "BATCH", 100)
    above = top
    for depth in range(12):
        above /= f"{depth}".ljust(250, "-")
    for number in range(400):
        (above / f"{number}".ljust(250, "+") / "in").mkdir(parents=True)
    descriptor = os.open(top, os.O_RDONLY)
    batches = list(walk(descriptor, {}))
    assert sum(batch.entries for batch in batches) == 1 + 12 + 2 * 400
    os.close(descriptor)


def test_a_killed_process_of_the_walk_ends_it(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "BATCH", 1)
    fill(top)
    descriptor = os.open(top, os.O_RDONLY)
    batches = walk(descriptor, {})
    next(batches)
    next(batches)
    for child in _children():
        os.kill(child, signal.SIGKILL)
    with pytest.raises(Internal):
        list(batches)
    assert list(_children()) == []
    os.close(descriptor)


def test_an_abandoned_walk_leaves_no_process_and_no_directory(top: Path) -> None:
    fill(top)
    here = os.getcwd()
    descriptor = os.open(top, os.O_RDONLY)
    batches = walk(descriptor, {}, processes=3)
    next(batches)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert (list(_children()), os.getcwd()) == ([], here)
    os.close(descriptor)


def _children() -> Iterator[int]:
    """Processes of the walk: forks of this one. Other tests have other children."""
    own = Path("/proc/self/cmdline").read_bytes()
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            if Path(f"/proc/{child}/cmdline").read_bytes() == own:
                yield int(child)


def test_nothing_changed_lists_nothing(top: Path, bench: Bench) -> None:
    fill(top)
    bench.sync(top)
    told = bench.survey(top)
    assert told.changed_directories == 1, "the top's own row alone"
    assert not told.news
    with bench.plan() as (_, pending):
        assert pending.is_empty


def test_news_are_told_as_soon_as_they_are_found(top: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "BATCH", 1)
    fill(top)
    bench.sync(top)
    (top / "d3/e0/f3").write_text("another")
    lines: list[Told] = []
    survey.survey(Request(str(top), str(bench.directory)), lines.append)
    assert [line.news for line in lines] == [True, True], "the first news, and the end"
    assert not lines[0].done


def test_links_of_other_snapshots_and_ctime_are_no_change(top: Path, bench: Bench, tmp_path: Path) -> None:
    fill(top)
    bench.sync(top)
    subprocess.run(["cp", "-al", str(top), str(tmp_path / "next")], check=True)
    assert bench.sync(tmp_path / "next") == {}


@pytest.mark.parametrize("name", ["user.a", "trusted.b", "security.c"])
def test_the_value_of_an_attribute_is_seen_to_change(top: Path, bench: Bench, name: str) -> None:
    (top / "f").touch()
    os.setxattr(top / "f", name, b"\x00\xff")
    bench.sync(top)
    assert dict(bench.rows()[b"f"].xattrs)[name] == b"\x00\xff"
    os.setxattr(top / "f", name, b"\x00\xfe")
    assert changes(bench.sync(top)) == {b"f": Change.MANIFEST}
    assert dict(bench.listed()[b"f"].xattrs)[name] == b"\x00\xfe"


def test_an_acl_is_an_attribute(top: Path, bench: Bench) -> None:
    (top / "f").touch()
    # Version 2; user::rw-, user:1000:r--, group::r--, mask::r--, other::---
    entries = [(1, 6, 0xFFFFFFFF), (2, 4, 1000), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(top / "f", "system.posix_acl_access", acl)
    bench.sync(top)
    assert bench.rows()[b"f"].xattrs == (("system.posix_acl_access", acl),)
    lines = gzip.decompress((bench.directory / bench.segments[0].name).read_bytes())
    assert json.loads(lines.splitlines()[2])["xattrs"] == {"system.posix_acl_access": base64.b64encode(acl).decode()}


def test_holes_are_recorded(top: Path, bench: Bench) -> None:
    with (top / "sparse").open("wb") as file:
        file.write(b"x" * 4096)
        file.seek(1 << 20)
        file.write(b"y" * 4096)
        file.truncate(2 << 20)
    bench.sync(top)
    assert bench.rows()[b"sparse"].holes == ((4096, (1 << 20) - 4096), ((1 << 20) + 4096, (1 << 20) - 4096))


def test_flags_are_recorded_and_a_thorough_look_finds_their_change(top: Path, bench: Bench) -> None:
    (top / "f").touch()
    bench.sync(top)
    descriptor = os.open(top / "f", os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, SETFLAGS, struct.pack("=l", NODUMP))
    except OSError as error:
        pytest.skip(f"the file system of {top} has no flags: {error}")
    finally:
        os.close(descriptor)
    assert bench.sync(top) == {}, "ctime is all that tells"
    assert changes(bench.sync(top, thorough=True)) == {b"f": Change.MANIFEST}
    assert bench.rows()[b"f"].flags == "d"


def test_a_time_after_2262_is_kept_to_the_nanosecond(top: Path, bench: Bench) -> None:
    late = (1 << 63) + 123_456_789
    (top / "f").touch()
    os.utime(top / "f", ns=(0, late))
    if os.stat(top / "f").st_mtime_ns != late:
        pytest.skip("the file system has no such time")
    bench.sync(top)
    assert bench.rows()[b"f"].mtime == bench.listed()[b"f"].mtime == late
    assert bench.sync(top) == {}


def test_a_path_longer_than_the_kernel_takes_at_once(top: Path, bench: Bench) -> None:
    here = os.getcwd()
    name = "n" * 250
    os.chdir(top)
    for _ in range(20):
        os.mkdir(name)
        os.chdir(name)
    Path("f").write_text("deep")
    os.mkfifo("p")
    os.chdir(here)
    assert bench.survey(top).entries == 23
    deep = b"/".join([name.encode()] * 20)
    with bench.plan() as (_, pending):
        assert [item.row.path for item in pending.select("kind = 'p' AND carried")] == [deep + b"/p"]
        assert list(pending.unread()) == [(deep + b"/f", errno.ENAMETOOLONG)]
    shutil.rmtree(top)


def test_what_only_the_manifest_keeps_and_what_nothing_can_keep(top: Path, bench: Bench) -> None:
    deep = top.joinpath(*["a"] * 178)
    deep.mkdir(parents=True)
    (deep / "file").touch()
    os.mkfifo(deep / "pipe")
    bench.survey(top)
    path = b"/".join([b"a"] * 178)
    with bench.plan() as (_, pending):
        assert {path, path + b"/pipe"} <= {item.row.path for item in pending.carried()}
        assert list(pending.unread()) == [Unread(path + b"/file", errno.ENAMETOOLONG)]
        assert not {item.row.path for item in pending.to_send()} & {path, path + b"/file", path + b"/pipe"}
        assert path + b"/file" not in {line.path for line in pending.lines()}


def test_an_unreadable_directory_is_never_a_deletion(top: Path, bench: Bench) -> None:
    fill(top)
    bench.sync(top)
    before = bench.rows()
    (top / "d1").chmod(0)
    (top / "d2" / "e2" / "f2").chmod(0)
    (top / "d2" / "e2" / "new").touch()
    program(bench, top, *without_capabilities())
    with bench.plan() as (_, pending):
        assert list(pending.deletions()) == []
        assert list(pending.unread()) == [Unread(b"d1", errno.EACCES), Unread(b"d2/e2/f2", errno.EACCES)]
        assert not {item.row.path for item in pending.to_send()} & {b"d1", b"d2/e2/f2"}
        assert pending.totals().unreadable == 2
        pending.commit("one")
    rows = bench.rows()
    assert {path for path, row in rows.items() if row.unreadable} == {b"d1", b"d2/e2/f2"}
    assert rows.keys() == before.keys() | {b"d2/e2/new"}
    assert rows[b"d1"].mode == before[b"d1"].mode

    program(bench, top, *without_capabilities())
    with bench.plan() as (_, pending):
        assert len(list(pending.unread())) == 2
        assert list(pending.lines()) == [], "it is marked already"

    (top / "d1").chmod(0o755)
    (top / "d2" / "e2" / "f2").chmod(0o644)
    found = bench.sync(top)
    assert found[b"d1"].change == Change.MANIFEST
    assert without_numbers(bench.rows()) == seen(top)


def test_an_unreadable_new_directory_has_no_row(top: Path, bench: Bench) -> None:
    bench.sync(top)
    (top / "d").mkdir(mode=0)
    (top / "d").chmod(0)
    program(bench, top, *without_capabilities())
    with bench.plan() as (_, pending):
        assert list(pending.unread()) == [Unread(b"d", errno.EACCES)]
        assert b"d" not in {line.path for line in pending.lines()} | {item.row.path for item in pending.to_send()}


def test_a_mount_below_is_not_entered_and_not_a_deletion(top: Path, bench: Bench) -> None:
    if os.geteuid():
        pytest.skip("mounting needs root")
    fill(top)
    bench.sync(top)
    program(bench, top, "unshare", "-m", "--propagation", "unchanged", "sh", "-c", MOUNTING, str(top / "d1"))
    with bench.plan() as (_, pending):
        assert list(pending.unread()) == [Unread(b"d1", errno.EXDEV)]
        assert list(pending.deletions()) == []


def test_a_link_in_place_of_a_directory_is_not_followed(top: Path, tmp_path: Path) -> None:
    fill(top)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").touch()
    descriptor = os.open(top, os.O_RDONLY)
    batches = walk(descriptor, {}, processes=1)
    next(batches)
    (top / "d1").rename(top / "was")
    (top / "d1").symlink_to(tmp_path / "elsewhere")
    found = list(batches)
    assert not [row for batch in found for one in batch.listings for row in one.rows if b"secret" in row.path]
    os.close(descriptor)


def test_a_device_of_another_number_makes_every_hash_doubtful(top: Path, bench: Bench) -> None:
    fill(top)
    bench.sync(top)
    with Ledger.opened(bench.directory / LEDGER_FILE) as ledger, ledger.changing():
        ledger.set_fact("device", "another")
    bench.survey(top)
    files = {path for path, row in seen(top).items() if row.kind == "f"}
    with bench.plan() as (_, pending):
        assert {item.row.path for item in pending.to_compare()} == files
        assert (list(pending.to_send()), pending.is_empty) == ([], False)
    assert bench.job == 1
    bench.sync(top)
    assert bench.job == 1, "the same content: nothing to commit"
    assert bench.sync(top) == {}


def test_a_missing_top_is_said_to_be(bench: Bench, tmp_path: Path) -> None:
    assert program(bench, tmp_path / "nothing").failed == survey.UNREADABLE


def test_a_top_that_cannot_be_listed_is_no_empty_snapshot(top: Path, bench: Bench) -> None:
    fill(top)
    bench.sync(top)
    top.chmod(0o100)
    assert program(bench, top, *without_capabilities()).failed == survey.UNREADABLE


def test_a_damaged_ledger_is_said_to_be(top: Path, bench: Bench) -> None:
    (bench.directory / LEDGER_FILE).write_bytes(b"no database at all" * 100)
    assert program(bench, top).failed == survey.DAMAGED


def test_what_is_excluded_is_as_if_absent(top: Path, bench: Bench) -> None:
    fill(top)
    bench.sync(top)
    (top / "d3" / "e0" / "f24").unlink()
    patterns = "d1/", "*/e2/f2", "/d3/*", "!/d3/e1"
    found = bench.sync(top, patterns)
    assert {path for path, item in found.items() if item.change & Change.GONE and path.count(b"/") == 0} == {b"d1"}
    kept = {path for path in bench.rows() if path.startswith((b"d1", b"d3"))}
    assert kept == {b"d3", b"d3/e1", b"d3/e1/f10", b"d3/e1/f31"}
    assert b"d2/e2/f2" not in bench.rows()
    with bench.plan() as (_, pending):
        assert list(pending.excluded()) == [b"d1", b"d2/e2/f2", b"d3/e0", b"d3/e2"]
    assert bench.sync(top, patterns) == {}


def test_renames_are_recognised_by_inode_and_by_hash(top: Path, bench: Bench) -> None:
    fill(top)
    bench.sync(top)
    (top / "d1").rename(top / "moved")
    shutil.copytree(top / "d2", top / "copied", copy_function=shutil.copy2)
    shutil.rmtree(top / "d2")
    by_inode = _files(top / "moved")
    by_hash = _files(top / "copied")
    bench.survey(top)
    with bench.plan() as (_, pending):
        assert (pending.totals().renamed.entries, pending.totals().deleted.entries) == (by_inode, by_hash)
        assert {item.row.path.split(b"/")[0] for item in to_hash(pending)} == {b"copied"}
        for item in rename_candidates(pending):
            pending.set_hash(item.row.path, digest(os.fsencode(top), item.row.path))
        recognise_renames(pending)
        totals = pending.totals()
        assert (totals.renamed.entries, totals.deleted.entries, totals.added.entries) == (by_inode + by_hash, 0, 0)


def test_one_new_copy_excuses_one_that_is_gone(top: Path, bench: Bench) -> None:
    for name in ("a", "b", "c"):
        (top / name).write_text("same")
    bench.sync(top)
    (top / "a").rename(top / "new")
    (top / "b").unlink()
    (top / "c").unlink()
    bench.survey(top)
    with bench.plan() as (_, pending):
        assert (pending.totals().renamed.entries, pending.totals().deleted.entries) == (1, 2)


def _files(directory: Path) -> int:
    return sum(1 for path in directory.rglob("*") if path.is_file())


def test_what_can_be_read_again_loses_its_mark_although_nothing_else_changed(top: Path, bench: Bench) -> None:
    fill(top)
    (top / "d1").chmod(0)
    bench.sync(top)
    before = bench.rows()
    program(bench, top, *without_capabilities())
    with bench.plan() as (_, pending):
        assert [item.row.path for item in pending.select("1")] == [b"d1"]
        pending.commit("two")
    assert bench.rows()[b"d1"].unreadable
    bench.sync(top)
    assert bench.rows() == before


def test_an_inode_that_was_not_looked_into_proves_nothing_next_time(top: Path, bench: Bench) -> None:
    fill(top)
    bench.sync(top)
    file = top / "d1" / "e1" / "f1"
    status = file.stat()
    file.rename(file.with_name("kept"))
    file.write_text("9")
    os.utime(file, ns=(0, status.st_mtime_ns))
    for _ in range(2):
        bench.survey(top)
        with bench.plan() as (_, pending):
            assert [item.row.path for item in pending.to_compare()] == [b"d1/e1/f1"]
            pending.commit("without comparing")
    bench.sync(top)
    assert bench.remote.nodes[b"d1/e1/f1"].content == b"9"


def test_a_file_that_was_committed_without_a_hash_is_looked_at_again(top: Path, bench: Bench) -> None:
    (top / "f").write_text("x")
    bench.survey(top)
    with bench.plan() as (_, pending):
        pending.commit("without hashing")
    bench.survey(top)
    with bench.plan() as (_, pending):
        assert [item.row.path for item in pending.to_compare()] == [b"f"]
