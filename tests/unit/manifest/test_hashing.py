# SPDX-License-Identifier: GPL-3.0-or-later
"""A hash is of the very file that the walk met, or it is none."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from offsited.core.manifest import Row
from offsited.worker.hashing import sha256

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


def test_the_content_is_hashed(top: int, tmp_path: Path) -> None:
    assert sha256(top, row_of(tmp_path / "d" / "\udcff")) == hashlib.sha256(CONTENT).digest()


def test_it_ends_when_it_is_told_to(top: int, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(OSError, match="cancel"):
        sha256(top, row_of(tmp_path / "d" / "\udcff"), stop)


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
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on what happened
        sha256(top, row)


def test_a_change_while_it_is_read_is_seen(top: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "d" / "\udcff"
    row = row_of(file)
    real = os.read

    def meanwhile(descriptor: int, length: int) -> bytes:
        found = real(descriptor, length)
        touched(file)
        return found

    monkeypatch.setattr(os, "read", meanwhile)
    with pytest.raises(OSError, match="Stale"):
        sha256(top, row)
