# SPDX-License-Identifier: GPL-3.0-or-later
"""Large files that changed in part, patched at the target: what is written, and what is left to rsync because something is not right.

Where the disk of these tests cannot share blocks, a copy stands for a clone; tests/system has a disk that can.
"""

import errno
import fcntl
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from offsited.core.progress import Phase, Progress
from offsited.worker import outgoing, patching
from offsited.worker.report import Report

from .machine import Machine, done, holds

BLOCK = 4096
SIZE = 60 * BLOCK + 77
Edit = Callable[[bytearray], object]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are large, and a piece is a few blocks."""
    monkeypatch.setattr(outgoing, "LARGE", 1000)
    monkeypatch.setattr(patching, "_PIECE", 8 * BLOCK)
    monkeypatch.setattr(fcntl, "ioctl", copied)


def copied(clone: int, request: int, file: int) -> None:
    assert request == 0x40049409
    os.pwrite(clone, os.pread(file, 1 << 30, 0), 0)


@pytest.fixture
def image(machine: Machine) -> Path:
    """A file that was synced, in the snapshot after that one."""
    snapshot = machine.snapshot("2026-11-23")
    (snapshot / "deep").mkdir()
    content = random.Random(1).randbytes(SIZE)  # noqa: S311 - no secret
    (snapshot / "deep/image").write_bytes(content)
    (snapshot / "other").write_bytes(content[:5000])
    done(machine.sync())
    return machine.copy(snapshot, "2026-11-24") / "deep/image"


def edited(image: Path, edit: Edit) -> None:
    """Another file of that name, with its content changed."""
    content = bytearray(image.read_bytes())
    edit(content)
    image.unlink()
    image.write_bytes(content)
    image.chmod(0o640)
    os.chown(image, 12, 34)


def at(*blocks: int) -> Edit:
    def edit(content: bytearray) -> None:
        for block in blocks:
            content[block * BLOCK + 5] ^= 1

    return edit


@pytest.mark.parametrize(
    ("edit", "sent"),
    [
        (at(3), BLOCK),
        (at(0, 7, 8, 9, 59), 5 * BLOCK),
        (at(60), 77),
        (lambda content: content.extend(b"appended"), 85),
        (lambda content: content.extend(bytes(20 * BLOCK)), 20 * BLOCK + 77),
        (lambda content: content.__delitem__(slice(30 * BLOCK, None)), 0),
        (lambda content: content.__delitem__(slice(30 * BLOCK + 9, None)), 9),
        (lambda content: content.__delitem__(slice(1, None)), 1),
        (lambda content: content.reverse(), SIZE),
    ],
)
def test_what_changed_is_written_and_nothing_else(machine: Machine, image: Path, edit: Edit, sent: int) -> None:
    edited(image, edit)
    assert done(machine.sync()).counts.sent_bytes == sent
    snapshot = image.parent.parent
    holds(machine, snapshot)
    with machine.disk() as home:
        assert not os.listdir(home / "partial")
        there = [path for path in (home / "current").rglob("*") if path.stat().st_uid == 12]
        assert [(path.stat().st_mode & 0o7777, path.stat().st_gid) for path in there] == [(0o640, 34)]
        assert [path.stat().st_mtime_ns for path in there] == [image.stat().st_mtime_ns]
        assert image.parent.stat().st_mtime_ns in {path.stat().st_mtime_ns for path in (home / "current").rglob("*") if path.is_dir()}
    assert done(machine.sync()).counts.sent_entries == 0


def test_it_counts_once_in_the_progress(machine: Machine, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Progress] = []
    monkeypatch.setattr(Report, "progress", lambda _, progress: told.append(progress))
    edited(image, at(3))
    done(machine.sync())
    sending = [progress for progress in told if progress.phase is Phase.SENDING]
    assert [progress.bytes_done for progress in sending] == sorted(progress.bytes_done for progress in sending)
    assert sending[-1].bytes_done == sending[-1].bytes_total == SIZE


def replaced(machine: Machine, _image: Path, _patch: pytest.MonkeyPatch) -> None:
    """Another content of the same size and time where the old one was."""
    old = machine.snapshots / "2026-11-23/deep/image"
    status = old.stat()
    old.write_bytes(bytes(SIZE))
    os.utime(old, ns=(status.st_atime_ns, status.st_mtime_ns))


def gone(machine: Machine, _image: Path, _patch: pytest.MonkeyPatch) -> None:
    (machine.snapshots / "2026-11-23").rename(machine.top / "elsewhere")


def unshared(_machine: Machine, _image: Path, patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    patch.setattr(fcntl, "ioctl", refuse)


def at_target(machine: Machine, change: Callable[[Path], object]) -> None:
    with machine.disk() as home:
        change(max((path for path in (home / "current").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size))


def touched(machine: Machine, _image: Path, _patch: pytest.MonkeyPatch) -> None:
    at_target(machine, lambda path: os.utime(path, (1, 1)))


def linked(machine: Machine, _image: Path, _patch: pytest.MonkeyPatch) -> None:
    at_target(machine, lambda path: path.with_name("another").hardlink_to(path))


def damaged(machine: Machine, _image: Path, _patch: pytest.MonkeyPatch) -> None:
    """Everywhere, so that whatever is looked at is found to be another."""

    def damage(path: Path) -> None:
        status = path.stat()
        content = bytearray(path.read_bytes())
        for place in range(18, len(content), BLOCK + 32):
            content[place] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    at_target(machine, damage)


@pytest.mark.parametrize("how", [replaced, gone, unshared, touched, linked, damaged])
def test_what_is_not_right_is_left_to_rsync(
    machine: Machine, image: Path, monkeypatch: pytest.MonkeyPatch, how: Callable[[Machine, Path, pytest.MonkeyPatch], None]
) -> None:
    edited(image, at(3))
    how(machine, image, monkeypatch)
    assert done(machine.sync()).counts.sent_bytes == SIZE
    holds(machine, image.parent.parent)
    with machine.disk() as home:
        assert not os.listdir(home / "partial")


@pytest.mark.parametrize("moment", ["_compare", "_put"])
def test_what_a_killed_one_left(machine: Machine, image: Path, moment: str) -> None:
    """The old ciphertext stands until the new one is whole; what was begun in partial/ is cleared."""
    edited(image, at(3, 50))
    machine.killed(machine.sync, f"offsited.worker.patching.Patching.{moment}")
    with machine.disk() as home:
        assert len(os.listdir(home / "partial")) == 1
    machine.snapshot("2026-11-25").rmdir()
    snapshot = machine.copy(image.parent.parent, "2026-11-25")
    edited(snapshot / "deep/image", at(4))
    done(machine.sync())
    holds(machine, snapshot)
    with machine.disk() as home:
        assert not os.listdir(home / "partial")
