# SPDX-License-Identifier: GPL-3.0-or-later
"""Running rsync, with the real one: that its commands do what core.rsync says, and that what it prints is read rightly."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from offsited.core import config, rsync
from offsited.core.outcome import Reason
from offsited.core.progress import Phase, Progress
from offsited.core.rsync import Place
from offsited.core.rsync_output import Topmost, obstacles, parse_listed
from offsited.errors import JobFailed
from offsited.worker import gauge as gauging
from offsited.worker import transfer
from offsited.worker.gauge import Gauge
from offsited.worker.transfer import TransferFailed, Transfers

from .conftest import TOOLS, run

NAMES = (
    b"plain",
    b"a b",
    b"\xc3\xa4",
    b"\xff\xfe",
    b"new\nline",
    b"back\\slash",
    b"\\#012",
    b"-dash",
    b"cr\rx",
    b"#",
    b"*",
    b"[a]",
    b"\x7f\x01",
)
"""Names of ordinary and of strange files."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="setpriv can drop capabilities only for root")
pytestmark = needs_root


@dataclass(frozen=True)
class Sides:
    """A tree to send, and a target on this machine."""

    view: Path
    place: Place
    current: Path


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    target = tmp_path / "target"
    view = tmp_path / "view" / "current"
    for directory in (view, target / "current", target / "partial"):
        directory.mkdir(parents=True)
    place = Place(str(target), str(target), capabilities=rsync.WRITING_FILES)
    return Sides(view, place, target / "current")


