# SPDX-License-Identifier: GPL-3.0-or-later
"""Letting go of disks: the volumes and arrays on them are taken apart, so that a pull harms none, and a return makes each anew.

An array that runs while its disks are unplugged one by one tells each of those that are left that the others have failed; afterwards it
starts by force alone. dmsetup(8), mdadm(8), pvscan(8).

`python3 -I -m offsited.worker.releasing DEVICE` clears away what is left of disks that were pulled out: a device by the kernel's name, that
lies on nothing any more, and what is below.
"""

import asyncio
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from offsited import layers
from offsited.errors import Exit, Failed
from offsited.worker import process

_GROUPS_SEEN: Final = Path("/run/lvm/vgs_online")
"""A file for each volume group that was activated when its disks came. As long as it is there, it is not activated once more."""
_GROUP: Final = re.compile(r"(?:[^-]|--)+")
"""In the name of a volume: GROUP-VOLUME, with each hyphen of either doubled. lvm(8)."""
_MEMBERS: Final = ("linux_raid_member", "LVM2_member")


def main(arguments: Sequence[str]) -> int:
    """Clear away a device; return the exit status."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return Exit.USAGE
    try:
        asyncio.run(_clear(layers.SYSFS / "class/block" / arguments[0]))
    except Failed as error:
        print(error.message, file=sys.stderr)
        return Exit.FAILED
    return Exit.DONE


async def release(node: Path) -> None:
    """Take apart a device of sysfs, down to the disks. Raise Failed: somebody uses it."""
    for made in layers.made_of_disks(node):
        name = _name(made)
        await _run(take_apart(made))
        if group := _GROUP.match(name):  # an encrypted volume is of none, and there is no such file
            (_GROUPS_SEEN / group[0].replace("--", "-")).unlink(missing_ok=True)


def take_apart(node: Path) -> list[str]:
    """Return the command that takes away a volume or an array. udev may just be looking at a volume: it is tried again."""
    name = _name(node)
    return ["dmsetup", "remove", "--retry", "--noudevsync", name] if name else ["mdadm", "--quiet", "--stop", f"/dev/{node.name}"]


async def _clear(node: Path) -> None:
    """Disks that were back before there was room for them are told of once more."""
    await release(node)
    again = [f"--property-match=ID_FS_TYPE={kind}" for kind in _MEMBERS]
    await _run(["udevadm", "trigger", "--action=add", "--subsystem-match=block", *again])


def _name(node: Path) -> str:
    """Of a volume; "" = it is an array."""
    try:
        return (node / "dm/name").read_text().strip()
    except OSError:
        return ""


async def _run(command: Sequence[str]) -> None:
    try:
        ended = await process.run(command, on_line=process.relay)
    except OSError as error:
        raise Failed(f"{command[0]} cannot be run: {error.strerror}") from error
    if ended.status:
        raise Failed(ended.complaints.strip() or f"{command[0]} ended with status {ended.status}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
