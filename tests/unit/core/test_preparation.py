# SPDX-License-Identifier: GPL-3.0-or-later
"""What target prepare would do, and what it refuses: tables of what lsblk and wipefs show."""

import json
from typing import Any

import pytest

from offsited.core.preparation import FILE_SYSTEMS, Facts, Plan, Wish, refusals

GIB = 1 << 30
UUID = "85ca06b8-5ed4-4492-ae64-abc2946009eb"


def disk(name: str, *, kind: str = "disk", size: int = 4 * GIB, ro: bool = False, at: str | None = None, **more: Any) -> dict[str, Any]:
    """A block device as lsblk has it; its number follows from its name."""
    number = f"{len(name)}:{sum(map(ord, name))}"
    shown = {"path": f"/dev/{name}", "maj:min": number, "type": kind, "size": size, "ro": ro, "mountpoints": [at], "model": None}
    return {**shown, "serial": f"S-{name}" if kind == "disk" else None, **more}


def facts(*disks: dict[str, Any], **signatures: tuple[str, ...]) -> Facts:
    """A machine with these disks."""
    paths = {entry["path"] for top in disks for entry in _all(top)}
    found = {f"/dev/{name}": what for name, what in signatures.items()}
    return Facts(lsblk=json.dumps({"blockdevices": disks}), devices={path: path for path in paths}, signatures=found)


def _all(top: dict[str, Any]) -> list[dict[str, Any]]:
    return [top, *(entry for child in top.get("children", ()) for entry in _all(child))]


def wish(*devices: str, **more: Any) -> Wish:
    base = {"vault": "home", "target": "seed", "label": "SEED", "uuid": UUID, "devices": tuple(f"/dev/{name}" for name in devices)}
    return Wish.model_validate({**base, **more})


def commands(asked: Wish, found: Facts) -> list[str]:
    assert refusals(asked, found) == ()
    return [" ".join(step.command) for step in Plan.of(asked, found).steps]


THREE = facts(disk("a"), disk("b"), disk("c"))
XFS = f"mkfs.xfs -q -f -L SEED -m uuid={UUID}"
PV, VG = "--devices /dev/md/home_seed_85ca06b8", "offsited_home_seed_85ca06b8"


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (wish("a"), [f"{XFS} /dev/a"]),
        (wish("a", file_system="ext4"), [f"mkfs.ext4 -q -F -m 0 -L SEED -U {UUID} /dev/a"]),
        (wish("a", file_system="btrfs"), [f"mkfs.btrfs -q -f -L SEED -U {UUID} /dev/a"]),
        (
            wish("a", "b", "c", raid=5, lvm=True),
            [
                (
                    "mdadm --quiet --create /dev/md/home_seed_85ca06b8 --run --metadata=1.2 --homehost=any --name=home_seed_85ca06b8"
                    " --level=5 --raid-devices=3 --bitmap=internal /dev/a /dev/b /dev/c"
                ),
                f"pvcreate --quiet --yes {PV} /dev/md/home_seed_85ca06b8",
                f"vgcreate --quiet {PV} {VG} /dev/md/home_seed_85ca06b8",
                f"lvcreate --quiet --yes --wipesignatures y {PV} --extents 100%FREE --name seed {VG}",
                f"{XFS} /dev/{VG}/seed",
            ],
        ),
        (
            wish("a", "b", lvm=True),
            [
                "pvcreate --quiet --yes --devices /dev/a,/dev/b /dev/a /dev/b",
                f"vgcreate --quiet --devices /dev/a,/dev/b {VG} /dev/a /dev/b",
                f"lvcreate --quiet --yes --wipesignatures y --devices /dev/a,/dev/b --extents 100%FREE --name seed {VG}",
                f"{XFS} /dev/{VG}/seed",
            ],
        ),
    ],
)
def test_what_is_done(asked: Wish, wanted: list[str]) -> None:
    assert commands(asked, THREE) == wanted


def test_striping_has_no_bitmap() -> None:
    assert "--bitmap=internal" not in commands(wish("a", "b", raid=0), THREE)[0]


def test_what_was_made_is_taken_back_from_top_to_bottom() -> None:
    steps = Plan.of(wish("a", "b", "c", raid=5, lvm=True), THREE).steps
    undone = [command[0] for step in reversed(steps) for command in step.undo]
    assert undone == ["wipefs", "lvremove", "vgremove", "pvremove", "mdadm", "mdadm"]
    assert all(not step.undo for step in Plan.of(wish("a", wipe=("/dev/a",)), THREE).steps[:-1]), "what is wiped stays wiped"


LV = disk("mapper/old-lv", kind="lvm")
ARRAY = disk("md127", kind="raid1", children=[LV])
OLD = facts(disk("a", children=[ARRAY]), disk("b", children=[ARRAY]), a=("linux_raid_member home:0",), b=("linux_raid_member home:0",))


def test_wiping_goes_from_top_to_bottom() -> None:
    asked = wish("a", "b", raid=1, wipe=("/dev/a", "/dev/b"))
    assert commands(asked, OLD)[:5] == [
        "lvchange --quiet --activate n /dev/mapper/old-lv",
        "wipefs --quiet --all /dev/md127",
        "mdadm --quiet --stop /dev/md127",
        "wipefs --quiet --all /dev/a",
        "wipefs --quiet --all /dev/b",
    ]


