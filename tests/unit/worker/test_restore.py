# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole restores with the real gocryptfs and rsync: what comes back equals the manifest in everything, or is listed."""

import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from offsited.core import gocryptfs
from offsited.core.outcome import Outcome, Reason
from offsited.core.progress import Phase, Progress
from offsited.core.record import JobRecord
from offsited.worker import rebuilding
from offsited.worker.destination import SCRATCH
from offsited.worker.report import Report
from offsited.worker.view import View

from .machine import Machine, done, failed
from .trees import fill, flags, more, tree

IMMUTABLE, APPEND, NODUMP = 0x10, 0x20, 0x40
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
"""capabilities(7): cap_net_bind_service, permitted and effective."""
MIB = 1 << 20


def acl(*entries: tuple[int, int, int]) -> bytes:
    """acl(5) as Linux keeps it: tag, permissions, id of each entry."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)


ANYBODY = 0xFFFFFFFF
ACL = acl((0x01, 6, ANYBODY), (0x02, 4, 1234), (0x04, 4, ANYBODY), (0x10, 4, ANYBODY), (0x20, 0, ANYBODY))


def furnish(top: Path) -> Path:
    """Everything that an entry can have and the encrypted tree cannot keep."""
    fill(top)
    (top / "capable").write_bytes(b"\x7fELF")
    os.setxattr(top / "capable", "security.capability", CAPABILITY)
    os.setxattr(top / "d/b", "user.comment", b"\0\xff")
    os.setxattr(top / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(top / "d/deep", "system.posix_acl_default", ACL)
    os.setxattr(top / "d/deep/c", "system.posix_acl_access", ACL)
    os.setxattr(top / "hollow", "user.empty", b"")
    os.symlink("x" * 3500, top / "long-link")
    os.lchown(top / "soft", 1234, 5678)
    os.utime(top / "soft", ns=(5, 1_234_567_890_123_456_789), follow_symlinks=False)
    os.mknod(top / "null", 0o20666, os.makedev(1, 3))
    os.mknod(top / "loop", 0o60660, os.makedev(7, 300))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(top / "socket"))
    with (top / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(3 * MIB)
        file.write(b"middle" * 1000)
        file.truncate(8 * MIB)
    os.truncate(os.open(top / "all-hole", os.O_CREAT | os.O_WRONLY), 5 * MIB)
    os.utime(top / "old", ns=(-(10**18), -(10**18))) if (top / "old").write_text("before 1970") else None
    (top / "immutable-directory").mkdir()
    (top / "immutable-directory/x").write_text("x")
    for path, bits in (("a", NODUMP), ("d/deep/c", IMMUTABLE), ("empty", APPEND), ("immutable-directory", IMMUTABLE)):
        flags(top / path, bits)
    return top


@pytest.fixture
def furnished(machine: Machine) -> Iterator[Path]:
    """A snapshot with all of it, synced."""
    snapshot = furnish(machine.snapshot("2026-11-23"))
    done(machine.sync())
    yield snapshot
    subprocess.run(["chattr", "-R", "-f", "-ia", str(machine.top)], check=False, capture_output=True)


def same(to: Path, snapshot: Path) -> None:
    assert SCRATCH not in os.listdir(to)
    assert tree(to) == tree(snapshot)
    assert more(to) == more(snapshot)


def different(record: JobRecord, *paths: str) -> list[str]:
    """The restore came to its end, and said of these paths alone that they are not as they should be."""
    assert (record.outcome, record.reason) == (Outcome.PARTIAL, Reason.RESTORED_DIFFERENT), record.detail
    lines = [line for line in record.detail.splitlines() if ": " in line]
    assert {line.partition(": ")[0] for line in lines} == set(paths)
    return lines


# --- what comes back -----------------------------------------------------------------------------------------------------


def test_everything_comes_back(machine: Machine, furnished: Path) -> None:
    to = machine.top / "to"
    done(machine.restore(to))
    same(to, furnished)


@pytest.mark.usefixtures("furnished")
def test_large_files_go_to_whoever_is_free(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest first; it is told how far they are before the last one is written, and each is counted once."""
    told: list[Progress] = []
    monkeypatch.setattr(Report, "progress", lambda _, progress: told.append(progress))
    monkeypatch.setattr(rebuilding, "_LARGE", 10)
    monkeypatch.setattr(rebuilding, "_TELL_EVERY", 0.001)
    to = machine.top / "to"
    record = done(machine.restore(to))
    same(to, machine.snapshots / "2026-11-23")
    writing = [progress for progress in told if progress.phase is Phase.WRITING and progress.bytes_total]
    assert len({progress.bytes_done for progress in writing}) > 3
    assert max(progress.bytes_done for progress in writing) == writing[-1].bytes_done == record.counts.bytes


