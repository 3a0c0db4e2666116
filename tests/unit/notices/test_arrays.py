# SPDX-License-Identifier: GPL-3.0-or-later
"""Arrays below a file system, by trees as sysfs has them. On a kernel with md: tests/vm."""

from pathlib import Path

import pytest

from offsited.notices.arrays import lacking


def sysfs(top: Path, *, degraded: str | None, action: str = "idle", partition: bool = False) -> Path:
    """A logical volume on an array, or on a partition of one, on two disks."""
    devices = top / "devices"
    array = devices / "md127"
    (array / "md").mkdir(parents=True)
    if degraded is not None:
        (array / "md/degraded").write_text(degraded)
        (array / "md/sync_action").write_text(f"{action}\n")
    volume = devices / "dm-0"
    (volume / "slaves").mkdir(parents=True)
    below = array
    if partition:
        below = array / "md127p1"
        below.mkdir()
        (below / "partition").write_text("1\n")
    (volume / "slaves" / below.name).symlink_to(below)
    (top / "class/block").mkdir(parents=True)
    (top / "class/block/dm-0").symlink_to(volume)
    return top


@pytest.mark.parametrize("partition", [False, True])
@pytest.mark.parametrize(
    ("degraded", "action", "found"),
    [
        ("0\n", "idle", 0),
        ("1\n", "idle", 1),
        ("2\n", "check", 2),
        ("1\n", "recover", None),
        ("1\n", "reshape", None),
        ("0\n", "resync", 0),
        (None, "", 0),
    ],
)
def test_what_an_array_lacks(tmp_path: Path, *, degraded: str | None, action: str, found: int | None, partition: bool) -> None:
    (tmp_path / "link").symlink_to("../../dm-0")
    assert lacking(tmp_path / "link", sysfs(tmp_path, degraded=degraded, action=action, partition=partition)) == found


def test_a_disk_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert lacking(tmp_path / "by-uuid" / "x", tmp_path) is None
