# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole jobs with the real gocryptfs, rsync and a real file system: what is proven green, and what must not be lost when it is not."""

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from offsited.core.commit import digest
from offsited.core.outcome import Outcome, Reason
from offsited.core.record import Kind
from offsited.worker.__main__ import BODIES, _function

from .machine import Machine, done, failed, holds
from .trees import change, fill, tree


def test_what_was_synced_comes_back_exactly(machine: Machine) -> None:
    snapshot = fill(machine.snapshot("2026-11-23"))
    record = done(machine.sync())
    assert (record.snapshot, record.counts.entries, record.counts.deleted_entries) == ("2026-11-23", len(tree(snapshot)) - 1, 0)
    assert re.fullmatch(r"[0-9a-f]{64}", record.commit)
    commit = (machine.files.target("seed") / "commit.json").read_bytes()
    assert digest(commit) == record.commit
    holds(machine, snapshot)


def test_the_target_follows_the_snapshots(machine: Machine) -> None:
    first = fill(machine.snapshot("2026-11-23"))
    done(machine.sync())
    second = change(machine.copy(first, "2026-11-24"))
    record = done(machine.sync())
    assert record.counts.deleted_entries > 0
    holds(machine, second)
    assert done(machine.sync()).counts.sent_bytes == 0, "nothing changed"
    holds(machine, second)


def test_nothing_in_clear_and_no_leftovers_at_the_target(machine: Machine) -> None:
    fill(machine.snapshot("2026-11-23"))
    done(machine.sync())
    with machine.disk() as home:
        assert sorted(os.listdir(home)) == ["current", "offsited.json", "partial"]
        assert not os.listdir(home / "partial")
        assert {"gocryptfs.conf", "gocryptfs.diriv"} <= set(os.listdir(home / "current"))
        names = b"\n".join(tree(home / "current"))
        assert not any(word in names for word in (b"backup", b"deep", b"hollow"))
        marker = (home / "offsited.json").read_text()
        assert machine.files.identity() in marker
        assert "home" not in marker


def test_nothing_of_a_job_stays_mounted_or_running(machine: Machine) -> None:
    fill(machine.snapshot("2026-11-23"))
    done(machine.sync())
    assert str(machine.top) not in Path("/proc/self/mountinfo").read_text()
    assert not _running(os.fsencode(machine.top))


