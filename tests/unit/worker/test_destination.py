# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory that a restore writes to."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker import mounts
from offsited.worker.destination import SCRATCH, Destination, requested_paths

from .machine import memfd

R = Reason


def take(mountable: Path, descriptor: int | None) -> Destination:
    return Destination.take(descriptor, mountable / "point")


def refused(mountable: Path, descriptor: int | None) -> str:
    with pytest.raises(JobFailed) as caught:
        take(mountable, descriptor)
    return caught.value.reason


@pytest.fixture
def destination(mountable: Path) -> Destination:
    (mountable / "to").mkdir()
    return take(mountable, os.open(mountable / "to", os.O_RDONLY))


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH])
def test_it_is_shown_writable(mountable: Path, flags: int) -> None:
    (mountable / "to").mkdir()
    found = take(mountable, os.open(mountable / "to", flags))
    (found.point / "new").write_text("x")
    assert (mountable / "to/new").read_text() == "x"


def test_it_is_the_callers_directory_where_its_name_leads_through_a_read_only_mount(mountable: Path) -> None:
    """As in a unit with ProtectSystem=strict: the caller's mount is writable, ours of the same place is not."""
    (mountable / "home/to").mkdir(parents=True)
    descriptor = os.open(mountable / "home/to", os.O_RDONLY)
    mounts.bind(os.open(mountable / "home", os.O_RDONLY), mountable / "home", read_only=True)
    found = take(mountable, descriptor)
    (found.point / "new").touch()
    assert os.listdir(descriptor) == ["new"]


def test_another_directory_of_the_same_name_is_not_taken(mountable: Path) -> None:
    """Its name is a hint; device and inode decide."""
    (mountable / "to").mkdir()
    descriptor = os.open(mountable / "to", os.O_RDONLY)
    (mountable / "other").mkdir()
    mounts.bind(os.open(mountable / "other", os.O_RDONLY), mountable / "to", read_only=False)
    assert refused(mountable, descriptor) == R.DESTINATION_UNUSABLE
    assert not list((mountable / "other").iterdir())


def test_a_directory_that_is_gone(mountable: Path) -> None:
    (mountable / "to").mkdir()
    descriptor = os.open(mountable / "to", os.O_RDONLY)
    (mountable / "to").rmdir()
    assert refused(mountable, descriptor) == R.DESTINATION_UNUSABLE


def test_what_is_no_directory(mountable: Path) -> None:
    (mountable / "file").touch()
    assert refused(mountable, None) == R.DESTINATION_UNUSABLE
    assert refused(mountable, os.open(mountable / "file", os.O_RDWR)) == R.DESTINATION_UNUSABLE
    assert refused(mountable, memfd(b"")) == R.DESTINATION_UNUSABLE


def test_a_read_only_file_system(mountable: Path, tmpfs: Callable[[str, str], Path]) -> None:
    assert refused(mountable, os.open(tmpfs("ro", "ro"), os.O_RDONLY)) == R.DESTINATION_UNUSABLE


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        ([b"new"], False),
        ([b"new/deep/er"], False),
        ([b"directory/new"], False),
        ([b"file"], True),
        ([b"directory"], True),
        ([b"new", b"directory/file"], True),
        ([b"file/x"], True),
        ([b"link"], True),
        ([b"link/x"], True),
        ([b"dangling"], True),
        ([b"\xff"], True),
    ],
)
def test_nothing_there_is_overwritten(destination: Destination, wanted: list[bytes], taken: bool) -> None:  # noqa: FBT001 - a table
    """Nor written through a symbolic link."""
    (destination.point / "directory").mkdir()
    (destination.point / "directory/file").touch()
    (destination.point / "file").touch()
    (destination.point / "link").symlink_to("directory")
    (destination.point / "dangling").symlink_to("nowhere")
    (destination.point / os.fsdecode(b"\xff")).touch()
    before = len(os.listdir("/proc/self/fd"))
    if taken:
        with pytest.raises(JobFailed) as caught:
            destination.begin("v", "seed", wanted)
        assert caught.value.reason == R.DESTINATION_OCCUPIED
        assert SCRATCH not in os.listdir(destination.point)
    else:
        destination.begin("v", "seed", wanted)
    assert len(os.listdir("/proc/self/fd")) == before


def test_everything_needs_an_empty_directory(destination: Destination) -> None:
    """But for what every new ext4 has."""
    (destination.point / "lost+found").mkdir()
    destination.begin("v", "seed", [])
    destination.finish()
    (destination.point / "mine").touch()
    with pytest.raises(JobFailed) as caught:
        destination.begin("v", "seed", [])
    assert caught.value.reason == R.DESTINATION_OCCUPIED


def test_scratch_is_there_for_root_alone_and_goes(destination: Destination) -> None:
    destination.begin("v", "seed", [])
    assert destination.scratch.stat().st_mode & 0o777 == 0o700
    (destination.scratch / "d").mkdir()
    (destination.scratch / "d/x").touch()
    destination.finish()
    assert not list(destination.point.iterdir())