def test_the_manifest_of_the_target_is_as_good_as_our_own(machine: Machine, furnished: Path) -> None:
    shutil.rmtree(machine.files.target("seed"))
    to = machine.top / "to"
    done(machine.restore(to))
    same(to, furnished)


def test_a_ledger_of_another_commit_is_not_used(machine: Machine, furnished: Path) -> None:
    """It is behind: a job was killed when its commit had arrived."""
    (furnished / "later").write_text("later")
    machine.killed(machine.sync, "offsited.worker.pending.Pending.commit")
    to = machine.top / "to"
    done(machine.restore(to))
    same(to, furnished)


def test_a_large_restore_takes_a_new_mount_now_and_then(machine: Machine, furnished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gocryptfs forgets nothing: two million entries would fill its memory."""
    monkeypatch.setattr("offsited.worker.renewal.MOUNT_ENTRIES", 6)
    monkeypatch.setattr("offsited.worker.rebuilding.PART_ENTRIES", 3)
    real, times = View.renew, []

    async def counted(view: View) -> None:
        times.append(view)
        await real(view)

    monkeypatch.setattr(View, "renew", counted)
    to = machine.top / "to"
    done(machine.restore(to))
    same(to, furnished)
    assert len(times) > 2


def test_hard_links_over_several_paths_that_were_asked_for(machine: Machine, furnished: Path) -> None:
    os.link(furnished / "capable", furnished / "hollow/capable")
    os.link(furnished / "capable", furnished / "d/deep/capable")
    done(machine.sync())
    to = machine.top / "to"
    done(machine.restore(to, b"hollow/capable\0d/deep\0d/hard\0a"))
    assert os.path.samefile(to / "hollow/capable", to / "d/deep/capable")
    assert os.path.samefile(to / "d/hard", to / "a")
    assert (to / "hollow/capable").stat().st_nlink == 2
    assert os.getxattr(to / "hollow/capable", "security.capability") == CAPABILITY
    assert flags(to / "a") & NODUMP


def test_one_name_of_a_hard_link_group_is_a_file_like_any_other(machine: Machine, furnished: Path) -> None:
    to = machine.top / "to"
    done(machine.restore(to, b"d/hard"))
    assert (to / "d/hard").read_bytes() == (furnished / "a").read_bytes()
    assert ((to / "d/hard").stat().st_nlink, flags(to / "d/hard") & NODUMP) == (1, NODUMP)


def test_hard_links_of_what_is_immutable(machine: Machine, furnished: Path) -> None:
    (furnished / "d/one").write_text("linked")
    os.link(furnished / "d/one", furnished / "hollow/two")
    os.link(furnished / "d/one", furnished / "three")
    flags(furnished / "three", IMMUTABLE)
    done(machine.sync())
    to = machine.top / "to"
    done(machine.restore(to))
    same(to, furnished)


def test_a_path_within_another_that_was_asked_for(machine: Machine, furnished: Path) -> None:
    to = machine.top / "to"
    done(machine.restore(to, b"d/deep/c\0d\0d/b"))
    assert set(tree(to)) == {b"."} | {path for path in tree(furnished) if path == b"d" or path.startswith(b"d/")}


def test_existing_directories_keep_their_attributes(machine: Machine, furnished: Path) -> None:
    to = machine.top / "to"
    (to / "d").mkdir(parents=True)
    (to / "d/mine").write_text("mine")
    os.setxattr(to / "d", "user.mine", b"1")
    os.chown(to / "d", 7, 8)
    (to / "d").chmod(0o1711)
    to.chmod(0o2750)
    done(machine.restore(to, b"d/deep\0d/b"))
    assert {name: entry[:3] for name, entry in tree(to).items() if name in {b".", b"d"}} == {b".": (0o42750, 0, 0), b"d": (0o41711, 7, 8)}
    assert os.listxattr(to / "d") == ["user.mine"]
    assert (to / "d/mine").read_text() == "mine"
    wanted = tree(furnished)
    assert {name: entry for name, entry in tree(to).items() if name.startswith((b"d/deep", b"d/b"))} == {
        name: entry for name, entry in wanted.items() if name.startswith((b"d/deep", b"d/b"))
    }


def test_directories_that_were_made_above_what_was_asked_for_get_theirs(machine: Machine, furnished: Path) -> None:
    to = machine.top / "to"
    done(machine.restore(to, b"d/deep/c"))
    assert tree(to)[b"d/deep"] == tree(furnished)[b"d/deep"]
    assert more(to)[b"d"] == more(furnished)[b"d"]


def test_a_snapshot_with_an_entry_of_the_name_that_a_restore_needs(machine: Machine) -> None:
    """Somebody's home was backed up while a restore into it was not finished."""
    snapshot = fill(machine.snapshot("2026-11-23"))
    (snapshot / SCRATCH).mkdir()
    (snapshot / SCRATCH / "request.json").write_text("{}")
    done(machine.sync())
    to = machine.top / "to"
    different(machine.restore(to), SCRATCH)
    assert SCRATCH not in os.listdir(to)
    assert (to / "a").read_bytes() == (snapshot / "a").read_bytes()


# --- interrupted ---------------------------------------------------------------------------------------------------------

POINTS = [
    ("rebuilding._make", 3),
    ("writing.Writer.write", 1),
    ("writing.Writer.write", 12),
    ("writing.Writer._copy", 2),
    ("writing.Writer._set_xattrs", 4),
    ("writing.Writer._check", 9),
    ("writing.Writer._set_flags", 2),
    ("writing.Writer.link", 1),
    ("writing.Writer.finish_linked", 1),
    ("rebuilding.Rebuilding._finish_directories", 1),
    ("writing.Writer.finish_directory", 3),
    ("restore._ending", 1),
    ("destination.Destination.finish", 1),
    ("report.Report.end", 1),
]


@pytest.mark.parametrize(("point", "time"), POINTS)
def test_a_restore_that_is_killed_goes_on_where_it_was(machine: Machine, furnished: Path, point: str, time: int) -> None:
    to = machine.top / "to"
    machine.killed(lambda: machine.restore(to), f"offsited.worker.{point}", time=time)
    if point == "report.Report.end":
        same(to, furnished)
        return
    done(machine.restore(to))
    same(to, furnished)


@pytest.mark.parametrize("paths", [b"d/hard\0a\0d/deep", b"sparse"])
def test_a_restore_of_paths_that_is_killed_goes_on_where_it_was(machine: Machine, furnished: Path, paths: bytes) -> None:
    to = machine.top / "to"
    machine.killed(lambda: machine.restore(to, paths), "offsited.worker.writing.Writer._check")
    failed(machine.restore(to, b"empty"), Reason.DESTINATION_OCCUPIED)
    failed(machine.restore(to), Reason.DESTINATION_OCCUPIED)
    done(machine.restore(to, paths))
    wanted, found = tree(furnished), tree(to)
    for path in set(found) - {b"."}:
        assert found[path] == (wanted[path] if path != b"d" or b"d/deep" not in paths else found[path]), path
    assert SCRATCH not in os.listdir(to)


def test_what_fails_before_it_goes_on_does_not_forget_it(machine: Machine, furnished: Path) -> None:
    to = machine.top / "to"
    machine.killed(lambda: machine.restore(to), "offsited.worker.writing.Writer.write", time=5)
    kept, machine.device = machine.device, "/dev/no-such-disk"
    failed(machine.restore(to), Reason.TARGET_ABSENT)
    machine.device = kept
    machine.passphrase = b"wrong"
    failed(machine.restore(to), Reason.WRONG_PASSPHRASE)
    machine.passphrase = b"correct horse"
    done(machine.restore(to))
    same(to, furnished)


def test_a_sync_between_is_said(machine: Machine, furnished: Path) -> None:
    """What was restored before it may be gone or another now."""
    to = machine.top / "to"
    machine.killed(lambda: machine.restore(to), "offsited.worker.rebuilding.Rebuilding._finish_directories")
    later = machine.snapshot("2026-11-24")
    fill(later)
    done(machine.sync())
    (line,) = different(machine.restore(to), ".")
    assert "another snapshot" in line
    assert tree(later).keys() <= tree(to).keys()


# --- the target is damaged -----------------------------------------------------------------------------------------------

SIZES = {"flipped": 9001, "cut": 20_480, "emptied": 9003, "missing": 9004, "swapped": 9005, "with": 9005, "zeroed": 9007}


@pytest.fixture
def victims(machine: Machine) -> Path:
    """A snapshot with files that can be told by their size at the target."""
    snapshot = fill(machine.snapshot("2026-11-23"))
    for number, (name, size) in enumerate(SIZES.items()):
        (snapshot / name).write_bytes(os.urandom(size))
        os.utime(snapshot / name, ns=(number, 10**18 + number))
    done(machine.sync())
    return snapshot


def sealed(home: Path, name: str) -> Path:
    """A file at the target, told by its time."""
    when = 10**18 + list(SIZES).index(name)
    found, *others = [path for path in (home / "current").rglob("*") if path.is_file() and path.stat().st_mtime_ns == when]
    assert all(os.path.samefile(found, other) for other in others)
    assert found.stat().st_size == gocryptfs.sealed_size(SIZES[name])
    return found


def keeping_time(path: Path, change: Callable[[Path], object]) -> None:
    status = path.stat()
    change(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)[0]
        file.seek(5000)
        file.write(bytes((byte ^ 1,)))


def _zero(path: Path) -> None:
    """A block of zeros is a hole to gocryptfs, and passes its authentication."""
    with path.open("r+b") as file:
        file.seek(18 + 4128)
        file.write(bytes(4128))


def damage(home: Path) -> None:
    keeping_time(sealed(home, "flipped"), _flip)
    keeping_time(sealed(home, "cut"), lambda path: os.truncate(path, 18 + 2 * 4128))
    keeping_time(sealed(home, "emptied"), lambda path: os.truncate(path, 0))
    keeping_time(sealed(home, "zeroed"), _zero)
    one, other = sealed(home, "swapped"), sealed(home, "with")
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    sealed(home, "missing").unlink()


DAMAGED = ("flipped", "cut", "emptied", "zeroed", "swapped", "with", "missing")


def test_all_damage_is_listed_and_the_rest_is_restored(machine: Machine, victims: Path) -> None:
    with machine.disk() as home:
        damage(home)
    to = machine.top / "to"
    lines = different(machine.restore(to), *DAMAGED)
    assert any(line.startswith("missing: the target does not have it") for line in lines)
    assert any(line.startswith("flipped: is damaged at the target") for line in lines)
    wanted, found = tree(victims), tree(to)
    assert {path: entry for path, entry in found.items() if path.decode("latin1") not in DAMAGED} == {
        path: entry for path, entry in wanted.items() if path.decode("latin1") not in DAMAGED
    }
    assert b"missing" not in found


def test_the_list_is_kept_for_root_alone(machine: Machine, victims: Path) -> None:
    with machine.disk() as home:
        damage(home)
    record = machine.restore(machine.top / "to")
    listed = machine.files.jobs / f"{record.job}.differences"
    assert str(listed) in record.detail
    assert {line.partition(": ")[0] for line in listed.read_text().splitlines()} == set(DAMAGED)
    assert listed.stat().st_mode & 0o077 == 0
    assert victims.exists()


@pytest.mark.parametrize("point", ["rebuilding.Rebuilding._finish_directories", "restore._ending", "destination.Destination.finish"])
def test_damage_that_was_met_before_a_kill_is_listed_after_it(machine: Machine, victims: Path, point: str) -> None:
    with machine.disk() as home:
        damage(home)
    to = machine.top / "to"
    machine.killed(lambda: machine.restore(to), f"offsited.worker.{point}")
    different(machine.restore(to), *DAMAGED)
    assert tree(victims).keys() - tree(to).keys() == {b"missing"}


def test_a_directory_that_is_gone_at_the_target(machine: Machine, victims: Path) -> None:
    """Its directories and what is empty are made all the same; each file in it is listed."""
    (victims / "whole").mkdir()
    (victims / "whole/empty").touch()
    for name in ("one", "two"):
        (victims / "whole" / name).write_text(name)
    (victims / "whole/deep").mkdir()
    os.utime(victims / "whole", ns=(0, 12345))
    done(machine.sync())
    with machine.disk() as home:
        (found,) = [path for path in (home / "current").rglob("*") if path.is_dir() and path.stat().st_mtime_ns == 12345]
        shutil.rmtree(found)
    to = machine.top / "to"
    different(machine.restore(to), "whole/one", "whole/two")
    assert tree(to)[b"whole/deep"] == tree(victims)[b"whole/deep"]
    assert tree(to)[b"whole"] == tree(victims)[b"whole"]


def test_the_first_name_of_a_hard_link_group_is_damaged(machine: Machine, victims: Path) -> None:
    """There is but one file at the target: each name is said, and none is passed off as whole."""
    os.link(victims / "flipped", victims / "z-flipped")
    done(machine.sync())
    with machine.disk() as home:
        keeping_time(sealed(home, "flipped"), _flip)
    to = machine.top / "to"
    record = machine.restore(to)
    assert record.reason == Reason.RESTORED_DIFFERENT
    assert os.path.samefile(to / "flipped", to / "z-flipped")


# --- the manifest is damaged -----------------------------------------------------------------------------------------------


def own_files(machine: Machine, home: Path) -> tuple[Path, list[Path]]:
    """The commit at the target, and the other files beside it."""
    commit = home / "current" / machine.known.sealed.commit_path
    return commit, [path for path in commit.parent.iterdir() if path != commit and path.name != "gocryptfs.diriv"]


def _commit_cut(machine: Machine, home: Path) -> None:
    os.truncate(own_files(machine, home)[0], 60)


def _commit_gone(machine: Machine, home: Path) -> None:
    own_files(machine, home)[0].unlink()


def _commit_flipped(machine: Machine, home: Path) -> None:
    commit = own_files(machine, home)[0]
    content = commit.read_bytes()
    commit.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))


