# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an array that a file system lies on lacks disks: through LVM, partitions and encryption down to md. Linux, admin-guide/md.rst."""

from pathlib import Path

_MENDING = frozenset({"recover", "reshape", "resync"})


def lacking(device: Path, sysfs: Path = Path("/sys")) -> int | None:
    """Given udev's link to the device of a file system, return how many disks the arrays below it lack. The device itself need not be seen.

    None: it is not there, or an array is about to get one, and what was told of it holds until it has.
    """
    try:
        name = device.readlink().name
    except OSError:
        return None
    return _below(sysfs / "class/block" / name)


def _below(node: Path) -> int | None:
    found = [_array(node / "md"), *(_below(slave) for slave in _listed(node / "slaves"))]
    if (node / "partition").exists():
        found.append(_below(node.resolve().parent))
    return None if None in found else sum(count for count in found if count)


def _array(md: Path) -> int | None:
    """Of one array; 0 where there is none, or one that cannot lack any."""
    try:
        count = int((md / "degraded").read_text())
    except (OSError, ValueError):
        return 0
    return None if count and _word(md / "sync_action") in _MENDING else count


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
