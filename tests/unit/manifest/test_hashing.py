# SPDX-License-Identifier: GPL-3.0-or-later
"""A hash is of the very file that the walk met, or it is none."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from offsited.core.manifest import Row
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker.hashing import hash_files

CONTENT = b"x" * (1 << 20) + b"y"


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "\udcff").write_bytes(CONTENT)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def row_of(path: Path) -> Row:
    status = path.stat()
    return Row(b"d/\xff", "f", 0o644, size=status.st_size, mtime=status.st_mtime_ns, inode=status.st_ino)


def sha256(top: int, row: Row, stop: threading.Event | None = None) -> bytes:
    ((_, found),) = hash_files(top, [row], stop or threading.Event())
    return found


def refusal(top: int, row: Row, stop: threading.Event | None = None) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        sha256(top, row, stop)
    return caught.value


def test_the_content_is_hashed(top: int, tmp_path: Path) -> None:
    assert sha256(top, row_of(tmp_path / "d" / "\udcff")) == hashlib.sha256(CONTENT).digest()


def test_it_ends_when_it_is_told_to(top: int, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    assert "cancel" in refusal(top, row_of(tmp_path / "d" / "\udcff"), stop).detail


def longer(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"z")


def touched(file: Path) -> None:
    os.utime(file, ns=(5, 5))


def replaced(file: Path) -> None:
    status = file.stat()
    file.rename(file.with_name("old"))
    file.write_bytes(CONTENT)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def linked(file: Path) -> None:
    file.rename(file.with_name("old"))
    file.symlink_to("old")


def linked_above(file: Path) -> None:
    file.parent.rename(file.parent.with_name("moved"))
    file.parent.symlink_to("moved")


@pytest.mark.parametrize("change", [longer, touched, replaced, linked, linked_above, Path.unlink])
def test_another_file_than_the_one_met_is_refused(top: int, tmp_path: Path, change: Callable[[Path], object]) -> None:
    file = tmp_path / "d" / "\udcff"
    row = row_of(file)
    change(file)
    assert refusal(top, row).reason == Reason.SNAPSHOT_CHANGED


def test_a_change_while_it_is_read_is_seen(top: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "d" / "\udcff"
    row = row_of(file)
    real = os.read

    def meanwhile(descriptor: int, length: int) -> bytes:
        found = real(descriptor, length)
        touched(file)
        return found

    monkeypatch.setattr(os, "read", meanwhile)
    assert "Stale" in refusal(top, row).detail


def test_what_the_disk_does_not_give_is_no_change(top: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of(tmp_path / "d" / "\udcff")

    def fails(_descriptor: int, _length: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", fails)
    assert refusal(top, row).reason == Reason.SNAPSHOT_UNREADABLE


def test_files_of_several_directories_at_any_depth(tmp_path: Path) -> None:
    paths = [b"a/1", b"a/2", b"top", b"b/c/d/1", b"a/3"]
    for path in paths:
        (tmp_path / os.fsdecode(path)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / os.fsdecode(path)).write_bytes(path)
    rows = [row_of(tmp_path / os.fsdecode(path))._replace(path=path) for path in paths]
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        found = {row.path: digest for row, digest in hash_files(descriptor, rows)}
    finally:
        os.close(descriptor)
    assert found == {path: hashlib.sha256(path).digest() for path in paths}
