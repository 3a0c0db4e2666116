# SPDX-License-Identifier: GPL-3.0-or-later
"""What a sync does with a target that is not, or may not be, as the manifest says; and what it leaves undone when nothing changed."""

import hashlib
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from offsited.core.outcome import Outcome, Reason

from .machine import Machine, done, failed, holds
from .trees import change, fill, tree

NOBODY = "echo started >&2; exit 99"


def no_tools(machine: Machine) -> None:
    """From here on neither gocryptfs nor rsync can be run."""
    machine.tool("gocryptfs", NOBODY)
    machine.tool("rsync", NOBODY)


@pytest.fixture
def synced(machine: Machine) -> Path:
    snapshot = fill(machine.snapshot("2026-11-23"))
    done(machine.sync())
    return snapshot


def content(machine: Machine) -> dict[bytes, bytes]:
    with machine.disk() as home:
        return {path: entry[4] for path, entry in tree(home / "current").items()}


def sealed_top(current: Path) -> Path:
    """The directory that holds the snapshot: the other one has no directory in it."""
    return max((path for path in current.iterdir() if path.is_dir()), key=lambda path: sum(1 for _ in path.rglob("*")))


# --- nothing changed ---------------------------------------------------------------------------------------------------


def test_nothing_changed_starts_nothing(machine: Machine, synced: Path) -> None:
    no_tools(machine)
    assert done(machine.sync()).commit == ""
    machine.copy(synced, "2026-11-24")
    done(machine.sync())
    done(machine.sync())


def test_a_directory_made_anew_by_a_snapshot_is_no_change(machine: Machine, synced: Path) -> None:
    """Its inode is another one; its time is not."""
    machine.copy(synced, "2026-11-24")
    subprocess.run(["rm", "-r", str(synced)], check=True)
    no_tools(machine)
    done(machine.sync())


@pytest.mark.parametrize("changed", ["a", "d", "."])
def test_attributes_alone_are_a_change(machine: Machine, synced: Path, changed: str) -> None:
    later = machine.copy(synced, "2026-11-24")
    (later / changed).chmod(0o700)
    no_tools(machine)
    assert machine.sync().outcome == Outcome.FAILED, "it wants to send"
    machine.settings.clear()
    done(machine.sync())
    holds(machine, later)


