# SPDX-License-Identifier: GPL-3.0-or-later
"""The mount system calls, on the real kernel."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.worker import mounts

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


@pytest.fixture
def top(tmp_path: Path) -> int:
    for path in ("top/a/b", "elsewhere"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "top/file").touch()
    (tmp_path / "top/inside").symlink_to("a")
    (tmp_path / "top/outside").symlink_to("../elsewhere")
    (tmp_path / "top/magic").symlink_to("/proc/self/cwd")
    return os.open(tmp_path / "top", DIRECTORY)


@pytest.mark.parametrize("path", ["a", "a/b", ".", "a/../a/b", "a/"])
def test_what_lies_below_is_opened(top: int, path: str) -> None:
    descriptor = mounts.open_beneath(top, path, DIRECTORY)
    assert os.get_inheritable(descriptor) is False
    assert os.path.samestat(os.fstat(descriptor), os.stat(path, dir_fd=top))


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("inside", errno.ELOOP),
        ("inside/b", errno.ELOOP),
        ("outside", errno.ELOOP),
        ("magic", errno.ELOOP),
        ("..", errno.EXDEV),
        ("a/../../elsewhere", errno.EXDEV),
        ("/etc", errno.EXDEV),
        ("missing", errno.ENOENT),
        ("file", errno.ENOTDIR),
        ("file/x", errno.ENOTDIR),
    ],
)
def test_nothing_else_is(top: int, path: str, number: int) -> None:
    with pytest.raises(OSError, match=r".") as caught:
        mounts.open_beneath(top, path, DIRECTORY)
    assert caught.value.errno == number


def test_a_rename_meanwhile_is_no_error(top: int, tmp_path: Path) -> None:
    """openat2(2) answers EAGAIN to `..` when something was renamed; a few tries get through."""
    stop = threading.Event()

    def rename() -> None:
        while not stop.is_set():
            (tmp_path / "top/file").rename(tmp_path / "top/file2")
            (tmp_path / "top/file2").rename(tmp_path / "top/file")

    thread = threading.Thread(target=rename)
    thread.start()
    try:
        for _ in range(300):
            os.close(mounts.open_beneath(top, "a/../a/../a/b", DIRECTORY))
    finally:
        stop.set()
        thread.join()


def test_a_bind_is_read_only_and_private(mountable: Path) -> None:
    source, point = mountable / "source", mountable / "point"
    source.mkdir()
    point.mkdir()
    (source / "file").write_text("x")
    mounts.bind(os.open(source, DIRECTORY), point, read_only=True)
    assert (point / "file").read_text() == "x"
    with pytest.raises(OSError, match=r".") as caught:
        (point / "new").touch()
    assert caught.value.errno == errno.EROFS
    assert os.statvfs(point).f_flag & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC) == 0xF
    assert not os.statvfs(source).f_flag & os.ST_RDONLY


def test_a_bind_to_write_to_is_writable_and_runs_nothing(mountable: Path) -> None:
    """Also where the way to it is a mount that the unit's sandbox made read-only."""
    source, sandboxed, point = (mountable / name for name in ("source", "sandboxed", "point"))
    for directory in (source, sandboxed, point):
        directory.mkdir()
    mounts.bind(os.open(source, DIRECTORY), sandboxed, read_only=True)
    mounts.bind(os.open(sandboxed, DIRECTORY), point, read_only=False)
    (point / "new").touch()
    assert os.statvfs(point).f_flag & 0xF == os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC


def test_what_is_mounted_below_is_not_shown(mountable: Path, tmpfs: Callable[[str, str], Path]) -> None:
    (mountable / "point").mkdir()
    (mountable / "source").mkdir()
    (tmpfs("source/inner", "size=1m") / "file").touch()
    mounts.bind(os.open(mountable / "source", DIRECTORY), mountable / "point", read_only=True)
    assert not list((mountable / "point/inner").iterdir())


def test_a_bind_stays_the_directory_that_was_opened(mountable: Path) -> None:
    """Whatever becomes of its path."""
    for name in ("source", "other", "point"):
        (mountable / name).mkdir()
    (mountable / "source/file").write_text("opened")
    descriptor = os.open(mountable / "source", DIRECTORY)
    (mountable / "source").rename(mountable / "gone")
    (mountable / "other").rename(mountable / "source")
    mounts.bind(descriptor, mountable / "point", read_only=True)
    assert (mountable / "point/file").read_text() == "opened"


def test_what_cannot_be_bound_is_an_error_and_leaves_no_descriptor(mountable: Path) -> None:
    (mountable / "source").mkdir()
    source = os.open(mountable / "source", DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        mounts.bind(source, mountable / "missing", read_only=True)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_mount_is_found_by_its_point(mountable: Path, tmpfs: Callable[[str, str], Path]) -> None:
    point = tmpfs("a b\tc\\d", "size=1m")
    found = mounts.find(point)
    assert found is not None
    assert (found.point, found.file_system, found.source) == (os.fsencode(point), "tmpfs", b"tmpfs")
    assert mounts.find(mountable) is None
    assert mounts.find(mountable / "missing") is None


def test_of_two_mounts_the_upper_one_is_found(mountable: Path, tmpfs: Callable[[str, str], Path]) -> None:
    point = tmpfs("twice", "size=1m")
    (mountable / "other").mkdir()
    mounts.bind(os.open("/proc", DIRECTORY), point, read_only=True)
    found = mounts.find(point)
    assert found is not None
    assert found.file_system == "proc"


def test_flush(tmp_path: Path) -> None:
    mounts.flush(tmp_path)
    with pytest.raises(FileNotFoundError):
        mounts.flush(tmp_path / "missing")


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_every_name_in_mountinfo_is_read(name: bytes) -> None:
    """The kernel escapes blanks, tabs, newlines, backslashes and # (fs/proc_namespace.c)."""
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes((byte,)) for byte in name)
    line = b"36 35 98:0 /mnt1 /" + escaped + b" rw,noatime master:1 - ext3 " + escaped + b" rw,errors=continue"
    found = mounts._parse(line)
    assert (found.point, found.file_system, found.source) == (b"/" + name, "ext3", name)


@pytest.mark.parametrize(("said", "found"), [("0", False), ("1", True)])
@pytest.mark.parametrize("partition", [False, True])
def test_whether_a_disk_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, found: bool, partition: bool) -> None:  # noqa: FBT001 - a table
    """As sysfs says it: of the disk, for a partition of it too."""
    disk = tmp_path / "sys/devices/pci/block/sda"
    (disk / "queue").mkdir(parents=True)
    (disk / "sda1").mkdir()
    (disk / "queue/rotational").write_text(f"{said}\n")
    device = os.stat(tmp_path).st_dev
    links = tmp_path / "sys/dev/block"
    links.mkdir(parents=True)
    (links / f"{os.major(device)}:{os.minor(device)}").symlink_to(disk / "sda1" if partition else disk)
    monkeypatch.setattr(mounts, "_BLOCK_DEVICES", links)
    descriptor = os.open(tmp_path, DIRECTORY)
    assert mounts.may_turn(descriptor) is found
    os.close(descriptor)


def test_of_what_the_kernel_says_nothing_a_disk_may_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system of several disks, or of none."""
    monkeypatch.setattr(mounts, "_BLOCK_DEVICES", tmp_path)
    descriptor = os.open(tmp_path, DIRECTORY)
    assert mounts.may_turn(descriptor)
    os.close(descriptor)
