# SPDX-License-Identifier: GPL-3.0-or-later
"""target prepare: one array that is made, loses a disk and grows, and one disk with a volume; on one machine, in this order."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .guest import Ended, Guest, running
from .homes import NAME, Home

THREE = ("first", "second", "third")
BROKEN = 100 << 20
"""In the first half of a disk, where XFS puts the head of a group."""


@pytest.fixture(scope="module")
def guest(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A machine with three disks and a vault whose target is none of them yet."""
    with running(made, tmp_path_factory.mktemp("raid"), Path(os.environ["OFFSITED_VM_OUT"]) / "raid") as machine:
        machine.boot()
        for disk in THREE:
            machine.plug(disk)
        yield machine


@pytest.fixture(scope="module")
def home(guest: Guest) -> Home:
    return Home(guest, "seed=disk:LABEL=SEED")


def device(disk: str) -> str:
    return f"/dev/disk/by-id/virtio-{disk}"


def prepare(guest: Guest, target: str, disks: tuple[str, ...], *options: str) -> Ended:
    """Each disk is confirmed by its serial number."""
    devices = map(device, disks)
    return guest.run("offsitectl", "target", "prepare", NAME, target, "--devices", *devices, *options, "--confirm", *disks, "--json")


def array(guest: Guest) -> str:
    """The one that is there."""
    (found,) = guest.must("sh", "-c", "ls -d /dev/md/*").split()
    return found


def test_three_disks_become_raid_lvm_and_a_file_system(guest: Guest, home: Home) -> None:
    ended = prepare(guest, "seed", THREE, "--raid", "5", "--lvm")
    assert ended.status == 0, ended
    told = ended.json
    assert (told["label"], told["device"]) == ("SEED", f"/dev/offsited_home_seed_{told['uuid'][:8]}/seed")
    assert re.fullmatch(r"/dev/md/home_seed_[0-9a-f]{8}", array(guest))
    kinds = guest.must("lsblk", "--noheadings", "--raw", "--output", "TYPE,FSTYPE", device("first")).split()
    assert kinds == ["disk", "linux_raid_member", "raid5", "LVM2_member", "lvm", "xfs"]
    assert home.synced()["sent_entries"] == 1


def test_what_is_on_them_is_destroyed_only_if_all_of_it_is_named(guest: Guest, home: Home) -> None:
    ended = prepare(guest, "seed", THREE, "--raid", "5", "--lvm")
    assert (ended.status, ended.stderr.count("it holds linux_raid_member")) == (2, 3)
    ended = prepare(guest, "other", THREE[:1], "--wipe", device("first"))
    assert ended.status == 2
    assert "also lies on" in ended.stderr
    assert home.synced()["sent_entries"] == 0
    ended = prepare(guest, "seed", THREE, "--raid", "5", "--lvm", "--wipe", *map(device, THREE))
    assert ended.status == 0, ended
    assert home.synced()["sent_entries"] == 1


def test_a_step_that_fails_is_taken_back(guest: Guest, home: Home) -> None:
    """mkfs.xfs meets a disk that does not take what it writes; LVM had been made."""
    guest.plug("broken", 400 << 20, broken=BROKEN)
    ended = prepare(guest, "frail", ("broken",), "--lvm")
    assert (ended.status, ended.json["error"]) == (1, "failed")
    assert "mkfs.xfs ended with status 1" in ended.stderr
    assert guest.must("wipefs", device("broken")) == ""
    assert "frail" not in guest.must("sh", "-c", "vgs; cat /etc/offsited/vaults.d/home.toml")
    assert home.synced()["outcome"] == "done"
    guest.unplug("broken")


def test_a_disk_fails_and_the_copy_goes_on(guest: Guest, home: Home) -> None:
    guest.unplug("second")
    assert "[U_U]" in guest.must("cat", "/proc/mdstat")
    home.snapshot("2026-01-02", two="second")
    assert home.synced()["sent_entries"] == 1
    assert home.told() == ["degraded"]
    assert "degraded: an array that the target lies on lacks a disk" in guest.must("offsitectl", "status")


def test_it_grows_as_the_guide_says(guest: Guest, home: Home) -> None:
    """offsited-prepare(7): another disk in place of the one that failed, a fourth one for RAID 6, and a fifth one for room."""
    md = array(guest)
    group = f"offsited_home_seed_{md.rpartition('_')[2]}"
    for disk in ("fourth", "fifth", "sixth"):
        guest.plug(disk)
    guest.must("mdadm", md, "--add", device("fourth"))
    _wait(guest, md)
    guest.must("mdadm", md, "--add", device("fifth"))
    guest.must("mdadm", "--grow", md, "--level=6", "--raid-devices=4", "--backup-file=/root/seed.backup")
    _wait(guest, md)
    assert "level 6" in guest.must("cat", "/proc/mdstat")
    guest.must("mdadm", md, "--add", device("sixth"))
    guest.must("mdadm", "--grow", md, "--raid-devices=5", "--backup-file=/root/seed.backup")
    _wait(guest, md)
    assert "[UUUUU]" in guest.must("cat", "/proc/mdstat")
    before = _capacity(guest)
    guest.must("pvresize", md)
    guest.must("lvextend", "--extents", "+100%FREE", f"{group}/seed")
    guest.must("mount", f"/dev/{group}/seed", "/mnt")
    guest.must("xfs_growfs", "/mnt")
    guest.must("umount", "/mnt")
    home.snapshot("2026-01-03", two="second", three="third")
    home.synced()
    assert _capacity(guest) > before * 1.3
    assert home.told() == ["degraded", "recovered"]


def _wait(guest: Guest, md: str) -> None:
    """mdadm(8): --wait exits 1 where there is nothing to wait for."""
    assert guest.run("mdadm", "--wait", md).status in {0, 1}


def _capacity(guest: Guest) -> int:
    """Of the target, as the last sync found it."""
    (found,) = re.findall(
        r'"capacity": ?(\d+)', guest.must("sh", "-c", f"ls -t /var/lib/offsited/vaults/{NAME}/state/jobs/*.json | head -1 | xargs cat")
    )
    return int(found)


def test_a_disk_below_a_volume_alone_comes_back_too(guest: Guest, home: Home) -> None:
    """It is pulled out while nothing runs; the volume that the kernel keeps is cleared away, and made anew."""
    guest.plug("alone", 400 << 20)
    ended = prepare(guest, "alone", ("alone",), "--lvm")
    assert ended.status == 0, ended
    volume = f"/sys/class/block/{guest.must('realpath', ended.json['device']).strip().rpartition('/')[2]}"
    guest.pull("alone")
    guest.until(f"! test -e {volume}")
    guest.plug("alone", 400 << 20)
    guest.must("udevadm", "wait", "--timeout=120", f"/dev/disk/by-uuid/{ended.json['uuid']}")
    assert home.synced("--target", "alone")["outcome"] == "done"