def _segment_flipped(machine: Machine, home: Path) -> None:
    for path in own_files(machine, home)[1]:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))


def _segment_cut(machine: Machine, home: Path) -> None:
    for path in own_files(machine, home)[1]:
        os.truncate(path, 60)


def _segment_gone(machine: Machine, home: Path) -> None:
    for path in own_files(machine, home)[1]:
        path.unlink()


@pytest.mark.parametrize("spoil", [_commit_cut, _commit_flipped, _segment_flipped, _segment_cut, _segment_gone])
def test_a_damaged_manifest_is_said_and_never_blocks(machine: Machine, victims: Path, spoil: Callable[[Machine, Path], None]) -> None:
    with machine.disk() as home:
        spoil(machine, home)
    shutil.rmtree(machine.files.target("seed"))
    to = machine.top / "to"
    failed(machine.restore(to), Reason.MANIFEST_DAMAGED)
    assert not os.listdir(to)
    done(machine.restore(to, without_manifest=True))
    assert {path: entry for path, entry in tree(to).items() if path != b"."} == {
        path: entry for path, entry in tree(victims).items() if path != b"."
    }


def test_our_own_copy_of_the_manifest_serves_where_the_targets_is_damaged(machine: Machine, victims: Path) -> None:
    with machine.disk() as home:
        _segment_flipped(machine, home)
    to = machine.top / "to"
    done(machine.restore(to))
    same(to, victims)


