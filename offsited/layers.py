# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file system's device lies on, as sysfs shows it: through LVM, partitions and encryption down to md. Linux, admin-guide/md.rst."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

SYSFS: Final = Path("/sys")
_MENDING: Final = frozenset({"recover", "reshape", "resync"})
_BROKEN: Final = "broken"
_MAPPINGS: Final = ("LVM-", "CRYPT-")
"""How the device mapper's own UUID begins where somebody made a volume of disks; multipath is a disk itself."""


def node_of(device: Path, sysfs: Path = SYSFS) -> Path | None:
    """Given udev's link to a device, return its node. The device itself need not be seen. None: it is not there."""
    try:
        return sysfs / "class/block" / device.readlink().name
    except OSError:
        return None


def lacking(device: Path, sysfs: Path = SYSFS) -> int | None:
    """Given udev's link to the device of a file system, return how many disks the arrays below it lack.

    None: it is not there, or all of its disks are gone, or an array is about to get one, and what was told of it holds until it has.
    """
    node = node_of(device, sysfs)
    return _lacking(node) if node and not is_hollow(node) else None


def is_hollow(node: Path) -> bool:
    """Whether all that a device lies on is gone, and it alone is left.

    A volume is not taken away with its disk, nor is an array below one. Whoever reads or writes there gets errors; and when the disks come
    back, neither is made anew, as it is there.
    """
    below = _listed(node / "slaves")
    if _is_array(node):
        return not any(one.exists() for one in below) or _word(node / "md/array_state") == _BROKEN
    if _is_partition(node):
        return is_hollow(node.resolve().parent)
    return bool(below) and all(not one.exists() or is_hollow(one) for one in below)


def made_of_disks(node: Path) -> list[Path]:
    """Volumes and arrays from a device down to its disks, the highest first."""
    return list(dict.fromkeys(_made(node.resolve())))


def _made(node: Path) -> Iterator[Path]:
    if _is_partition(node):
        yield from _made(node.parent)
    elif _is_array(node) or _word(node / "dm/uuid").startswith(_MAPPINGS):
        yield node
        for below in _listed(node / "slaves"):
            yield from _made(below.resolve())


def _lacking(node: Path) -> int | None:
    found = [_lacked(node), *(_lacking(slave) for slave in _listed(node / "slaves"))]
    if _is_partition(node):
        found.append(_lacking(node.resolve().parent))
    return None if None in found else sum(count for count in found if count)


def _lacked(node: Path) -> int | None:
    """By an array itself; 0 where there is none, or one that cannot lack any."""
    try:
        count = int((node / "md/degraded").read_text())
    except (OSError, ValueError):
        return 0
    return None if count and _word(node / "md/sync_action") in _MENDING else count


def _is_array(node: Path) -> bool:
    return (node / "md").is_dir()


def _is_partition(node: Path) -> bool:
    return (node / "partition").exists()


def _word(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []
