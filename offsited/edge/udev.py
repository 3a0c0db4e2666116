# SPDX-License-Identifier: GPL-3.0-or-later
"""Block devices by the file system they hold, followed through udev. udev(7), pyudev.

RAID, LVM and encrypted volumes need no word here: udev says of each device what lies on it, and of an array's or a volume group's members
that they hold no file system.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyudev

from offsited import layers
from offsited.core.config import DiskTarget

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 64
"""Events that are read before anybody else has a turn; the next ones wait in the socket."""
_FILE_SYSTEM: Final = "filesystem"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class _FileSystem:
    """What udev says of a file system on a device; "" where it has none of it."""

    uuid: str
    label: str
    part: str
    """Of a file system on several devices (btrfs), which of them it is."""
    arrival: str
    """The device's own number, never used twice in one boot: another one each time that a medium is put in or a device is made."""

    def is_of(self, target: DiskTarget) -> bool:
        """Whether it is a target's."""
        return self.uuid.lower() == target.uuid.lower() if target.uuid is not None else self.label == target.label


def _nobody() -> None:
    return


class Udev:
    """Which file systems are there. The monitor starts before the devices are listed, so that none slips through between."""

    def __init__(self) -> None:
        self._on_change: Callable[[], None] = _nobody
        self._context = pyudev.Context()
        self._boot = _BOOT_ID.read_text("ascii").strip()
        self._found: dict[str, _FileSystem] = {}
        self._hollow: frozenset[str] = frozenset()
        self._monitor = pyudev.Monitor.from_netlink(self._context, "udev")
        self._monitor.filter_by("block")

    def start(self, on_change: Callable[[], None]) -> None:
        """Follow from now on, in the running event loop; `on_change` is called when a file system came or went."""
        self._on_change = on_change
        self._monitor.start()
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._drain)
        for device in self._context.list_devices(subsystem="block"):
            self._take(device)
        self._look_below()

    def present(self, target: DiskTarget) -> bool:
        """Whether the target's file system is on a device that is there."""
        return bool(self._of(target))

    def cloned(self, target: DiskTarget) -> bool:
        """Whether there are several file systems of the target's UUID or label, as after a copy of a whole disk or of a volume."""
        found = self._of(target)
        twice = Counter((one.uuid.lower(), one.part) for one in found)
        return len({one.uuid.lower() for one in found}) > 1 or any(number > 1 for number in twice.values())

    def arrival(self, target: DiskTarget) -> str:
        """Return what tells one arrival of the target's file system from another; "" = it is not there, or cloned."""
        found = self._of(target)
        return "" if not found or self.cloned(target) else f"{self._boot}:{min(one.arrival for one in found)}"

    def hollow(self, target: DiskTarget) -> str:
        """The kernel's name of a device that has the target's file system and lies on nothing any more; "" = there is none."""
        return next((Path(path).name for path in sorted(self._hollow) if self._found[path].is_of(target)), "")

    def _of(self, target: DiskTarget) -> list[_FileSystem]:
        return [one for path, one in self._found.items() if path not in self._hollow and one.is_of(target)]

    def _look_below(self) -> None:
        """No event tells of what lies on disks that go."""
        self._hollow = frozenset(path for path in self._found if layers.is_hollow(Path(path)))

    def _drain(self) -> None:
        before = dict(self._found), self._hollow
        try:
            for _ in range(_AT_ONCE):
                device = self._monitor.poll(timeout=0)
                if device is None:
                    break
                self._take(device)
        except OSError as error:  # ENOBUFS: events were lost, so look at everything
            _log.warning("udev: %s; listing all devices anew", error)
            self._found = {}
            for device in self._context.list_devices(subsystem="block"):
                self._take(device)
        self._look_below()
        if (self._found, self._hollow) != before:
            self._on_change()

    def _take(self, device: pyudev.Device) -> None:
        """A loop device that is detached does not go: it changes, and has no file system any more.

        Of an array whose disks are gone mdadm(8) says that it goes, and it does not as long as it is in use.
        """
        if device.action == "remove" and device.sys_path in self._found and layers.is_hollow(Path(device.sys_path)):
            return
        get = device.properties.get
        uuid, label = get("ID_FS_UUID", ""), get("ID_FS_LABEL", "")
        holds = (uuid or label) and get("ID_FS_USAGE", _FILE_SYSTEM) == _FILE_SYSTEM
        if device.action == "remove" or not holds:
            self._found.pop(device.sys_path, None)
        else:
            number = get("DISKSEQ", "") or get("USEC_INITIALIZED", "")
            self._found[device.sys_path] = _FileSystem(uuid, label, get("ID_FS_UUID_SUB", ""), number.rjust(20, "0"))
