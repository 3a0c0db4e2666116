# SPDX-License-Identifier: GPL-3.0-or-later
"""Preparing a disk target: from what is wished and what is found on the disks to steps, or to why not. Pure.

lsblk(8), wipefs(8), mdadm(8), lvm(8), mkfs.xfs(8), mkfs.ext4(8), mkfs.btrfs(8).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from offsited.core import words

LEAST: Final[Mapping[int, int]] = {0: 2, 1: 2, 5: 3, 6: 4, 10: 4}
"""RAID levels, and how many disks each takes at least."""
SMALLEST: Final = 300 << 20
"""Bytes; mkfs.xfs makes nothing smaller."""
COLUMNS: Final = ("PATH", "MAJ:MIN", "TYPE", "SIZE", "RO", "SERIAL", "MODEL", "MOUNTPOINTS")
"""What is wanted of lsblk(8)."""
_USABLE: Final = frozenset({"disk", "loop", "part"})
_IN_THE_WAY: Final = ("lvm", "raid", "md")
"""Kinds of devices on top of a disk that can be taken away; raid1, raid5, ... and what is not running yet. Others are their owner's."""
_NAMED: Final = 19
"""Of an array's name, for vault and target: it takes 32 bytes, with `any:` before it and a part of the UUID behind, mdadm(8)."""


@dataclass(frozen=True)
class FileSystem:
    """How one is made. Empty disks may still hold what an array had: that they are empty was found out before, so it is forced."""

    command: tuple[str, ...]
    label: str
    uuid: tuple[str, str]
    """Option, and what stands before the UUID."""
    longest_label: int
    package: str


FILE_SYSTEMS: Final[Mapping[str, FileSystem]] = {
    "xfs": FileSystem(("mkfs.xfs", "-q", "-f"), "-L", ("-m", "uuid="), 12, "xfsprogs"),
    "ext4": FileSystem(("mkfs.ext4", "-q", "-F", "-m", "0"), "-L", ("-U", ""), 16, "e2fsprogs"),
    "btrfs": FileSystem(("mkfs.btrfs", "-q", "-f"), "-L", ("-U", ""), 255, "btrfs-progs"),
}


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Wish(_Value):
    """What was typed, with what was chosen for it."""

    vault: str
    target: str
    devices: tuple[str, ...]
    raid: int | None = None
    lvm: bool = False
    file_system: str = "xfs"
    label: str
    uuid: str
    wipe: tuple[str, ...] = ()

    @property
    def programs(self) -> dict[str, str]:
        """The programs that it takes, and the package of each."""
        making = FILE_SYSTEMS[self.file_system]
        wanted = {making.command[0]: making.package}
        if self.raid is not None:
            wanted["mdadm"] = "mdadm"
        if self.lvm:
            wanted["vgcreate"] = "lvm2"
        return wanted


def _mounts(value: Any) -> Any:  # noqa: ANN401 - of JSON
    return tuple(place for place in value or () if place)


class Node(BaseModel):
    """A block device as lsblk shows it, with those on top of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    path: str
    number: Annotated[str, Field(alias="maj:min")]
    type: str
    size: int
    read_only: Annotated[bool, Field(alias="ro")]
    serial: Annotated[str, BeforeValidator(lambda value: value or "")] = ""
    model: Annotated[str, BeforeValidator(lambda value: value or "")] = ""
    mounts: Annotated[tuple[str, ...], Field(alias="mountpoints"), BeforeValidator(_mounts)] = ()
    children: tuple["Node", ...] = ()

    @property
    def identity(self) -> str:
        """What a person types to confirm that this is the one."""
        return self.serial.strip() or str(self.size)

    def above(self) -> Iterator["Node"]:
        """What lies on it, the highest first."""
        for child in self.children:
            yield from child.above()
            yield child


class Facts(_Value):
    """What was found on this machine."""

    lsblk: str
    """Its JSON: as it stands, so that two looks can be compared."""
    devices: dict[str, str] = Field(default_factory=dict)
    """Each device as it was typed, and its real path; one that does not exist is not there."""
    signatures: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """What wipefs(8) finds on each of them."""
    missing: tuple[str, ...] = ()
    """Packages."""

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All block devices, as trees."""
        return tuple(Node.model_validate(entry) for entry in json.loads(self.lsblk)["blockdevices"])


class Step(_Value):
    """One command, and what takes back what it has done, or a part of it."""

    command: tuple[str, ...]
    undo: tuple[tuple[str, ...], ...] = ()


