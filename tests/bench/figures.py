# SPDX-License-Identifier: GPL-3.0-or-later
"""What a command costs this machine: time, processor, memory of all processes together, and what reached the disk and the wire."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MANY: Final = ("seed", "no change", "1 %", "restore all", "restore one")
LARGE: Final = ("seed", "32 blocks", "restore all")
"""What is done with a corpus of many files, or of large ones."""

_EVERY: Final = 0.2
"""Seconds between two looks at the memory."""
_RESTS: Final = 30
"""How many times as long as a look takes it is waited at least: a look holds up whoever has much memory."""
_SECTOR: Final = 512
_CGROUP: Final = Path("/sys/fs/cgroup/cpu.stat")
_NETWORK: Final = Path("/sys/class/net/net0/statistics")


@dataclass(frozen=True)
class Figures:
    """Of one command, its children, and whatever worked for it on this machine."""

    wall: float
    """Seconds, until the target's file system is flushed."""
    cpu: float
    """Seconds of all processes of this machine, in user and kernel mode."""
    memory: int
    """Bytes: the most that all processes had together which are not there when nothing is done, shared pages divided (PSS)."""
    written: int
    """Bytes that went to the target's disk."""
    wire: int
    """Bytes that went to the other machine and came from it."""


class Watch:
    """Measures what is done on this machine, for a target on this disk."""

    def __init__(self, device: str) -> None:
        self._disk = Path("/sys/block", Path(device).name, "stat")
        self._idle = _processes()

    def measure(self, work: Callable[[], None], flush: Path | None) -> Figures:
        """Do some work, then flush the file system that `flush` is on. Return what it took."""
        sampler = _Sampler(self._idle)
        cpu, written, wire = _cpu(), self._written(), _wire()
        with sampler:
            start = time.monotonic()
            work()
            if flush:
                subprocess.run(["sync", "--file-system", flush], check=True)
            wall = time.monotonic() - start
        return Figures(wall, _cpu() - cpu - sampler.cost, sampler.most, self._written() - written, _wire() - wire)

    def _written(self) -> int:
        return int(self._disk.read_text().split()[6]) * _SECTOR


def _cpu() -> float:
    for line in _CGROUP.read_text().splitlines():
        name, value = line.split()
        if name == "usage_usec":
            return int(value) / 1_000_000
    raise LookupError(name)


def _wire() -> int:
    return sum(int((_NETWORK / f"{way}_bytes").read_text()) for way in ("rx", "tx")) if _NETWORK.exists() else 0


def _processes() -> set[str]:
    return {entry for entry in os.listdir("/proc") if entry.isdigit()}


class _Sampler(threading.Thread):
    """Looks at the memory of all processes that were not there before."""

    def __init__(self, idle: set[str]) -> None:
        super().__init__()
        self._idle = idle | {str(os.getpid())}
        self._end = threading.Event()
        self.most = 0
        self.cost = 0.0
        """Seconds of processor time that the looking took."""

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        pause = _EVERY
        while not self._end.wait(pause):
            begun = time.monotonic()
            self.most = max(self.most, sum(map(memory, _processes() - self._idle)))
            pause = max(_EVERY, (time.monotonic() - begun) * _RESTS)
        self.cost = time.thread_time()


def memory(process: str) -> int:
    """Given the number of a process, return its bytes, shared pages divided; 0 if it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc", process, "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