def test_partitions_are_wiped_before_their_disk() -> None:
    found = facts(disk("a", children=[disk("a1", kind="part")]), a=("gpt", "dos"))
    assert commands(wish("a", wipe=("/dev/a",)), found)[:2] == ["wipefs --quiet --all /dev/a1", "wipefs --quiet --all /dev/a"]


@pytest.mark.parametrize(
    ("asked", "found", "why"),
    [
        (wish("x"), THREE, "/dev/x: there is no such block device"),
        (wish("a", "a", raid=1), THREE, "named twice"),
        (wish("a", wipe=("/dev/b",)), THREE, "--wipe /dev/b: not one of the devices"),
        (wish("a", "b"), THREE, "by --raid or --lvm alone"),
        (wish("a", raid=0), THREE, "RAID 0 takes at least 2"),
        (wish("a", raid=1), THREE, "RAID 1 takes at least 2"),
        (wish("a", "b", raid=5), THREE, "RAID 5 takes at least 3"),
        (wish("a", "b", "c", raid=6), THREE, "RAID 6 takes at least 4"),
        (wish("a", "b", "c", raid=10), THREE, "RAID 10 takes at least 4"),
        (wish("a", label="THIRTEEN-LONG"), THREE, "longer than the 12 bytes that xfs takes"),
        (wish("a"), facts(disk("a", at="/srv")), "in use: /srv"),
        (wish("a", wipe=("/dev/a",)), facts(disk("a", at="/srv")), "in use: /srv"),
        (wish("a", wipe=("/dev/a",)), facts(disk("a", children=[disk("a1", kind="part", at="[SWAP]")])), "in use: [SWAP]"),
        (wish("a", wipe=("/dev/a",)), facts(disk("a", children=[disk("md0", kind="raid1", children=[disk("v", at="/x")])])), "in use: /x"),
        (wish("a"), facts(disk("a", ro=True)), "read-only"),
        (wish("a"), facts(disk("a", size=200 << 20)), "200.0 MiB is too small"),
        (wish("a", "b", raid=1), facts(disk("a", size=200 << 20), disk("b", size=200 << 20)), "all together they give 200.0 MiB"),
        (wish("a"), facts(disk("a"), a=("xfs OLD",)), "holds xfs OLD. If that may be destroyed: --wipe /dev/a"),
        (wish("a"), facts(disk("a", children=[disk("a1", kind="part")])), "holds /dev/a1"),
        (wish("a"), OLD, "holds linux_raid_member home:0, /dev/mapper/old-lv, /dev/md127"),
        (wish("a", wipe=("/dev/a",)), OLD, "/dev/md127 on it also lies on /dev/b, which --wipe does not name"),
        (wish("md127"), OLD, "it is a raid1; name the disks themselves"),
        (wish("a", wipe=("/dev/a",)), facts(disk("a", children=[disk("c", kind="crypt")])), "/dev/c is in use on it; close that first"),
    ],
)
def test_what_is_refused(asked: Wish, found: Facts, why: str) -> None:
    assert why in "\n".join(refusals(asked, found))


def test_what_is_missing_is_named() -> None:
    asked = wish("a", "b", "c", raid=5, lvm=True)
    assert wish("a", wipe=("/dev/a",)).programs == {"mkfs.xfs": "xfsprogs"}
    assert asked.programs == {"mkfs.xfs": "xfsprogs", "mdadm": "mdadm", "vgcreate": "lvm2"}
    assert refusals(asked, THREE.model_copy(update={"missing": ("mdadm",)})) == ("mdadm is not installed: apt install mdadm",)


@pytest.mark.parametrize(("raid", "gib"), [(0, 16), (1, 4), (5, 12), (6, 8), (10, 8), (None, 16)])
def test_how_much_there_will_be(raid: int | None, gib: int) -> None:
    four = facts(*map(disk, "abcd"))
    assert Plan.of(wish(*"abcd", raid=raid, lvm=True), four).size == gib * GIB


def test_a_disk_is_confirmed_by_serial_number_or_size() -> None:
    plan = Plan.of(wish("a", "b", raid=1), facts(disk("a"), disk("b", serial=None)))
    assert plan.disks == (("/dev/a", "S-a"), ("/dev/b", str(4 * GIB)))
    assert "serial number S-a  empty" in plan.described[0]


def test_a_person_is_told_what_it_means() -> None:
    different = facts(disk("a"), disk("b", size=8 * GIB), b=("ext4 OLD",))
    plan = Plan.of(wish("a", "b", raid=0, wipe=("/dev/b",)), different)
    assert "DESTROYS ext4 OLD" in plan.described[1]
    assert plan.notes == ("The disks differ in size: of each, 4.0 GiB are used.", "One disk that fails takes everything with it.")


def test_other_disks_under_the_same_names_make_another_plan() -> None:
    asked = wish("a")
    assert Plan.of(asked, facts(disk("a"))) != Plan.of(asked, facts(disk("a", serial="another")))
    assert Plan.of(asked, facts(disk("a"))) != Plan.of(asked, facts(disk("a"), a=("xfs",)))


@pytest.mark.parametrize("name", FILE_SYSTEMS)
def test_names_of_arrays_fit(name: str) -> None:
    asked = wish("a", "b", "c", raid=5, vault="v" * 32, target="t" * 32, file_system=name)
    array = Plan.of(asked, THREE).device.rpartition("/")[2]
    assert len(f"any:{array}") == 32
