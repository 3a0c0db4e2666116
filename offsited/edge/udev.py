# SPDX-License-Identifier: GPL-3.0-or-later
"""Block devices by the file system they hold, followed through udev. udev(7), pyudev."""

import asyncio
import logging
from collections.abc import Callable

import pyudev

from offsited.core.config import DiskTarget

_log = logging.getLogger(__name__)

_Identity = tuple[str, str]
"""UUID and label of a file system, "" where it has none."""


def _nobody() -> None:
    return


class Udev:
    """Which file systems are there. The monitor starts before the devices are listed, so that none slips through between."""

    def __init__(self) -> None:
        self._on_change: Callable[[], None] = _nobody
        self._context = pyudev.Context()
        self._found: dict[str, _Identity] = {}
        self._monitor = pyudev.Monitor.from_netlink(self._context, "udev")
        self._monitor.filter_by("block")

    def start(self, on_change: Callable[[], None]) -> None:
        """Follow from now on, in the running event loop; `on_change` is called when a file system came or went."""
        self._on_change = on_change
        self._monitor.start()
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._drain)
        for device in self._context.list_devices(subsystem="block"):
            self._take(device)

    def present(self, target: DiskTarget) -> bool:
        """Whether the target's file system is on a device that is there."""
        if target.uuid is not None:
            return any(uuid.lower() == target.uuid.lower() for uuid, _label in self._found.values())
        return any(label == target.label for _uuid, label in self._found.values())

    def _drain(self) -> None:
        before = dict(self._found)
        try:
            while (device := self._monitor.poll(timeout=0)) is not None:
                self._take(device)
        except OSError as error:  # ENOBUFS: events were lost, so look at everything
            _log.warning("udev: %s; listing all devices anew", error)
            self._found = {}
            for device in self._context.list_devices(subsystem="block"):
                self._take(device)
        if self._found != before:
            self._on_change()

    def _take(self, device: pyudev.Device) -> None:
        """A loop device that is detached does not go: it changes, and has no file system any more."""
        properties = device.properties
        uuid, label = properties.get("ID_FS_UUID", ""), properties.get("ID_FS_LABEL", "")
        if device.action == "remove" or not (uuid or label):
            self._found.pop(device.sys_path, None)
        else:
            self._found[device.sys_path] = (uuid, label)