@pytest.mark.parametrize("paths", [None, b"d\0#comment\0new\nline"])
def test_without_the_manifest(machine: Machine, victims: Path, paths: bytes | None) -> None:
    (victims / "#comment").write_text("#")
    done(machine.sync())
    to = machine.top / "to"
    assert "without the manifest" in done(machine.restore(to, paths, without_manifest=True)).detail
    wanted = tree(victims)
    found = tree(to)
    if paths is None:
        assert found == wanted
    else:
        tops = set(paths.split(b"\0"))
        assert found.keys() - {b"."} == {path for path in wanted if path.split(b"/")[0] in tops}


# --- the destination -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(namespace: None, tmp_path_factory: pytest.TempPathFactory, machine: Machine) -> Iterator[Path]:
    """A small file system that no job mounts."""
    point = tmp_path_factory.mktemp("small")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(point)], check=True)
    yield point
    machine.let_go()
    subprocess.run(["umount", str(point)], check=True)


@pytest.mark.parametrize("options", [{}, {"without_manifest": True}], ids=["manifest", "without"])
def test_a_destination_that_is_too_small_is_said_and_not_taken_for_damage(
    machine: Machine, victims: Path, small: Path, options: dict[str, bool]
) -> None:
    """With more room it goes on."""
    (victims / "big").write_bytes(os.urandom(3 * MIB))
    done(machine.sync())
    failed(machine.restore(small, None, **options), Reason.DESTINATION_UNUSABLE)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
    done(machine.restore(small, None, **options))
    assert tree(small) == tree(victims)


