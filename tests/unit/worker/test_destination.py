# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory that a restore writes to."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker import mounts
from offsited.worker.destination import Destination, requested_paths

from .conftest import memfd

R = Reason


def take(mountable: Path, descriptor: int | None) -> Destination:
    return Destination.take(descriptor, mountable / "point", 7)


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
        ([], False),
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
            destination.check_free(wanted)
        assert caught.value.reason == R.DESTINATION_OCCUPIED
    else:
        destination.check_free(wanted)
    assert len(os.listdir("/proc/self/fd")) == before


def test_scratch_is_there_and_goes(destination: Destination) -> None:
    destination.make_scratch()
    assert destination.scratch.stat().st_mode & 0o777 == 0o700
    (destination.scratch / "d").mkdir()
    (destination.scratch / "d/x").touch()
    with pytest.raises(JobFailed) as caught:
        destination.make_scratch()
    assert caught.value.reason == R.DESTINATION_UNUSABLE
    destination.remove_scratch()
    assert not list(destination.point.iterdir())


def test_its_own_times_are_set(destination: Destination, mountable: Path) -> None:
    destination.set_times((1_000_000_001, 2_000_000_002))
    assert (mountable / "to").stat().st_mtime_ns == 2_000_000_002


def test_the_paths_asked_for() -> None:
    assert requested_paths(None) == ()
    descriptor = memfd(b"a/b\0./c\0")
    assert requested_paths(descriptor) == (b"a/b", b"c")
    assert requested_paths(descriptor) == (b"a/b", b"c"), "its offset is left alone"
    assert requested_paths(memfd(b"")) == ()
    assert requested_paths(memfd(b"\0".join(b"%d" % number for number in range(500_000))))[-1] == b"499999"
    with pytest.raises(JobFailed):
        requested_paths(memfd(b"../x"))