class Plan(_Value):
    """What will be done. `disks` have `(path, identity)` to be confirmed."""

    steps: tuple[Step, ...]
    device: str
    """Holds the file system in the end."""
    disks: tuple[tuple[str, str], ...]
    described: tuple[str, ...]
    """The same disks for a person."""
    notes: tuple[str, ...]
    size: int
    """Bytes, roughly, that the file system will have."""

    @classmethod
    def of(cls, wish: Wish, facts: Facts) -> Self:
        """Given a wish that nothing speaks against, return the plan."""
        disks = _chosen(wish, facts)
        wiping = tuple(_wipe(wish, facts, disks))
        return cls(
            steps=(*wiping, *_make(wish, tuple(disk.path for disk in disks))),
            device=_device(wish, disks[0].path),
            disks=tuple((disk.path, disk.identity) for disk in disks),
            described=tuple(_described(disk, _held(disk, facts)) for disk in disks),
            notes=tuple(_notes(wish, disks)),
            size=_usable(wish, disks),
        )


class Order(_Value):
    """What somebody has confirmed, for the worker."""

    wish: Wish
    plan: Plan
    vault_id: str
    directory: str
    """The vault's, in the new file system."""


def refusals(wish: Wish, facts: Facts) -> tuple[str, ...]:
    """Given a wish and what was found, return a sentence for each thing that speaks against it."""
    absent = [f"{device}: there is no such block device" for device in (*wish.devices, *wish.wipe) if device not in facts.devices]
    found = tuple(dict.fromkeys((*_of_wish(wish, facts), *absent)))
    return found or tuple(sentence for disk in _chosen(wish, facts) for sentence in _of_disk(wish, facts, disk)) or _of_size(wish, facts)


def _of_wish(wish: Wish, facts: Facts) -> Iterator[str]:
    yield from (f"{package} is not installed: apt install {package}" for package in facts.missing)
    if len({facts.devices.get(device, device) for device in wish.devices}) < len(wish.devices):
        yield "a device is named twice"
    yield from (
        f"--wipe {device}: not one of the devices" for device in wish.wipe if facts.devices.get(device) not in _paths(wish.devices, facts)
    )
    if wish.raid is not None and len(wish.devices) < LEAST[wish.raid]:
        yield f"RAID {wish.raid} takes at least {LEAST[wish.raid]} devices"
    if wish.raid is None and not wish.lvm and len(wish.devices) > 1:
        yield "several devices become one file system by --raid or --lvm alone"
    longest = FILE_SYSTEMS[wish.file_system].longest_label
    if len(wish.label.encode()) > longest:
        yield f"the label {wish.label} is longer than the {longest} bytes that {wish.file_system} takes"


def _of_disk(wish: Wish, facts: Facts, disk: Node) -> Iterator[str]:
    everything = (disk, *disk.above())
    places = [place for node in everything for place in node.mounts]
    if disk.type not in _USABLE:
        yield f"{disk.path}: it is a {disk.type}; name the disks themselves"
    elif disk.read_only:
        yield f"{disk.path}: it is read-only"
    elif places:
        yield f"{disk.path}: it is in use: {', '.join(sorted(set(places)))}"
    elif disk.path not in _paths(wish.wipe, facts):
        held = _held(disk, facts)
        if held:
            yield f"{disk.path}: it holds {held}. If that may be destroyed: --wipe {disk.path}"
    else:
        yield from _not_to_be_wiped(wish, facts, disk)


def _not_to_be_wiped(wish: Wish, facts: Facts, disk: Node) -> Iterator[str]:
    for node in disk.above():
        if node.type != "part" and not node.type.startswith(_IN_THE_WAY):
            yield f"{disk.path}: {node.path} is in use on it; close that first"
        elif others := sorted(_below(node, facts) - _paths(wish.wipe, facts)):
            yield f"{disk.path}: {node.path} on it also lies on {', '.join(others)}, which --wipe does not name"


