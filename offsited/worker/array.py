# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the RAID array that a device lies on lacks a member: md(4), "degraded", found through volumes and partitions in sysfs."""

import os
from pathlib import Path
from typing import Final

_BLOCK_DEVICES: Final = Path("/sys/dev/block")


def is_degraded(device: str, block_devices: Path = _BLOCK_DEVICES) -> bool:
    """Given a device, say whether an array below it is degraded. One that is no array, or gone, is not."""
    try:
        number = os.stat(device).st_rdev
        return _is_degraded((block_devices / f"{os.major(number)}:{os.minor(number)}").resolve())
    except (OSError, ValueError):
        return False


def _is_degraded(directory: Path) -> bool:
    for array in (directory, directory.parent):  # a partition lies in its disk's directory
        found = array / "md" / "degraded"
        if found.exists() and int(found.read_text("ascii")) > 0:
            return True
    members = directory / "slaves"
    return members.is_dir() and any(_is_degraded(member.resolve()) for member in members.iterdir())
