# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies below a file system, by trees as sysfs has them. On a kernel with md and the device mapper: tests/vm."""

from pathlib import Path

import pytest

from offsited.layers import is_hollow, lacking, made_of_disks


class Sysfs:
    """Devices, each on others. One that lies on what is not there has links that lead nowhere, as the kernel leaves them."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.devices = top / "devices"
        (top / "class/block").mkdir(parents=True)

    def device(self, name: str, *slaves: str, **files: str) -> Path:
        """Add a device. `files`: what is in its directory, each `/` in a name as two underscores."""
        node = self.devices / name
        (node / "slaves").mkdir(parents=True)
        for file, content in files.items():
            path = node / file.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{content}\n")
        for slave in slaves:
            (node / "slaves" / Path(slave).name).symlink_to(self.devices / slave)
        (self.top / "class/block" / node.name).symlink_to(node)
        return node

    def array(self, *slaves: str, degraded: str = "0", action: str = "idle", state: str = "clean") -> Path:
        return self.device("md127", *slaves, md__degraded=degraded, md__sync_action=action, md__array_state=state)

    def volume(self, *slaves: str, name: str = "group-seed", uuid: str = "LVM-x") -> Path:
        return self.device("dm-0", *slaves, dm__name=name, dm__uuid=uuid)


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    (tmp_path / "link").symlink_to("../../dm-0")
    return Sysfs(tmp_path)


@pytest.mark.parametrize("partition", [False, True])
@pytest.mark.parametrize(
    ("degraded", "action", "found"),
    [("0", "idle", 0), ("1", "idle", 1), ("2", "check", 2), ("1", "recover", None), ("1", "reshape", None), ("0", "resync", 0)],
)
def test_what_an_array_lacks(sysfs: Sysfs, *, degraded: str, action: str, found: int | None, partition: bool) -> None:
    sysfs.device("vda")
    sysfs.array("vda", degraded=degraded, action=action)
    if partition:
        sysfs.device("md127/md127p1", partition="1")
    sysfs.volume("md127/md127p1" if partition else "md127")
    assert lacking(sysfs.top / "link", sysfs.top) == found


def test_what_cannot_lack_a_disk(sysfs: Sysfs) -> None:
    sysfs.device("vda")
    sysfs.device("md127", "vda", md__level="raid0")
    sysfs.volume("md127")
    assert lacking(sysfs.top / "link", sysfs.top) == 0


def test_an_array_without_any_disk_is_not_one_that_lacks_disks(sysfs: Sysfs) -> None:
    """What was told of it before they were pulled out holds."""
    sysfs.array(degraded="3", state="broken")
    sysfs.volume("md127")
    assert lacking(sysfs.top / "link", sysfs.top) is None


def test_a_disk_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert lacking(tmp_path / "by-uuid" / "x", tmp_path) is None


@pytest.mark.parametrize(
    ("members", "state", "hollow"),
    [
        (("vda", "vdb"), "clean", False),
        (("vda", "gone"), "active", False),
        (("gone", "gone too"), "active", True),
        ((), "clean", True),
        (("vda", "gone", "gone too"), "broken", True),
    ],
)
@pytest.mark.parametrize("partition", [False, True])
def test_an_array_whose_disks_are_gone_is_hollow_and_so_is_what_lies_on_it(
    sysfs: Sysfs, *, members: tuple[str, ...], state: str, hollow: bool, partition: bool
) -> None:
    for disk in ("vda", "vdb"):
        sysfs.device(disk)
    array = sysfs.array(*members, state=state)
    if partition:
        sysfs.device("md127/md127p1", partition="1")
    assert is_hollow(sysfs.volume("md127/md127p1" if partition else "md127")) is hollow
    assert is_hollow(array) is hollow


@pytest.mark.parametrize(("members", "hollow"), [(("vda",), False), (("vda", "gone"), False), (("gone",), True)])
def test_a_volume_on_disks_is_hollow_without_all_of_them(sysfs: Sysfs, *, members: tuple[str, ...], hollow: bool) -> None:
    """The device mapper may have mirrored what is on one of them."""
    disk = sysfs.device("vda")
    assert is_hollow(sysfs.volume(*members)) is hollow
    assert is_hollow(disk) is False


def test_what_disks_were_made_into_is_known_from_the_top_to_the_bottom(sysfs: Sysfs) -> None:
    for disk in ("vda", "vdb"):
        sysfs.device(disk)
    sysfs.array("vda", "vdb")
    sysfs.device("md127/md127p1", partition="1")
    sysfs.device("dm-1", "md127/md127p1", dm__uuid="CRYPT-LUKS2-x", dm__name="secret")
    volume = sysfs.volume("dm-1", "md127")
    assert [node.name for node in made_of_disks(sysfs.top / "class/block" / volume.name)] == ["dm-0", "dm-1", "md127"]


def test_a_disk_by_several_ways_is_a_disk(sysfs: Sysfs) -> None:
    sysfs.device("vda")
    assert made_of_disks(sysfs.device("dm-7", "vda", dm__uuid="mpath-x", dm__name="mpatha")) == []