def make(top: Path, *paths: bytes | str) -> None:
    for path in paths:
        full = os.fsencode(top) + b"/" + os.fsencode(path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        if full.endswith(b"/"):
            os.makedirs(full, exist_ok=True)
        else:
            Path(os.fsdecode(full)).write_bytes(b"content of " + os.fsencode(path))


def tree(top: Path) -> dict[bytes, tuple[int, int, bytes]]:
    """Every entry with mode, mtime in ns, and content."""
    found = {}
    for directory, directories, names in os.walk(os.fsencode(top)):
        for name in (*directories, *names):
            path = directory + b"/" + name
            status = os.lstat(path)
            content = Path(os.fsdecode(path)).read_bytes() if name in names and os.path.isfile(path) else b""
            found[os.path.relpath(path, os.fsencode(top))] = (status.st_mode, status.st_mtime_ns, content)
    return found


@pytest.fixture(params=[rsync.ARGUMENTS_MAX, 0], ids=["arguments", "file"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a command line or in a file: each test of what a list does."""
    monkeypatch.setattr(rsync, "ARGUMENTS_MAX", request.param)


by_list = pytest.mark.usefixtures("way")


def listed_all(transfers: Transfers, sides: Sides, without: bytes = b"NOTHING") -> rsync.Listed:
    """A list of everything in the view but for one directory."""
    paths = sorted(path for path in tree(sides.view) if not path.startswith(without))
    return transfers.listed(paths)


def send(transfers: Transfers, sides: Sides, without: bytes = b"NOTHING") -> None:
    command = rsync.send_listed(TOOLS.rsync, sides.view, sides.place, listed_all(transfers, sides, without))
    run(transfers.counted(command, Gauge(transfers.report, Progress(Phase.SENDING)), capabilities=sides.place.capabilities))


def listed_there(transfers: Transfers, sides: Sides) -> list[bytes]:
    """What rsync lists of the target."""
    lines: list[bytes] = []
    run(transfers.run([TOOLS.rsync, "-r", "--list-only", sides.place.current], on_line=lines.append))
    return [path for line in lines if (path := parse_listed(line)) not in {None, b"."}]  # type: ignore[misc]


@by_list
def test_a_tree_arrives_and_nothing_goes(transfers: Transfers, sides: Sides) -> None:
    make(sides.view, *NAMES, "d/x", "d/y", "OFF/secret")
    make(sides.current, "old", "d/old")
    send(transfers, sides, without=b"OFF")
    sent = {path: entry for path, entry in tree(sides.view).items() if not path.startswith(b"OFF")}
    found = tree(sides.current)
    assert {path for path in found if path not in sent} == {b"old", b"d/old"}
    assert {path: entry for path, entry in found.items() if path in sent and path != b"d"} == {p: e for p, e in sent.items() if p != b"d"}
    assert transfers.tally.sent_entries == 2, "what is at the top holds the snapshot, and is none of its entries"
    assert transfers.tally.deleted == []
    assert transfers.tally.wire_bytes > 0


def test_a_change_of_the_same_size_within_a_second_is_sent(transfers: Transfers, sides: Sides) -> None:
    make(sides.view, "f")
    os.utime(sides.view / "f", ns=(0, 1_700_000_000_000_000_000))
    send(transfers, sides)
    (sides.view / "f").write_bytes(b"CONTENT OF f")
    os.utime(sides.view / "f", ns=(0, 1_700_000_000_000_000_001))
    send(transfers, sides)
    assert (sides.current / "f").read_bytes() == b"CONTENT OF f"


def test_owners_modes_links_and_nodes_are_kept(transfers: Transfers, sides: Sides) -> None:
    make(sides.view, "f", "d/")
    os.link(sides.view / "f", sides.view / "hard")
    (sides.view / "soft").symlink_to("nowhere")
    os.mkfifo(sides.view / "fifo")
    os.mknod(sides.view / "null", 0o20666, os.makedev(1, 3))
    os.chown(sides.view / "f", 4_294_967_294, 12345)
    (sides.view / "f").chmod(0o6755)
    os.utime(sides.view / "d", ns=(0, 123_456_789_012_345_678))
    send(transfers, sides)
    status = (sides.current / "f").lstat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777, status.st_nlink) == (4_294_967_294, 12345, 0o6755, 2)
    assert os.readlink(sides.current / "soft") == "nowhere"
    assert (sides.current / "null").lstat().st_rdev == os.makedev(1, 3)
    assert (sides.current / "fifo").is_fifo()
    assert (sides.current / "d").stat().st_mtime_ns == 123_456_789_012_345_678


def test_a_listing_names_everything_that_is_there(transfers: Transfers, sides: Sides) -> None:
    make(sides.current, "keep", "both/keep", *(b"both/" + name for name in NAMES), "gone/a/b", "gone/c")
    (sides.current / "link").symlink_to("no -> where")
    before = tree(sides.current)
    found = listed_there(transfers, sides)
    assert sorted(found) == sorted(before)
    surplus = Topmost()
    for path in found:
        if not path.startswith(b"both"):
            surplus.add(path)
    assert surplus.paths == {b"keep", b"gone", b"link"}
    assert tree(sides.current) == before, "a listing changes nothing"


@by_list
def test_a_list_is_deleted_and_nothing_else(transfers: Transfers, sides: Sides) -> None:
    make(sides.view, "keep", "both/keep")
    make(sides.current, "keep", "both/keep", *(b"both/" + name for name in NAMES), "gone/a/b", "unlisted/x")
    send(transfers, sides)
    listed = transfers.listed([*(b"both/" + name for name in NAMES), b"gone"])
    run(
        transfers.counted(
            rsync.delete_listed(TOOLS.rsync, sides.view, sides.place, listed),
            Gauge(transfers.report, Progress(Phase.DELETING)),
            capabilities=rsync.WRITING_FILES,
        )
    )
    assert set(tree(sides.current)) == {b"keep", b"both", b"both/keep", b"unlisted", b"unlisted/x"}
    assert (sides.current / "both").stat().st_mtime_ns == (sides.view / "both").stat().st_mtime_ns
    assert {path.rstrip(b"/") for path in transfers.tally.deleted} >= {b"gone", b"both/plain"}


@by_list
def test_what_the_view_has_is_not_deleted_even_if_listed(transfers: Transfers, sides: Sides) -> None:
    make(sides.view, "keep", "d/keep")
    send(transfers, sides)
    listed = transfers.listed([b"keep", b"d"])
    run(transfers.run(rsync.delete_listed(TOOLS.rsync, sides.view, sides.place, listed)))
    assert set(tree(sides.current)) == {b"keep", b"d", b"d/keep"}


def test_what_is_constant_gets_its_time_and_is_not_sent_again(transfers: Transfers, sides: Sides) -> None:
    """A content that a path determines is what it was, if it is as long."""
    make(sides.view, "d/iv", "d/new")
    make(sides.current, "d/iv")
    (sides.current / "d/iv").write_bytes(b"CONTENT OF d/iv")
    command = rsync.send_listed(TOOLS.rsync, sides.view, sides.place, [b"d/iv", b"d/new"], constant=True)
    run(transfers.run(command, capabilities=sides.place.capabilities))
    assert (sides.current / "d/iv").read_bytes() == b"CONTENT OF d/iv"
    assert (sides.current / "d/new").read_bytes() == b"content of d/new"
    assert (sides.current / "d/iv").stat().st_mtime_ns == (sides.view / "d/iv").stat().st_mtime_ns
    assert (sides.current / "d").stat().st_mtime_ns == (sides.view / "d").stat().st_mtime_ns


def test_as_many_paths_as_are_let_into_a_command_line(transfers: Transfers, sides: Sides) -> None:
    """The kernel takes them all, long ones and short ones."""
    for length in (1, 10, 255):
        count = rsync.ARGUMENTS_MAX // rsync.argument(length)
        listed = transfers.listed([b"d" * length] * count)
        assert not isinstance(listed, Path)
        assert isinstance(transfers.listed([b"d" * length] * (count + 1)), Path)
        (sides.view / ("d" * length)).touch()
        run(transfers.run(rsync.send_listed(TOOLS.rsync, sides.view, sides.place, listed), capabilities=sides.place.capabilities))
        assert (sides.current / ("d" * length)).exists()


def test_deleting_by_example(transfers: Transfers, sides: Sides, tmp_path: Path) -> None:
    make(sides.current, "d/gone/x", "d/keep", "keep")
    make(tmp_path / "example", "d/")
    listed = transfers.list_file([b"d/gone"])
    run(
        transfers.counted(
            rsync.delete_by_example(TOOLS.rsync, tmp_path / "example", sides.place, listed),
            Gauge(transfers.report, Progress()),
            capabilities=(),
        )
    )
    assert set(tree(sides.current)) == {b"d", b"d/keep", b"keep"}


@by_list
def test_a_directory_that_stands_in_the_way(transfers: Transfers, sides: Sides) -> None:
    """Sending leaves it alone and says so; replacing takes the listed one alone."""
    make(sides.view, b"\xff way", "other")
    make(sides.current, b"\xff way/full", "unlisted/full")
    with pytest.raises(TransferFailed) as caught:
        send(transfers, sides)
    assert obstacles(caught.value.complaints) == ([rsync.in_target(b"\xff way")], True)
    assert (sides.current / os.fsdecode(b"\xff way") / "full").exists()
    listed = transfers.listed([b"\xff way"])
    run(transfers.run(rsync.send_listed(TOOLS.rsync, sides.view, sides.place, listed, force=True), capabilities=rsync.WRITING_FILES))
    assert (sides.current / os.fsdecode(b"\xff way")).is_file()
    assert (sides.current / "unlisted/full").exists()


@by_list
def test_an_empty_list_sends_nothing(transfers: Transfers, sides: Sides) -> None:
    make(sides.view, "x")
    run(transfers.run(rsync.send_listed(TOOLS.rsync, sides.view, sides.place, transfers.listed([]))))
    assert tree(sides.current) == {}


@by_list
def test_what_is_listed_and_not_there_is_a_failure_that_leaves_the_target_alone(transfers: Transfers, sides: Sides) -> None:
    make(sides.view, "d/x")
    make(sides.current, "d/gone")
    command = rsync.send_listed(TOOLS.rsync, sides.view, sides.place, transfers.listed([b"d", b"d/gone", b"d/x"]))
    with pytest.raises(TransferFailed) as caught:
        run(transfers.run(command, capabilities=sides.place.capabilities))
    assert caught.value.reason == Reason.RSYNC_PARTIAL
    assert set(tree(sides.current)) == {b"d", b"d/gone", b"d/x"}


def test_what_looks_unchanged_is_sent_again_only_if_told(transfers: Transfers, sides: Sides) -> None:
    make(sides.view, "f")
    send(transfers, sides)
    when = (sides.view / "f").stat().st_mtime_ns
    (sides.view / "f").write_bytes(b"CONTENT OF f")
    os.utime(sides.view / "f", ns=(when, when))
    send(transfers, sides)
    assert (sides.current / "f").read_bytes() == b"content of f"
    command = rsync.send_listed(TOOLS.rsync, sides.view, sides.place, transfers.listed([b"f"]), again=True)
    run(transfers.run(command, capabilities=sides.place.capabilities))
    assert (sides.current / "f").read_bytes() == b"CONTENT OF f"


def test_what_is_fetched_by_list(transfers: Transfers, sides: Sides, tmp_path: Path) -> None:
    """Content alone: nothing below what was not asked for, no link, and nothing of what is not there."""
    make(sides.current, "d/x", "d/y", "e/z")
    (sides.current / "d/x").chmod(0o4777)
    (sides.current / "link").symlink_to("/etc/passwd")
    (tmp_path / "into").mkdir()
    listed = transfers.list_file([b"current/d/x", b"current/missing", b"current/link", b"current/e"])
    command = rsync.fetch_listed(TOOLS.rsync, sides.place, listed, f"{tmp_path}/into/")
    run(transfers.run(command, capabilities=rsync.WRITING_FILES))
    assert set(tree(tmp_path / "into")) == {b"current", b"current/d", b"current/d/x", b"current/e"}
    assert (tmp_path / "into/current/d/x").read_bytes() == b"content of d/x"
    assert not (tmp_path / "into/current/d/x").stat().st_mode & 0o7000


def test_partial_is_cleared_and_the_mirror_is_not(transfers: Transfers, sides: Sides, tmp_path: Path) -> None:
    make(sides.current, "x")
    make(sides.current.parent / "partial", "half", "d/half")
    (tmp_path / "nothing").mkdir()
    run(transfers.run(rsync.empty_partial(TOOLS.rsync, tmp_path / "nothing", sides.place)))
    assert not list((sides.current.parent / "partial").iterdir())
    assert (sides.current / "x").exists()


def test_small_files_are_fetched_and_big_ones_are_not(transfers: Transfers, sides: Sides, tmp_path: Path) -> None:
    target = sides.current.parent
    (target / "marker").write_text("x")
    (target / "big").write_bytes(bytes(2**20 + 1))
    (target / "link").symlink_to("/etc/passwd")
    make(sides.current, "a/b", "a/c")
    listed = transfers.list_file([b"marker", b"big", b"missing", b"link", b"current", b"current/a/b", b"current/no/b"])
    into = tmp_path / "into"
    into.mkdir()
    run(transfers.run(rsync.get_small(TOOLS.rsync, sides.place, listed, into)))
    assert set(tree(into)) == {b"marker", b"current", b"current/a", b"current/a/b"}


def test_a_target_that_is_not_there_is_absent_not_empty(transfers: Transfers, sides: Sides, tmp_path: Path) -> None:
    place = replace(sides.place, location=f"{tmp_path}/missing")
    with pytest.raises(TransferFailed) as caught:
        run(transfers.run(rsync.list_top(TOOLS.rsync, place)))
    assert rsync.says_absent(caught.value.complaints)


@pytest.mark.parametrize(
    ("status", "reason"), [(1, Reason.RSYNC_FAILED), (23, Reason.RSYNC_PARTIAL), (24, Reason.SNAPSHOT_CHANGED), (25, Reason.RSYNC_FAILED)]
)
def test_nothing_but_0_is_success(transfers: Transfers, status: int, reason: Reason) -> None:
    with pytest.raises(TransferFailed) as caught:
        run(transfers.run(["/bin/sh", "-c", f"echo why >&2; exit {status}"]))
    assert (caught.value.reason, caught.value.status) == (reason, status)
    assert "why" in caught.value.detail


def test_a_full_target_is_called_full(transfers: Transfers, sides: Sides, tmpfs: Callable[[str, str], Path]) -> None:
    small = tmpfs("small", "size=200k")
    make(small, "current/", "partial/")
    (sides.view / "big").write_bytes(os.urandom(2**20))
    place = Place(str(small), str(small), capabilities=rsync.WRITING_FILES)
    with pytest.raises(TransferFailed) as caught:
        send(transfers, replace(sides, place=place))
    assert caught.value.reason == Reason.TARGET_FULL


def test_a_read_only_target_is_called_read_only(transfers: Transfers, sides: Sides, tmpfs: Callable[[str, str], Path]) -> None:
    disk = tmpfs("ro", "size=200k")
    make(disk, "current/", "partial/")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    make(sides.view, "f")
    with pytest.raises(TransferFailed) as caught:
        send(transfers, replace(sides, place=Place(str(disk), str(disk))))
    assert caught.value.reason == Reason.TARGET_READ_ONLY


def test_a_host_that_cannot_be_reached(transfers: Transfers, sides: Sides) -> None:
    shell = "--rsh=ssh -F none -oBatchMode=yes -oStrictHostKeyChecking=yes -p 1"
    place = Place("127.0.0.1:/x", "/x", (shell,))
    with pytest.raises(TransferFailed) as caught:
        run(transfers.run(rsync.list_top(TOOLS.rsync, place)))
    assert (caught.value.reason, caught.value.meaning.transient) == (Reason.TARGET_UNREACHABLE, True)


@pytest.mark.parametrize(
    ("capabilities", "mask"), [((), 0), (("chown", "mknod"), 1 | 1 << 27), (rsync.WRITING_FILES, 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 27)]
)
def test_rsync_runs_as_root_with_these_capabilities_alone(transfers: Transfers, capabilities: tuple[str, ...], mask: int) -> None:
    lines: list[bytes] = []
    run(transfers.run(["/bin/cat", "/proc/self/status"], capabilities=capabilities, on_line=lines.append))
    fields = dict(line.split(b":\t", 1) for line in lines if b":\t" in line)
    for name in (b"CapPrm", b"CapEff", b"CapBnd"):
        assert int(fields[name], 16) == mask
    assert (int(fields[b"CapInh"], 16), int(fields[b"CapAmb"], 16), fields[b"NoNewPrivs"]) == (0, 0, b"1")
    assert fields[b"Uid"].split()[0] == b"0"


@pytest.mark.parametrize("tool", ["rsync", "setpriv"])
def test_a_program_that_is_not_there(transfers: Transfers, tool: str) -> None:
    missing = replace(transfers, tools=config.Tools.model_validate({tool: "/nowhere/x"}))
    with pytest.raises(JobFailed) as caught:
        run(missing.run([missing.tools.rsync, "--version"]))
    assert caught.value.reason == Reason.RSYNC_MISSING


@pytest.mark.parametrize("running", [True, False])
@by_list
def test_progress_follows_what_rsync_says(transfers: Transfers, sides: Sides, monkeypatch: pytest.MonkeyPatch, *, running: bool) -> None:
    told: list[Progress] = []
    monkeypatch.setattr(transfers.report, "progress", told.append)
    monkeypatch.setattr(gauging, "_EVERY", 0)
    make(sides.view, *(f"d/f{number}" for number in range(50)))
    start = Progress(Phase.SENDING, bytes_total=999, entries_total=51)
    command = rsync.send_listed(TOOLS.rsync, sides.view, sides.place, listed_all(transfers, sides), running=running)
    run(transfers.counted(command, Gauge(transfers.report, start), capabilities=rsync.WRITING_FILES))
    assert told[0] == start
    size = sum(len(content) for _, _, content in tree(sides.view).values())
    assert (told[-1].bytes_done, told[-1].entries_done, told[-1].bytes_total) == (
        size,
        54 if running else 52,
        999,
    )  # the tops of target and mirror come along unchanged
    assert (transfers.tally.sent_entries, transfers.tally.sent_bytes) == (50, 0), (
        "of an encrypted tree, files of up to 50 bytes hold nothing"
    )


AT_ONCE = (0.0,) * len(transfer.PAUSES)


def test_what_may_pass_is_tried_again() -> None:
    tries: list[int] = []

    async def attempt() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise TransferFailed(30, "")
        return "done"

    assert run(transfer.patiently(attempt, AT_ONCE)) == "done"
    assert len(tries) == 3


@pytest.mark.parametrize(("status", "tries"), [(23, 1), (24, 1), (11, 1), (-9, 1), (30, 3), (12, 3), (255, 3)])
def test_what_cannot_pass_is_not(status: int, tries: int) -> None:
    tried: list[int] = []

    async def attempt() -> None:
        tried.append(1)
        raise TransferFailed(status, "")

    with pytest.raises(TransferFailed):
        run(transfer.patiently(attempt, AT_ONCE))
    assert len(tried) == tries


@pytest.mark.parametrize(("long", "tries"), [(3600.0, 3), (0.0, 10)])
def test_an_attempt_that_got_somewhere_has_earned_all_tries_anew(monkeypatch: pytest.MonkeyPatch, long: float, tries: int) -> None:
    """`long` = 0: each of them did."""
    monkeypatch.setattr(transfer, "LONG", long)
    tried: list[int] = []

    async def attempt() -> None:
        tried.append(1)
        if len(tried) < 10:
            raise TransferFailed(30, "")

    if tries < 10:
        with pytest.raises(TransferFailed):
            run(transfer.patiently(attempt, AT_ONCE))
    else:
        run(transfer.patiently(attempt, AT_ONCE))
    assert len(tried) == tries


def test_it_is_not_tried_for_longer_than_enough() -> None:
    tried: list[int] = []

    async def attempt() -> None:
        tried.append(1)
        raise TransferFailed(30, "")

    with pytest.raises(TransferFailed):
        run(transfer.patiently(attempt, AT_ONCE, enough=-1.0))
    assert len(tried) == 1


def test_each_list_is_a_file_of_its_own_for_root_alone(transfers: Transfers) -> None:
    first, second = transfers.list_file([b"a", b"\xff\n"]), transfers.list_file([])
    assert first != second
    assert (first.read_bytes(), second.read_bytes()) == (b"a\0\xff\n\0", b"")
    assert first.stat().st_mode & 0o077 == 0


def test_a_gauge_shows_what_runs_and_what_is_done(transfers: Transfers, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an attempt told goes with it: the next one tells it again."""
    told: list[Progress] = []
    monkeypatch.setattr(transfers.report, "progress", told.append)
    monkeypatch.setattr(gauging, "_EVERY", 0)
    gauge = Gauge(transfers.report, Progress(Phase.SENDING, bytes_total=100, entries_total=10))
    with gauge.transfer() as first:
        first(10, 1)
        with gauge.transfer() as second:
            second(5, 2)
            assert (told[-1].bytes_done, told[-1].entries_done) == (15, 3)
        gauge.advance(6, 2)
        assert (told[-1].bytes_done, told[-1].entries_done) == (16, 3)
        first(20, 4)
    assert (told[-1].bytes_done, told[-1].entries_done) == (26, 6)
    gauge.advance(20, 4)
    assert told[-1] == Progress(Phase.SENDING, 26, 100, 6, 10)
