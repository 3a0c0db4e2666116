# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes of several names, at a target: rsync does not part them, for it makes none anew that is what it should be.

(Of symbolic links it does: the view encrypts what each leads to in its own way.)
"""

import os
import shutil
import stat
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from .machine import Machine, done, holds
from .trees import fill

MAKE: dict[str, Callable[[Path], object]] = {
    "link": lambda path: path.symlink_to("nowhere"),
    "fifo": os.mkfifo,
    "device": lambda path: os.mknod(path, 0o60600, os.makedev(7, 300)),
}
NAMES = ("a-node", "d/b-node", "n" * 200)
LINKED, ALONE = 1_400_000_000_000_000_001, 1_450_000_000_000_000_002


@pytest.fixture(params=sorted(MAKE))
def make(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    return MAKE[request.param]


@pytest.fixture
def snapshot(machine: Machine) -> Path:
    return fill(machine.snapshot("2026-11-23"))


def link(top: Path, make: Callable[[Path], object]) -> None:
    """Three names of one node."""
    first, *others = (top / name for name in NAMES)
    make(first)
    os.utime(first, ns=(0, LINKED), follow_symlinks=False)
    for other in others:
        os.link(first, other, follow_symlinks=False)


def part(top: Path, names: tuple[str, ...], make: Callable[[Path], object]) -> None:
    """Each a node of its own, which is as the other was, or is older than it."""
    for number, name in enumerate(names):
        (top / name).unlink()
        make(top / name)
        os.utime(top / name, ns=(0, ALONE + number), follow_symlinks=False)


def later(machine: Machine, snapshot: Path) -> Path:
    """Another snapshot, that shares no inode with the first."""
    top = machine.snapshot("2026-11-24")
    subprocess.run(["cp", "-a", f"{snapshot}/.", str(top)], check=True)
    shutil.copystat(snapshot, top)
    return top


def nodes(top: Path) -> Counter[tuple[int, int, int]]:
    """Type, time and number of names, of all that is neither file nor directory."""
    found = (os.lstat(os.path.join(directory, name)) for directory, directories, names in os.walk(top) for name in directories + names)
    others = (status for status in found if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode))
    return Counter((stat.S_IFMT(status.st_mode), status.st_mtime_ns, status.st_nlink) for status in others)


def agrees(machine: Machine, snapshot: Path) -> None:
    holds(machine, snapshot)
    with machine.disk() as home:
        assert nodes(home / "current") == nodes(snapshot)
    record, differences = machine.verify("structure")
    done(record)
    assert differences == []


@pytest.mark.parametrize("names", [NAMES, NAMES[1:], NAMES[:1]], ids=["all", "two of them", "one of them"])
def test_names_that_part_are_nodes_of_their_own(
    machine: Machine, snapshot: Path, make: Callable[[Path], object], names: tuple[str, ...]
) -> None:
    link(snapshot, make)
    done(machine.sync())
    agrees(machine, snapshot)
    part(snapshot, names, make)
    done(machine.sync())
    agrees(machine, snapshot)


def test_names_that_an_interrupted_run_linked_are_parted(machine: Machine, snapshot: Path, make: Callable[[Path], object]) -> None:
    done(machine.sync())
    second = later(machine, snapshot)
    link(second, make)
    machine.killed(machine.sync, "offsited.worker.deletion.planned")
    part(second, NAMES, make)
    done(machine.sync())
    agrees(machine, second)


def test_what_a_directory_at_the_target_stands_in_the_way_of(machine: Machine, snapshot: Path, make: Callable[[Path], object]) -> None:
    """Nothing of that goes before everything was sent; then it does."""
    link(snapshot, make)
    done(machine.sync())
    with machine.disk() as home:
        mode, time, _ = next(one for one in nodes(snapshot) if one[1] == LINKED)
        found = [path for path in (home / "current").rglob("*") if _is(path, mode, time)]
        found[0].unlink()
        (found[0] / "full").mkdir(parents=True)
    part(snapshot, NAMES, make)
    done(machine.sync())
    agrees(machine, snapshot)


def _is(path: Path, mode: int, time: int) -> bool:
    status = path.lstat()
    return (stat.S_IFMT(status.st_mode), status.st_mtime_ns) == (mode, time)