REQUEST = ("v", "seed", [b"b", b"\xff"])


@pytest.mark.parametrize(
    ("request_", "same"),
    [
        (REQUEST, True),
        (("v", "seed", [b"\xff", b"b"]), True),
        (("w", "seed", [b"b", b"\xff"]), False),
        (("v", "other", [b"b", b"\xff"]), False),
        (("v", "seed", [b"b"]), False),
        (("v", "seed", []), False),
    ],
)
def test_what_was_interrupted_is_taken_up_by_the_same_request_alone(
    destination: Destination,
    request_: tuple[str, str, list[bytes]],
    same: bool,  # noqa: FBT001 - a table
) -> None:
    destination.begin(*REQUEST)
    (destination.point / "b").touch()
    if same:
        assert destination.begin(*request_), "it is said to be taken up"
    else:
        with pytest.raises(JobFailed) as caught:
            destination.begin(*request_)
        assert caught.value.reason == R.DESTINATION_OCCUPIED
    assert SCRATCH in os.listdir(destination.point)


def test_what_is_new_is_not_taken_up(destination: Destination) -> None:
    assert not destination.begin(*REQUEST)


def test_a_link_in_the_place_of_scratch_leads_nowhere(destination: Destination, mountable: Path) -> None:
    """Somebody who may write into the destination must not lead root elsewhere: before it begins, while it runs, or at its end."""
    (mountable / "elsewhere").mkdir()
    (mountable / "elsewhere/differences").write_text("mine\n")
    (destination.point / SCRATCH).symlink_to(mountable / "elsewhere")
    with pytest.raises(JobFailed):
        destination.begin(*REQUEST)
    (destination.point / SCRATCH).unlink()
    destination.begin(*REQUEST)
    (destination.point / SCRATCH).rename(destination.point / "aside")
    (destination.point / SCRATCH).symlink_to(mountable / "elsewhere")
    destination.differences.note(b"x", "y")
    destination.made(b"x")
    destination.finish()
    assert os.listdir(mountable / "elsewhere") == ["differences"]
    assert (mountable / "elsewhere/differences").read_text() == "mine\n"


@pytest.mark.parametrize("prepared", ["empty", "request"])
@pytest.mark.parametrize(("owner", "mode"), [(1000, 0o700), (0, 0o770), (0, 0o707)])
def test_a_scratch_that_others_may_have_filled_is_not_taken(destination: Destination, prepared: str, owner: int, mode: int) -> None:
    destination.begin(*REQUEST)
    scratch = destination.point / SCRATCH
    if prepared == "empty":
        (scratch / "request.json").unlink()
    os.chown(scratch, owner, 0)
    scratch.chmod(mode)
    with pytest.raises(JobFailed) as caught:
        destination.begin(*REQUEST)
    assert caught.value.reason == R.DESTINATION_OCCUPIED


def test_an_unwritten_request_is_begun_anew(destination: Destination) -> None:
    """Killed before the marker was there: nothing else was."""
    (destination.point / SCRATCH).mkdir(mode=0o700)
    assert not destination.begin(*REQUEST)


def test_a_destination_is_left_as_it_was(destination: Destination, mountable: Path) -> None:
    before = (mountable / "to").stat().st_mtime_ns
    destination.begin(*REQUEST)
    assert (mountable / "to").stat().st_mtime_ns != before
    destination.leave()
    assert (mountable / "to").stat().st_mtime_ns == before


def test_differences_survive_an_interruption(destination: Destination, tmp_path: Path) -> None:
    destination.begin(*REQUEST)
    assert destination.differences.read() == []
    destination.differences.note(b"new\nline\xff", "size is 1, not 2")
    destination.differences.note(b"", "mode")
    destination.differences.note(b"new\nline\xff", "size is 1, not 2")
    destination.begin(*REQUEST)
    listed = ["new\\nline\\xff: size is 1, not 2", ".: mode"]
    assert destination.differences.read() == listed
    destination.differences.move(tmp_path / "kept")
    destination.finish()
    assert (tmp_path / "kept").read_text().splitlines() == listed
    assert (tmp_path / "kept").stat().st_mode & 0o077 == 0


def test_directories_that_were_made_are_remembered(destination: Destination) -> None:
    destination.begin(*REQUEST)
    assert destination.all_made() == set()
    destination.made(b"d")
    destination.begin(*REQUEST)
    destination.made(b"new\nline/\xff")
    assert destination.all_made() >= {b"d", b"new\nline/\xff"}


def test_the_paths_asked_for() -> None:
    assert requested_paths(None) == ()
    descriptor = memfd(b"a/b\0./c\0")
    assert requested_paths(descriptor) == (b"a/b", b"c")
    assert requested_paths(descriptor) == (b"a/b", b"c"), "its offset is left alone"
    assert requested_paths(memfd(b"")) == ()
    assert requested_paths(memfd(b"\0".join(b"%d" % number for number in range(500_000))))[-1] == b"499999"
    with pytest.raises(JobFailed):
        requested_paths(memfd(b"../x"))