def test_reading_a_snapshot_leaves_no_trace(machine: Machine) -> None:
    snapshot = fill(machine.snapshot("2026-11-23"))
    files = [path for path in snapshot.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in files:
        os.utime(path, ns=(1, path.stat().st_mtime_ns))
    done(machine.sync())
    assert {path.stat().st_atime_ns for path in files} == {1}


# --- everything is compared --------------------------------------------------------------------------------------------


def test_what_a_target_has_too_much_goes_and_what_it_lacks_comes_when_everything_is_compared(machine: Machine, synced: Path) -> None:
    before = content(machine)
    with machine.disk() as home:
        top = sealed_top(home / "current")
        inner = next(path for path in sorted(top.iterdir()) if path.is_dir())
        for directory in (top, inner):
            (directory / "surplus/deep").mkdir(parents=True)
            (directory / "surplus/deep/x").write_text("x")
            (directory / os.fsdecode(b"\xff\nsurplus")).write_text("x")
            (directory / "lost+found").mkdir()
            (directory / "dangling").symlink_to("nowhere")
        lost = [path for path in sorted(top.iterdir()) if path.is_file() and path.stat().st_size]
        lost[0].unlink()
        os.truncate(lost[1], 7)
        others = {inner.name, "surplus", "lost+found"}
        shutil.rmtree(next(path for path in sorted(top.iterdir()) if path.is_dir() and path.name not in others))
    no_tools(machine)
    done(machine.sync())
    machine.settings.clear()
    done(machine.sync(reconcile=True))
    after = content(machine)
    own = {path for path in set(before) ^ set(after) if path.count(b"/") == 1}
    assert set(before) ^ set(after) == own, "but for what lies beside the snapshot"
    holds(machine, synced)


def test_what_stands_in_the_way_at_the_target_goes_when_everything_is_compared(machine: Machine, synced: Path) -> None:
    """A directory with something in it where a file should be, a file where a directory should be."""
    with machine.disk() as home:
        top = sealed_top(home / "current")
        file = next(path for path in sorted(top.iterdir()) if path.is_file() and path.stat().st_size and "gocryptfs" not in path.name)
        directory = next(path for path in sorted(top.iterdir()) if path.is_dir() and "gocryptfs" not in path.name)
        file.unlink()
        (file / "full").mkdir(parents=True)
        (file / "full/x").touch()
        shutil.rmtree(directory)
        directory.write_text("x")
    done(machine.sync(reconcile=True))
    holds(machine, synced)


def test_an_excluded_path_goes_when_everything_is_compared(machine: Machine, synced: Path) -> None:
    machine.exclude = ["gone", "l*/"]
    done(machine.sync(reconcile=True))
    subprocess.run(["rm", "-r", str(synced / "gone"), str(synced / ("l" * 200))], check=True)
    done(machine.sync())
    holds(machine, synced)


def test_everything_is_compared_again_after_the_time_that_is_set(machine: Machine, synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = machine.confirmed.reconciled
    done(machine.sync())
    assert machine.confirmed.reconciled == first
    later = first + 31 * 86_400_000_000
    for module in ("mirror", "sync"):
        monkeypatch.setattr(f"offsited.worker.{module}.now", lambda: later)
    with machine.disk() as home:
        (sealed_top(home / "current") / "surplus").touch()
    done(machine.sync(allow_older=True))
    assert machine.confirmed.reconciled == later
    assert not any(path.endswith(b"/surplus") for path in content(machine))
    holds(machine, synced)


# --- which commit lies there -------------------------------------------------------------------------------------------


def sealed_commit(machine: Machine, home: Path) -> Path:
    return home / "current" / machine.known.sealed.commit_path


def test_a_target_that_was_rolled_back_is_noticed_and_mended(machine: Machine, synced: Path) -> None:
    with machine.disk() as home:
        subprocess.run(["cp", "-a", str(home), str(machine.top / "older")], check=True)
    second = change(machine.copy(synced, "2026-11-24"))
    done(machine.sync())
    with machine.disk() as home:
        shutil.rmtree(home)
        subprocess.run(["cp", "-a", str(machine.top / "older"), str(home)], check=True)
    assert "rolled back" in done(machine.sync()).detail
    holds(machine, second)


def test_a_commit_that_is_gone_is_noticed_and_mended(machine: Machine, synced: Path) -> None:
    with machine.disk() as home:
        sealed_commit(machine, home).unlink()
        (sealed_top(home / "current") / "surplus").touch()
    assert "was gone" in done(machine.sync()).detail
    assert not any(path.endswith(b"/surplus") for path in content(machine))
    holds(machine, synced)


def test_a_target_that_was_emptied_is_filled_again(machine: Machine, synced: Path) -> None:
    with machine.disk() as home:
        shutil.rmtree(home)
    done(machine.sync())
    holds(machine, synced)


def _foreign(machine: Machine) -> None:
    """Another machine with this vault's key has committed."""
    with machine.disk() as home:
        sealed_commit(machine, home).write_bytes(os.urandom(200))


def _forgotten(machine: Machine) -> None:
    """All that this machine knew of the target is lost."""
    shutil.rmtree(machine.files.target("seed"))


def _not_recognised(machine: Machine) -> None:
    (machine.files.target("seed") / "sealed.json").unlink()


@pytest.mark.parametrize("unknown", [_foreign, _forgotten, _not_recognised])
def test_an_unknown_commit_is_refused_and_taken_over_if_told(machine: Machine, synced: Path, unknown: Callable[[Machine], None]) -> None:
    second = change(machine.copy(synced, "2026-11-24"))
    unknown(machine)
    before = content(machine)
    failed(machine.sync(), Reason.TARGET_UNKNOWN)
    assert content(machine) == before, "nothing was changed there"
    held = machine.sync(reconcile=True)
    done(machine.approve(held))  # nobody knows how much there was
    holds(machine, second)
    no_tools(machine)
    done(machine.sync())


# --- killed ------------------------------------------------------------------------------------------------------------


MOMENTS = (
    "worker.mirror.Mirror._check_view",
    "worker.mirror.Mirror._write_intent",
    "worker.mirror.Mirror._send",
    "worker.mirror.Mirror._check_snapshot",
    "worker.mirror.Mirror._make_way",
    "worker.mirror.Mirror._compare_with",
    "worker.deletion._delete_by_example",
    "worker.committing.Committing._write_segment",
    "worker.confirmed.Confirmed.announce",
    "worker.pending.Pending.commit",
    "worker.ledger.Ledger.copy",
    "worker.ledger.Ledger._index",
    "worker.confirmed.Confirmed.confirm",
    "worker.committing.Committing._tidy",
    "worker.report.Report.end",
)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_sync_that_is_killed_is_mended_by_the_next_one(machine: Machine, synced: Path, moment: str) -> None:
    """Also if it is killed again there, with yet another snapshot; the last one has everything that the first one had."""
    second = change(machine.copy(synced, "2026-11-24"))
    machine.exclude = ["d/b"]
    whole = moment.endswith("_compare_with")
    machine.killed(lambda: machine.sync(reconcile=whole), f"offsited.{moment}")
    third = machine.copy(second, "2026-11-25")
    (third / "new").unlink()
    (third / "hollow/again").write_text("again")
    machine.exclude = ["new*"]
    if not moment.endswith("_by_example"):
        machine.killed(lambda: machine.sync(reconcile=whole), f"offsited.{moment}")
    machine.exclude = []
    fourth = machine.copy(synced, "2026-11-26")
    done(machine.sync())
    holds(machine, fourth)
    with machine.disk() as home:
        assert not os.listdir(home / "partial")
    no_tools(machine)
    done(machine.sync())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_that_is_killed_at_each_of_its_transfers(machine: Machine, synced: Path, when: str) -> None:
    """One after the other, until a sync has so few that it gets to its end."""
    second = change(machine.copy(synced, "2026-11-24"))
    count = machine.top / "count"
    work = f"[ $number = $(cat {machine.top}/moment) ] && {{ kill -9 $PPID; exit 9; }}"
    real = '/usr/bin/rsync "$@"; status=$?'
    steps = f"{work}\n{real}" if when == "before" else f"{real}\n{work}"
    machine.tool("rsync", f"echo >>{count}; number=$(wc -l <{count})\n{steps}\nexit $status")
    killed = 0
    for moment in range(1, 100):
        (machine.top / "moment").write_text(str(moment))
        count.unlink(missing_ok=True)
        try:
            machine.killed(machine.sync)
        except AssertionError:
            break
        killed += 1
    assert 4 <= killed < 99
    machine.settings.clear()
    done(machine.sync())
    holds(machine, second)


@pytest.mark.parametrize("moment", ["pending.Pending.commit", "confirmed.Confirmed.confirm"])
def test_a_commit_that_arrived_counts_although_nobody_lived_to_see_it(machine: Machine, synced: Path, moment: str) -> None:
    second = change(machine.copy(synced, "2026-11-24"))
    machine.killed(machine.sync, f"offsited.worker.{moment}")
    assert machine.confirmed.snapshot == "2026-11-23"
    no_tools(machine)
    done(machine.sync())
    assert machine.confirmed.snapshot == "2026-11-24"
    machine.settings.clear()
    holds(machine, second)


def test_a_commit_that_did_not_arrive_does_not_count(machine: Machine, synced: Path) -> None:
    """It was announced here, and the transfer of it was killed."""
    second = change(machine.copy(synced, "2026-11-24"))
    machine.tool("rsync", f'[ -e {machine.files.target("seed")}/pending.json ] && {{ kill -9 $PPID; exit 9; }}; exec /usr/bin/rsync "$@"')
    machine.killed(machine.sync)
    assert (machine.files.target("seed") / "pending.json").exists()
    machine.settings.clear()
    done(machine.sync())
    assert (machine.confirmed.snapshot, machine.confirmed.job) == ("2026-11-24", 3)
    holds(machine, second)


def test_what_an_interrupted_job_sent_is_hashed_without_being_sent_again(machine: Machine) -> None:
    snapshot = fill(machine.snapshot("2026-11-23"))
    machine.killed(machine.sync, "offsited.worker.committing.Committing._write_segment")
    record = done(machine.sync())
    assert record.counts.sent_bytes == 0
    holds(machine, snapshot)


def test_what_a_killed_first_sync_left_half_written_is_cleared(machine: Machine) -> None:
    """rsync writes the files of a directory that is new to the target beside where they will stay, under names that no view has."""
    snapshot = fill(machine.snapshot("2026-11-23"))
    machine.killed(machine.sync, "offsited.worker.committing.Committing._write_segment")
    with machine.disk() as home:
        whole = next(path for path in sorted((home / "current").rglob("*")) if path.is_file() and len(path.relative_to(home).parts) > 3)
        half = whole.with_name(f".{whole.name}.hGd3Fs")
        half.write_bytes(whole.read_bytes()[:20])
    done(machine.sync())
    with machine.disk():
        assert whole.exists()
        assert not half.exists()
    holds(machine, snapshot)


def test_a_content_of_the_same_size_and_time_that_an_interrupted_job_sent_is_replaced(machine: Machine, synced: Path) -> None:
    """The target has the second snapshot's file; the manifest knows the first one's; the third is as the first."""
    second = machine.copy(synced, "2026-11-24")
    status = (second / "d/b").stat()
    text = (second / "d/b").read_bytes()
    (second / "d/b").unlink()
    (second / "d/b").write_bytes(text[::-1])
    os.utime(second / "d/b", ns=(status.st_atime_ns, status.st_mtime_ns))
    machine.killed(machine.sync, "offsited.worker.committing.Committing._write_segment")
    third = machine.copy(synced, "2026-11-25")
    done(machine.sync())
    holds(machine, third)


# --- what is kept here is damaged --------------------------------------------------------------------------------------


def _pages(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(b"\xa5" * (file.stat().st_size - 4096))


@pytest.mark.parametrize("damage", [Path.unlink, _pages, lambda file: file.write_bytes(b"x" * 9999)], ids=["lost", "pages", "garbage"])
@pytest.mark.parametrize("changes", [lambda _top: None, change], ids=["same", "changed"])
def test_a_damaged_ledger_costs_nothing_but_time(
    machine: Machine, synced: Path, changes: Callable[[Path], object], damage: Callable[[Path], object]
) -> None:
    snapshot = machine.copy(synced, "2026-11-24")
    changes(snapshot)
    damage(machine.files.target("seed") / "manifest.sqlite")
    done(machine.sync())
    holds(machine, snapshot)
    no_tools(machine)
    done(machine.sync())


@pytest.mark.parametrize("name", ["entries", "directories", "by_inode"])
def test_a_page_that_only_the_survey_comes_to(machine: Machine, synced: Path, name: str) -> None:
    """Opening the ledger and asking for its commit show nothing; and it is large enough to have pages that are not at its beginning."""
    for number in range(300):
        (synced / f"more-{number}").write_bytes(b"%d" % number)
    done(machine.sync())
    machine.damage_table(machine.files.target("seed") / "manifest.sqlite", name)
    snapshot = change(machine.copy(synced, "2026-11-24"))
    done(machine.sync())
    holds(machine, snapshot)


@pytest.mark.parametrize("options", [{}, {"reconcile": True}], ids=["changes", "everything"])
@pytest.mark.parametrize("files", ["segments/*", "manifest.sqlite segments/*"], ids=["segments", "ledger too"])
@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda file: os.truncate(file, 40), lambda file: file.write_bytes(b"x" * 99)], ids=["lost", "cut", "garbage"]
)
def test_damaged_segments_are_written_anew(
    machine: Machine, synced: Path, files: str, damage: Callable[[Path], object], options: dict[str, bool]
) -> None:
    known = machine.files.target("seed")
    for file in [file for pattern in files.split() for file in known.glob(pattern)]:
        damage(file)
    second = change(machine.copy(synced, "2026-11-24"))
    record = machine.sync(**options)
    if "manifest.sqlite" in files:
        record = machine.approve(record)  # nothing was known any more of what the target has
    done(record)
    known.rename(known.with_name("aside"))
    to = machine.top / "by the target's manifest alone"
    done(machine.restore(to))
    assert tree(to) == tree(second)
    known.with_name("aside").rename(known)
    no_tools(machine)
    done(machine.sync())


@pytest.mark.parametrize("lost", ["manifest.sqlite", "intent.jsonl.gz"])
@pytest.mark.parametrize("moment", ["committing.Committing._write_segment", "mirror.Mirror._make_way"])
def test_a_ledger_or_an_intent_that_is_lost_after_a_kill(machine: Machine, synced: Path, moment: str, lost: str) -> None:
    """What was deleted or replaced at the target is sent again, although the manifest has it."""
    second = change(machine.copy(synced, "2026-11-24"))
    (second / "d/b").unlink()
    machine.killed(machine.sync, f"offsited.worker.{moment}")
    (machine.files.target("seed") / lost).unlink()
    third = machine.copy(synced, "2026-11-25")
    done(machine.sync())
    holds(machine, third)


# --- what the view or the disk does not give ---------------------------------------------------------------------------


def dig(top: Path, name: str, levels: int) -> None:
    """Directories in each other, deeper than a path can name; a file in the last one."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT, dir_fd=here))
    os.close(here)


TOO_DEEP = [("n", 180), ("n" * 175, 18), ("n" * 250, 17), ("\udcff" * 250, 17), ('"' * 250, 17)]
DEEP = [("n", 160), ("n" * 175, 14), ("n" * 250, 14), ("\udcff" * 250, 14), ('"' * 250, 14)]


@pytest.mark.parametrize(("name", "levels"), TOO_DEEP, ids=range(len(TOO_DEEP)))
def test_a_tree_too_deep_for_the_view(machine: Machine, synced: Path, name: str, levels: int) -> None:
    """Directories are kept by the manifest alone, also past the length that the kernel takes; a file in them is said to be lost."""
    dig(synced, name, levels)
    for _ in range(2):
        record = machine.sync()
        assert (record.outcome, record.reason) == (Outcome.PARTIAL, Reason.ENTRIES_UNREADABLE), record.detail
        assert record.detail.endswith('/file"]')
    deepest = b"/".join([os.fsencode(name)] * levels)
    assert machine.manifest()[deepest].carried
    assert deepest + b"/file" not in machine.manifest()
    subprocess.run(["rm", "-r", str(synced / name)], check=True)
    done(machine.sync())
    holds(machine, synced)


@pytest.mark.parametrize(("name", "levels"), DEEP, ids=range(len(DEEP)))
def test_a_tree_just_not_too_deep_for_the_view(machine: Machine, synced: Path, name: str, levels: int) -> None:
    dig(synced, name, levels)
    done(machine.sync())
    holds(machine, synced)


def test_a_link_whose_target_is_too_long_for_the_view(machine: Machine, synced: Path) -> None:
    (synced / "long").symlink_to("t" * 3500)
    assert "manifest alone" in done(machine.sync()).detail
    holds(machine, synced)
    no_tools(machine)
    done(machine.sync())
    machine.settings.clear()
    (synced / "long").unlink()
    (synced / "long").symlink_to("short")
    done(machine.sync())
    holds(machine, synced)


@pytest.fixture
def failing_disk(
    machine: Machine, new_device: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], None]]:
    """The snapshots lie on a disk of their own; what is named has its inode damaged there, and the kernel finds it unreadable.

    It is damaged through the device, not through its image: somebody else may have the device open (udev looks at each), and what the
    kernel remembers of it then outlives an unmount.
    """
    device, point = new_device("16M"), tmp_path_factory.mktemp("failing")
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", "-O", "metadata_csum,^has_journal", device], check=True)
    mount = ["mount", device, str(point)]
    subprocess.run(mount, check=True)
    machine.snapshots = point

    def damage(path: str) -> None:
        machine.let_go()
        subprocess.run(["umount", str(point)], check=True)
        said = subprocess.run(["debugfs", "-R", f"imap {path}", device], check=True, capture_output=True, text=True).stdout
        found = re.search(r"located at block (\d+), offset (0x[0-9a-f]+)", said)
        assert found, said
        with open(device, "r+b") as opened:
            opened.seek(int(found[1]) * 1024 + int(found[2], 16) + 8)
            opened.write(b"\xff\xff\xff")
        subprocess.run(mount, check=True)
        with pytest.raises(OSError):  # noqa: PT011 - which one is the kernel's business
            os.lstat(point / path)

    yield damage
    machine.let_go()
    subprocess.run(["umount", str(point)], check=True)


@pytest.mark.parametrize("path", ["d/b", "gone", "l" * 200], ids=["file", "directory", "long name"])
def test_what_cannot_be_read_is_kept_at_the_target_and_said(machine: Machine, failing_disk: Callable[[str], None], path: str) -> None:
    """A file, a directory with all that is in it: green would be a lie, and a deletion a loss."""
    snapshot = fill(machine.snapshot("2026-11-23"))
    done(machine.sync())
    wanted = tree(snapshot)
    failing_disk(f"2026-11-23/{path}")
    (snapshot / "new").write_text("new")
    for _ in range(2):
        record = machine.sync()
        assert (record.outcome, record.reason) == (Outcome.PARTIAL, Reason.ENTRIES_UNREADABLE)
        assert f'exclude = ["/{path}"]' in record.detail
        assert machine.manifest()[path.encode()].unreadable
    to = machine.top / "restored"
    done(machine.restore(to))
    found = tree(to)
    assert {name: found[name][4] for name in wanted} == {name: entry[4] for name, entry in wanted.items()}
    assert found[b"new"][4] == b"new"


def test_the_line_that_is_shown_makes_it_green(machine: Machine, failing_disk: Callable[[str], None]) -> None:
    snapshot = fill(machine.snapshot("2026-11-23"))
    name = 'st*r? "q" [x] \\ end'
    (snapshot / "d" / name).write_text("x")
    (snapshot / "d" / "plain").write_text("x")
    os.link(snapshot / "d" / name, snapshot / "same-inode")
    failing_disk("2026-11-23/same-inode")
    record = machine.sync()
    lines = re.findall(r"exclude = .*", record.detail)
    assert len(lines) == 2
    machine.exclude = [pattern for line in lines for pattern in tomllib.loads(line)["exclude"]]
    done(machine.sync())
    assert b"d/plain" in machine.manifest()


def test_what_was_never_readable_is_not_in_the_manifest(machine: Machine, failing_disk: Callable[[str], None]) -> None:
    snapshot = fill(machine.snapshot("2026-11-23"))
    failing_disk("2026-11-23/d/b")
    assert machine.sync().reason == Reason.ENTRIES_UNREADABLE
    assert b"d/b" not in machine.manifest()
    assert machine.manifest()[b"a"].sha256 == hashlib.sha256((snapshot / "a").read_bytes()).digest()
    machine.exclude = ["/d/b"]
    done(machine.sync())


# --- what changes meanwhile --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["d/new", "d/b"])
def test_a_file_that_is_written_to_while_it_is_sent_fails_the_job(machine: Machine, synced: Path, path: str) -> None:
    """No directory shows it; its hash does."""
    second = machine.copy(synced, "2026-11-24")
    (second / path).unlink(missing_ok=True)
    (second / path).write_text("second")
    machine.tool("rsync", f'echo >>{second / path}; exec /usr/bin/rsync "$@"')
    failed(machine.sync(), Reason.SNAPSHOT_CHANGED)
    machine.settings.clear()
    done(machine.sync())
    holds(machine, second)


def test_a_directory_in_the_way_of_a_hard_link_group(machine: Machine, synced: Path) -> None:
    second = machine.copy(synced, "2026-11-24")
    subprocess.run(["rm", "-r", str(second / "gone"), str(second / "became-file")], check=True)
    (second / "gone").write_text("linked")
    os.link(second / "gone", second / "became-file")
    os.link(second / "gone", second / "hollow/third")
    done(machine.sync())
    holds(machine, second)


def test_a_directory_in_the_way_is_not_touched_if_the_snapshot_changed(machine: Machine, synced: Path) -> None:
    second = machine.copy(synced, "2026-11-24")
    subprocess.run(["rm", "-r", str(second / "gone")], check=True)
    (second / "gone").write_text("a file now")
    before = content(machine)
    machine.tool("rsync", f'/usr/bin/rsync "$@"; status=$?; touch {second}/hollow; exit $status')
    failed(machine.sync(), Reason.SNAPSHOT_CHANGED)
    assert set(before) <= set(content(machine))


# --- adopting a bare mirror ------------------------------------------------------------------------------------------


def bare_mirror(machine: Machine, snapshot: Path, into: Path) -> None:
    """What a script makes: the snapshot bound at plain/backup, gocryptfs in reverse mode, rsync."""
    plain, view = machine.top / "plain", machine.top / "script-view"
    (plain / "backup").mkdir(parents=True)
    view.mkdir()
    shutil.copy(machine.files.key_file, plain / ".gocryptfs.reverse.conf")
    subprocess.run(["mount", "--bind", str(snapshot), str(plain / "backup")], check=True)
    command = ["gocryptfs", "-q", "-nosyslog", "-reverse", "-passfile=/dev/stdin", "--", str(plain), str(view)]
    subprocess.run(command, input=machine.passphrase, check=True)
    subprocess.run(["rsync", "-aH", "--numeric-ids", "--modify-window=-1", f"{view}/", f"{into}/"], check=True)
    subprocess.run(["umount", str(view)], check=True)
    subprocess.run(["umount", str(plain / "backup")], check=True)


@pytest.mark.parametrize("where", ["home", "home/current"])
def test_a_mirror_that_a_script_made_is_adopted_and_not_sent_again(machine: Machine, where: str) -> None:
    first = fill(machine.snapshot("2026-11-22"))
    (first / "large").write_bytes(os.urandom(1_000_000))
    with machine.disk() as directory:
        (directory.parent / where).mkdir(parents=True)
        bare_mirror(machine, first, directory.parent / where)
    second = machine.copy(first, "2026-11-23")
    (second / "new").write_text("new")
    (second / "d/b").unlink()
    failed(machine.sync(), Reason.TARGET_UNOWNED)
    record = machine.sync(adopt=True, reconcile=True)
    assert record.counts.sent_entries == 1
    assert record.counts.sent_bytes == 3
    done(machine.approve(record))  # a file is gone, and nobody knows how much there was
    holds(machine, second)
    done(machine.sync())


def test_a_mirror_of_another_key_is_not_adopted(machine: Machine, key_file: Path) -> None:
    fill(machine.snapshot("2026-11-22"))
    with machine.disk() as directory:
        (directory / "current").mkdir(parents=True)
        (directory / "current/gocryptfs.conf").write_bytes(key_file.read_bytes().replace(b"Creator", b"creator"))
        (directory / "current/precious").touch()
    failed(machine.sync(adopt=True, reconcile=True), Reason.TARGET_UNOWNED)
    with machine.disk() as directory:
        assert (directory / "current/precious").exists()