def _of_size(wish: Wish, facts: Facts) -> tuple[str, ...]:
    disks = _chosen(wish, facts)
    small = [f"{disk.path}: {words.size(disk.size)} is too small" for disk in disks if disk.size < SMALLEST // len(disks)]
    if not small and _usable(wish, disks) < SMALLEST:
        return (f"all together they give {words.size(_usable(wish, disks))}, and a file system takes {words.size(SMALLEST)}",)
    return tuple(small)


def _paths(typed: tuple[str, ...], facts: Facts) -> set[str]:
    return {facts.devices[device] for device in typed if device in facts.devices}


def _chosen(wish: Wish, facts: Facts) -> tuple[Node, ...]:
    everything = {node.path: node for top in facts.nodes for node in (*top.above(), top)}
    return tuple(everything[facts.devices[device]] for device in wish.devices)


def _below(wanted: Node, facts: Facts) -> set[str]:
    """The disks that something lies on."""
    return {top.path for top in facts.nodes if any(node.number == wanted.number for node in top.above())}


def _held(disk: Node, facts: Facts) -> str:
    """What is on a disk, "" = nothing that is known."""
    on_top = dict.fromkeys(node.path for node in disk.above())
    return ", ".join((*facts.signatures.get(disk.path, ()), *on_top))


def _described(disk: Node, held: str) -> str:
    serial = f"serial number {disk.serial.strip()}" if disk.serial.strip() else "no serial number"
    known = " ".join(filter(None, (disk.model.strip(), serial)))
    fate = f"DESTROYS {held}" if held else "empty"
    return f"{disk.path}  {words.size(disk.size)} ({disk.size} bytes)  {known}  {fate}"


def _notes(wish: Wish, disks: tuple[Node, ...]) -> Iterator[str]:
    sizes = [disk.size for disk in disks]
    if wish.raid is not None and max(sizes) - min(sizes) > max(sizes) // 100:
        yield f"The disks differ in size: of each, {words.size(min(sizes))} are used."
    if len(disks) > 1 and wish.raid in {None, 0}:
        yield "One disk that fails takes everything with it."


def _usable(wish: Wish, disks: tuple[Node, ...]) -> int:
    """Bytes, roughly: RAID, LVM and the file system keep some for themselves."""
    if wish.raid is None:
        return sum(disk.size for disk in disks)
    count = len(disks)
    halves = {0: 2 * count, 1: 2, 5: 2 * (count - 1), 6: 2 * (count - 2), 10: count}[wish.raid]
    return halves * min(disk.size for disk in disks) // 2


# --- steps -----------------------------------------------------------------------------------------------------------


def _wipe(wish: Wish, facts: Facts, disks: tuple[Node, ...]) -> Iterator[Step]:
    """From top to bottom: what is wiped at the bottom alone comes back when the same array is made again."""
    wiped = [disk for disk in disks if disk.path in _paths(wish.wipe, facts)]
    above = {node.path: node for disk in wiped for node in disk.above()}.values()
    yield from (Step(command=("lvchange", "--quiet", "--activate", "n", node.path)) for node in above if node.type == "lvm")
    for node in above:
        if node.type != "lvm" and node.size:
            yield Step(command=("wipefs", "--quiet", "--all", node.path))
        if node.type not in {"lvm", "part"}:
            yield Step(command=("mdadm", "--quiet", "--stop", node.path))
    yield from (Step(command=("wipefs", "--quiet", "--all", disk.path)) for disk in wiped)


def _make(wish: Wish, disks: tuple[str, ...]) -> Iterator[Step]:
    if wish.raid is not None:
        yield _raid(wish, disks)
    if wish.lvm:
        yield from _lvm(wish, (_array(wish),) if wish.raid is not None else disks)
    making, device = FILE_SYSTEMS[wish.file_system], _device(wish, disks[0])
    option, prefix = making.uuid
    command = (*making.command, making.label, wish.label, option, f"{prefix}{wish.uuid}", device)
    yield Step(command=command, undo=(("wipefs", "--quiet", "--all", device),))


def _raid(wish: Wish, disks: tuple[str, ...]) -> Step:
    """`any`: it is assembled under its name by whatever machine it is carried to."""
    array = _array(wish)
    bitmap = ("--bitmap=internal",) if wish.raid else ()
    name = array.rpartition("/")[2]
    shape = (f"--name={name}", f"--level={wish.raid}", f"--raid-devices={len(disks)}", *bitmap)
    return Step(
        command=("mdadm", "--quiet", "--create", array, "--run", "--metadata=1.2", "--homehost=any", *shape, *disks),
        undo=(("mdadm", "--quiet", "--stop", array), ("mdadm", "--quiet", "--zero-superblock", *disks)),
    )


def _lvm(wish: Wish, below: tuple[str, ...]) -> Iterator[Step]:
    """LVM is shown the devices that it is to use, and no others."""
    group, seen = _group(wish), ("--devices", ",".join(below))
    wiped = ("pvremove", "--quiet", "--force", "--yes", *seen, *below)
    yield Step(command=("pvcreate", "--quiet", "--yes", *seen, *below), undo=(wiped,))
    yield Step(command=("vgcreate", "--quiet", *seen, group, *below), undo=(("vgremove", "--quiet", "--force", "--yes", *seen, group),))
    yield Step(
        command=("lvcreate", "--quiet", "--yes", "--wipesignatures", "y", *seen, "--extents", "100%FREE", "--name", wish.target, group),
        undo=(("lvremove", "--quiet", "--force", "--yes", *seen, f"{group}/{wish.target}"),),
    )


def _array(wish: Wish) -> str:
    return f"/dev/md/{f'{wish.vault}_{wish.target}'[:_NAMED]}_{_once(wish)}"


def _group(wish: Wish) -> str:
    return f"offsited_{wish.vault}_{wish.target}_{_once(wish)}"


def _once(wish: Wish) -> str:
    """What no other array and volume group is called by: what takes back a step that failed must not hit an older one of the same name."""
    return wish.uuid[:8]


def _device(wish: Wish, disk: str) -> str:
    """Where the file system goes."""
    if wish.lvm:
        return f"/dev/{_group(wish)}/{wish.target}"
    return _array(wish) if wish.raid is not None else disk
