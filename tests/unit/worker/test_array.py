# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an array lacks a device, told from a directory that is laid out as sysfs is: only a kernel with md(4) has a real one."""

import os
from pathlib import Path

import pytest

from offsited.worker.array import is_degraded


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """The device under test is a volume on a partition of an array of two disks."""
    number = os.stat("/dev/null").st_rdev
    devices = tmp_path / "devices"
    array, volume, disk = devices / "md127", devices / "dm-0", devices / "sda"
    for directory in (array / "md", array / "md127p1" / "slaves", array / "slaves", volume / "slaves", disk):
        directory.mkdir(parents=True)
    (array / "md" / "degraded").write_text("0\n")
    (array / "slaves" / "sda").symlink_to(disk)
    (volume / "slaves" / "md127p1").symlink_to(array / "md127p1")
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / f"{os.major(number)}:{os.minor(number)}").symlink_to(volume)
    return tmp_path


def test_an_array_below_a_volume_and_a_partition_is_seen(sysfs: Path) -> None:
    assert not is_degraded("/dev/null", sysfs / "block")
    (sysfs / "devices/md127/md/degraded").write_text("1\n")
    assert is_degraded("/dev/null", sysfs / "block")


def test_what_is_no_array_or_is_gone_is_not_degraded(sysfs: Path, tmp_path: Path) -> None:
    (sysfs / "devices/md127/md/degraded").write_text("")
    assert not is_degraded("/dev/null", sysfs / "block")
    assert not is_degraded("/dev/null", tmp_path / "nothing")
    assert not is_degraded(str(tmp_path / "gone"))
    assert not is_degraded("/dev/null")
