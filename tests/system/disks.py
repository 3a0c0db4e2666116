# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks: images on loop devices, with a file system of their own, that come and go as a USB disk does."""

import contextlib
import fcntl
import struct
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from .machine import must
from .trees import Tree, census

SIZE = 320 << 20
"""Bytes of an image, hardly any of them used: the least that XFS takes."""


_LOOP_SET_STATUS64 = 0x4C04


class Disk:
    """One disk, attached when made."""

    def __init__(self, directory: Path, file_system: str = "xfs", size: int = SIZE) -> None:
        self.uuid = str(uuid.uuid4())
        self.image = directory / f"{self.uuid}.img"
        with self.image.open("wb") as file:
            file.truncate(size)
        id_option = ["-m", f"uuid={self.uuid}"] if file_system == "xfs" else ["-U", self.uuid]
        must(f"mkfs.{file_system}", "-q", *id_option, self.image)
        self.device = ""
        self.attach()

    def attach(self, *, read_only: bool = False) -> None:
        """Plug it in, and wait until udev has seen it."""
        self.device = must("losetup", "--find", "--show", *(["--read-only"] if read_only else []), self.image).strip()
        must("udevadm", "settle", "--timeout=30", f"--exit-if-exists=/dev/disk/by-uuid/{self.uuid}")
        assert Path(f"/dev/disk/by-uuid/{self.uuid}").exists()

    def detach(self) -> None:
        """Unplug it."""
        if self.device:
            must("losetup", "--detach", self.device)
            self.device = ""
            must("udevadm", "settle", "--timeout=30")

    def pull(self) -> None:
        """Pull it out of a machine that is using it: from now on the device has nothing to give, and nowhere to write to.

        loop(4), LOOP_SET_STATUS64: the device begins behind the image's end. What the image holds stays.
        """
        beyond = self.image.stat().st_size
        status = struct.pack("=QQQQQIIII64s64s32s2Q", 0, 0, 0, beyond, 0, 0, 0, 0, 0, b"", b"", b"", 0, 0)
        with open(self.device, "rb") as device:
            fcntl.ioctl(device, _LOOP_SET_STATUS64, status)
        must("udevadm", "settle", "--timeout=30")

    def storm(self, events: int) -> None:
        """Have the kernel say that the device has changed, again and again. sysfs, uevent."""
        file = Path("/sys/class/block", Path(self.device).name, "uevent")
        for _ in range(events):
            file.write_text("change")

    def remove(self) -> None:
        """It is no longer needed."""
        self.detach()
        self.image.unlink()

    @contextlib.contextmanager
    def mounted(self, *, writing: bool = False) -> Iterator[Path]:
        """Its content, to look at or to tamper with, while no job has it."""
        with tempfile.TemporaryDirectory(prefix="disk-") as point:
            must("mount", "-o", "rw" if writing else "ro", self.device, point)
            try:
                yield Path(point)
            finally:
                must("umount", point)

    def content(self) -> Tree:
        """Everything on it."""
        with self.mounted() as top:
            return census(top)