def test_a_mirror_without_the_snapshots_place(machine: Machine, victims: Path) -> None:
    with machine.disk() as home:
        shutil.rmtree(
            max((path for path in (home / "current").iterdir() if path.is_dir()), key=lambda path: sum(1 for _ in path.rglob("*")))
        )
    to = machine.top / "to"
    failed(machine.restore(to), Reason.TARGET_DAMAGED)
    failed(machine.restore(machine.top / "other", without_manifest=True), Reason.TARGET_EMPTY)
    assert victims.exists()


@pytest.mark.parametrize("path", ["d", "d/deep", "hollow"])
def test_a_link_that_is_laid_into_the_destination_is_not_followed(machine: Machine, victims: Path, path: str) -> None:
    """By somebody who waits for a directory to be made."""
    to, elsewhere = machine.top / "to", machine.top / "elsewhere"
    shutil.copytree(victims / "d", elsewhere / "d", symlinks=True, ignore=lambda *_: ["b", "c", "hard"])
    before = tree(elsewhere)
    swap = f"mv {to}/{path} {to}/{path}.was; ln -s {elsewhere}/d {to}/{path}"
    with machine.when("offsited.worker.rebuilding.parts", lambda: subprocess.run(["sh", "-c", swap], check=True)):
        record = machine.restore(to)
    assert record.outcome in {Outcome.FAILED, Outcome.PARTIAL}
    assert record.reason != Reason.INTERNAL, record.detail
    assert tree(elsewhere) == before


def test_a_request_is_not_taken_from_somebody_else(machine: Machine, victims: Path) -> None:
    """A prepared scratch directory in a place where others may write."""
    to = machine.top / "to"
    (to / SCRATCH).mkdir(parents=True)
    os.chown(to / SCRATCH, 1000, 1000)
    request = {"vault": machine.files.identity(), "target": "seed", "paths": []}
    (to / SCRATCH / "request.json").write_text(json.dumps(request))
    (to / SCRATCH / "differences").symlink_to(machine.top / "victim")
    failed(machine.restore(to), Reason.DESTINATION_OCCUPIED)
    assert not (machine.top / "victim").exists()
    assert victims.exists()
