# SPDX-License-Identifier: GPL-3.0-or-later
"""Where this machine may write memory to a disk in clear: swap and hibernation. proc(5), sysfs."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

_MEMORY = re.compile(r"/dev/zram\d+")


def warnings(root: Path = Path("/")) -> Iterator[str]:
    """Sentences, one for each swap that is not encrypted. `root` is where /proc and /sys are looked for."""
    plain = [place for place in _swaps(root) if not _MEMORY.fullmatch(place) and not _encrypted(place, root)]
    for place in plain:
        yield f"swap on {place} is not encrypted: what is in memory, passphrases among it, may be written there"
    if plain and _can_hibernate(root):
        yield "this machine can hibernate: then all memory is written to swap, in clear. Encrypt swap, or turn hibernation off"


def _swaps(root: Path) -> list[str]:
    try:
        lines = (root / "proc/swaps").read_text().splitlines()[1:]
    except OSError:
        return []
    return [re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split()[0]) for line in lines if line.strip()]


def _encrypted(place: str, root: Path) -> bool:
    """Whether everything that it lies on is dm-crypt's; what cannot be found out is not."""
    try:
        status = (root / place.lstrip("/")).stat()
    except OSError:
        return False
    device = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
    return _crypt(root / "sys/dev/block" / f"{os.major(device)}:{os.minor(device)}")


def _crypt(device: Path) -> bool:
    """Whether a block device is encrypted, or each of those below it (LVM, RAID, a partition)."""
    try:
        if (device / "dm/uuid").read_text().startswith("CRYPT-"):
            return True
    except OSError:
        pass
    try:
        below = list((device / "slaves").iterdir())
    except OSError:
        return False
    return bool(below) and all(_crypt(slave) for slave in below)


def _can_hibernate(root: Path) -> bool:
    try:
        return "disk" in (root / "sys/power/state").read_text().split() and (root / "sys/power/disk").read_text().strip() != "[disabled]"
    except OSError:
        return False