def _running(word: bytes) -> list[bytes]:
    """Command lines with this word in them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append(entry.read_bytes())
    return [line for line in found if word in line]


def test_paths_alone_are_restored(machine: Machine) -> None:
    snapshot = fill(machine.snapshot("2026-11-23"))
    done(machine.sync())
    to = machine.top / "to"
    done(machine.restore(to, b"d/deep\0new\nline\0" + b"l" * 200 + b"\0"))
    wanted = tree(snapshot)
    found = tree(to)
    assert set(found) == {b".", b"d", b"d/deep", b"d/deep/c", b"new\nline", b"l" * 200, b"l" * 200 + b"/" + b"m" * 255}
    assert {path: entry for path, entry in found.items() if path != b"."} == {path: wanted[path] for path in found if path != b"."}


@pytest.mark.parametrize(
    ("paths", "there", "reason"),
    [(b"missing", "", Reason.PATH_NOT_IN_BACKUP), (b"a", "a", Reason.DESTINATION_OCCUPIED), (None, "a", Reason.DESTINATION_OCCUPIED)],
)
def test_a_restore_overwrites_nothing(machine: Machine, paths: bytes | None, there: str, reason: Reason) -> None:
    fill(machine.snapshot("2026-11-23"))
    done(machine.sync())
    to = machine.top / "to"
    to.mkdir()
    if there:
        (to / there).write_text("mine")
    before = tree(to)
    failed(machine.restore(to, paths), reason)
    assert tree(to) == before


def test_nothing_to_restore_yet(machine: Machine) -> None:
    failed(machine.restore(machine.top / "to"), Reason.TARGET_EMPTY)


@pytest.mark.parametrize("pattern", ["gone", "/gone/y", "d/deep", "l*"])
def test_what_is_excluded_later_goes(machine: Machine, pattern: str) -> None:
    snapshot = fill(machine.snapshot("2026-11-23"))
    done(machine.sync())
    machine.exclude = [pattern]
    done(machine.sync())
    for path in sorted(snapshot.glob(pattern.lstrip("/"))):
        subprocess.run(["rm", "-r", str(path)], check=True)
    holds_without_times(machine, snapshot)


def holds_without_times(machine: Machine, snapshot: Path) -> None:
    to = machine.top / "restored"
    done(machine.restore(to))
    assert {path: entry[4] for path, entry in tree(to).items()} == {path: entry[4] for path, entry in tree(snapshot).items()}


# --- what must not be lost -------------------------------------------------------------------------------------------


@pytest.fixture
def before(machine: Machine) -> dict[bytes, bytes]:
    """A first sync is there and a second snapshot waits; the content of every encrypted path at the target."""
    first = fill(machine.snapshot("2026-11-23"))
    done(machine.sync())
    change(machine.copy(first, "2026-11-24"))
    return content(machine)


def content(machine: Machine) -> dict[bytes, bytes]:
    with machine.disk() as home:
        return {path: entry[4] for path, entry in tree(home / "current").items()}


def nothing_was_deleted(machine: Machine, before: dict[bytes, bytes]) -> None:
    assert set(before) <= set(content(machine))


def one_clean_sync_mends_it(machine: Machine) -> None:
    machine.settings.clear()
    done(machine.sync())
    holds(machine, machine.snapshots / "2026-11-24")


@pytest.mark.parametrize("pruned", ["", "/a"])
@pytest.mark.parametrize("tool", ["mount", "rsync"])
def test_a_snapshot_that_is_pruned_meanwhile_deletes_nothing(machine: Machine, before: dict[bytes, bytes], tool: str, pruned: str) -> None:
    """While the disk is mounted, before anything was read, or later on; whole, or as far as its first entry."""
    machine.tool(tool, f'/usr/bin/{tool} "$@"; status=$?; rm -rf {machine.snapshots}/2026-11-24{pruned}; exit $status')
    failed(machine.sync(), Reason.SNAPSHOT_CHANGED)
    nothing_was_deleted(machine, before)


def test_a_snapshot_that_changes_after_it_was_sent_deletes_nothing(machine: Machine, before: dict[bytes, bytes]) -> None:
    """The last moment before the plan is made: a file appears."""
    machine.tool("rsync", f'/usr/bin/rsync "$@"; status=$?; echo x >>{machine.snapshots}/2026-11-24/hollow/late; exit $status')
    failed(machine.sync(), Reason.SNAPSHOT_CHANGED)
    nothing_was_deleted(machine, before)
    one_clean_sync_mends_it(machine)


def test_a_snapshot_that_changed_is_not_committed_even_if_there_is_nothing_to_delete(machine: Machine) -> None:
    """Green would mean that the target holds a snapshot that never was."""
    snapshot = fill(machine.snapshot("2026-11-24"))
    machine.tool("rsync", f'/usr/bin/rsync "$@"; status=$?; touch {snapshot}/hollow/$$; exit $status')
    failed(machine.sync(), Reason.SNAPSHOT_CHANGED)
    one_clean_sync_mends_it(machine)


@pytest.mark.parametrize("status", [1, 11, 23, 24])
def test_an_rsync_that_fails_deletes_nothing(machine: Machine, before: dict[bytes, bytes], status: int) -> None:
    machine.tool("rsync", f'/usr/bin/rsync "$@" && exit {status}')
    assert machine.sync().outcome == Outcome.FAILED
    nothing_was_deleted(machine, before)
    one_clean_sync_mends_it(machine)


@pytest.mark.parametrize("moment", range(1, 5))
def test_an_rsync_that_is_killed_at_any_of_its_runs(machine: Machine, before: dict[bytes, bytes], moment: int) -> None:
    """The runs of one sync, one after the other; after each, one clean sync makes all good."""
    count = machine.top / "count"
    machine.tool("rsync", f'echo >>{count}; [ $(wc -l <{count}) = {moment} ] && kill -9 $$; exec /usr/bin/rsync "$@"')
    record = machine.sync()
    if record.outcome == Outcome.DONE:
        assert len(count.read_text()) < moment or record.detail, "a failure that went unseen"
    one_clean_sync_mends_it(machine)
    assert before


def test_a_gocryptfs_that_dies_meanwhile_deletes_nothing(machine: Machine, before: dict[bytes, bytes]) -> None:
    pid = machine.top / "pid"
    machine.tool("gocryptfs", f'echo $$ >{pid}; exec /usr/bin/gocryptfs "$@"')
    machine.tool("rsync", f'kill -9 $(cat {pid}); exec /usr/bin/rsync "$@"')
    # The tool that looks at a target runs before the view is there: its own kill finds nobody.
    assert machine.sync().reason in {Reason.VIEW_DIED, Reason.VIEW_WRONG, Reason.GOCRYPTFS_FAILED}
    nothing_was_deleted(machine, before)
    one_clean_sync_mends_it(machine)


def test_a_target_that_is_full_keeps_what_it_has(machine: Machine, before: dict[bytes, bytes]) -> None:
    (machine.snapshots / "2026-11-24/big").write_bytes(os.urandom(40 * 2**20))
    failed(machine.sync(), Reason.TARGET_FULL)
    nothing_was_deleted(machine, before)
    (machine.snapshots / "2026-11-24/big").unlink()
    one_clean_sync_mends_it(machine)


def test_a_job_that_is_canceled_says_so(machine: Machine, before: dict[bytes, bytes]) -> None:
    machine.tool("rsync", f"kill -TERM {os.getpid()}; exec sleep 1000")
    record = machine.sync()
    assert (record.outcome, record.reason) == (Outcome.CANCELED, Reason.CANCELED)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nothing_was_deleted(machine, before)
    one_clean_sync_mends_it(machine)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_an_older_snapshot_only_if_told(machine: Machine) -> None:
    old = fill(machine.snapshot("2026-11-23"))
    machine.copy(old, "2026-11-24")
    done(machine.sync())
    (machine.snapshots / "lastdst").write_text(str(old))
    failed(machine.sync(), Reason.SNAPSHOT_OLDER)
    done(machine.sync(allow_older=True))
    holds(machine, old)


@pytest.mark.parametrize(("passphrase", "reason"), [(b"wrong", Reason.WRONG_PASSPHRASE), (b"", Reason.LOCKED)])
def test_a_passphrase_that_does_not_open_it(machine: Machine, passphrase: bytes, reason: Reason) -> None:
    fill(machine.snapshot("2026-11-23"))
    machine.passphrase = passphrase
    failed(machine.sync(), reason)
    with machine.disk() as home:
        assert not home.exists(), "nothing was changed there"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("offsited.json", '{"format": 1, "vault": "another"}', Reason.TARGET_FOREIGN),
        ("offsited.json", "not json", Reason.TARGET_DAMAGED),
        ("photo.jpg", "mine", Reason.TARGET_UNOWNED),
        ("current/x", "mine", Reason.TARGET_UNOWNED),
    ],
)
def test_a_directory_that_is_not_ours_is_left_alone(machine: Machine, name: str, text: str, reason: Reason) -> None:
    fill(machine.snapshot("2026-11-23"))
    with machine.disk() as home:
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(text)
        mine = tree(home)
    failed(machine.sync(), reason)
    with machine.disk() as home:
        assert tree(home) == mine


def test_a_directory_behind_a_link_is_not_taken(machine: Machine) -> None:
    fill(machine.snapshot("2026-11-23"))
    with machine.disk() as home:
        home.symlink_to("/etc")
    assert machine.sync().outcome == Outcome.FAILED


def test_a_disk_that_is_not_there(machine: Machine) -> None:
    fill(machine.snapshot("2026-11-23"))
    kept, machine.device = machine.device, "/dev/no-such-disk"
    failed(machine.sync(), Reason.TARGET_ABSENT)
    machine.device = kept


def test_a_disk_that_is_written_protected(machine: Machine) -> None:
    fill(machine.snapshot("2026-11-23"))
    subprocess.run(["blockdev", "--setro", machine.device], check=True)
    try:
        failed(machine.sync(), Reason.TARGET_READ_ONLY)
    finally:
        subprocess.run(["blockdev", "--setrw", machine.device], check=True)


@pytest.mark.parametrize(("tool", "reason"), [("gocryptfs", Reason.GOCRYPTFS_MISSING), ("mount", Reason.CONFIG_INVALID)])
def test_a_tool_that_is_not_there(machine: Machine, tool: str, reason: Reason) -> None:
    fill(machine.snapshot("2026-11-23"))
    machine.settings[tool] = "/nowhere/x"
    failed(machine.sync(), reason)


def test_a_commit_that_is_not_the_one_confirmed_is_noticed(machine: Machine) -> None:
    """The disk was rolled back, say: everything is compared anew, and the target is right again."""
    first = fill(machine.snapshot("2026-11-23"))
    done(machine.sync())
    image = machine.top / "disk-0"
    rolled = image.read_bytes()
    second = change(machine.copy(first, "2026-11-24"))
    done(machine.sync())
    # In place: a loop device that is let go may be another's by the time it is asked for again.
    with image.open("r+b") as file:
        file.write(rolled)
    subprocess.run(["blockdev", "--flushbufs", machine.device], check=True)
    assert done(machine.sync()).detail
    holds(machine, second)


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_of_job_has_a_function(kind: Kind) -> None:
    assert callable(_function(BODIES[kind]))
