# SPDX-License-Identifier: GPL-3.0-or-later
"""Watching a job's ssh connections from outside, by what the kernel counts: per process, and per socket in /proc/net/tcp, proc(5)."""

import asyncio
import contextlib
import os
import re
import signal
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from offsited.core.line import EVERY, WINDOW, Sample, is_stalled
from offsited.core.ssh import SAID

_PROC: Final = Path("/proc")
_TABLES: Final = (_PROC / "net/tcp", _PROC / "net/tcp6")
_KEPT: Final = 2 + round(WINDOW / EVERY)


@dataclass(frozen=True)
class Line:
    """The connections of one job: those of processes whose command line names its control socket. There is one, or two with a jump host."""

    control: Path

    async def until_stalled(self) -> None:
        """Return when nothing has moved on one of the connections for a while; never where there are none."""
        seen: dict[int, deque[Sample]] = {}
        while True:
            await asyncio.sleep(EVERY)
            found = await asyncio.to_thread(lambda: dict(self._samples()))
            seen = {pid: seen.get(pid, deque(maxlen=_KEPT)) for pid in found}
            for pid, sample in found.items():
                seen[pid].append(sample)
                if is_stalled(seen[pid]):
                    return

    def overheard(self) -> str:
        """What was said on the way to a jump host, if there is one."""
        try:
            return self.control.with_name(self.control.name + SAID).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def drop(self) -> None:
        """End the connections: the next transfer makes new ones. What is left of them at the host ends by itself."""
        self.control.unlink(missing_ok=True)
        for pid, _ in self._connected():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _samples(self) -> Iterator[tuple[int, Sample]]:
        for pid, waiting in self._connected():
            with contextlib.suppress(OSError):
                counted = dict(re.findall(r"(\w+): (\d+)", (_PROC / str(pid) / "io").read_text("ascii")))
                yield pid, Sample(time.monotonic(), int(counted["rchar"]), int(counted["wchar"]), waiting > 0)

    def _connected(self) -> Iterator[tuple[int, int]]:
        """Each process that has a connection, with the bytes that wait in it."""
        pids = [int(entry) for entry in os.listdir(_PROC) if entry.isdecimal() and self._is_ours(entry)]
        queues = _send_queues() if pids else {}
        for pid in pids:
            sockets = [inode for inode in _sockets(pid) if inode in queues]
            if sockets:
                yield pid, sum(queues[inode] for inode in sockets)

    def _is_ours(self, pid: str) -> bool:
        try:
            return os.fsencode(self.control) in (_PROC / pid / "cmdline").read_bytes()
        except OSError:
            return False


def _sockets(pid: int) -> Iterator[str]:
    """Inodes of a process's sockets; none if it is gone."""
    try:
        entries = os.listdir(_PROC / str(pid) / "fd")
    except OSError:
        return
    for entry in entries:
        with contextlib.suppress(OSError):
            if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(_PROC / str(pid) / "fd" / entry)):
                yield match[1]


def _send_queues() -> dict[str, int]:
    """Bytes that wait in each TCP socket to be acknowledged, by its inode."""
    found = {}
    for table in _TABLES:
        with contextlib.suppress(FileNotFoundError):  # without IPv6
            for row in table.read_text("ascii").splitlines()[1:]:
                fields = row.split()
                found[fields[9]] = int(fields[4].partition(":")[0], 16)
    return found
