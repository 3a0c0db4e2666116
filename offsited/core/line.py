# SPDX-License-Identifier: GPL-3.0-or-later
"""The line to a host as values: when nothing moves on it any more.

rsync's own --timeout does not see a line that trickles: its keep-alive messages count as life, and so do they to ssh, byte by byte. The
kernel's counters show it. What a live host does all by itself is answer ssh's keep-alives (core.ssh), however busy its rsync is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

EVERY: Final = 5.0
"""Seconds between two samples."""
WINDOW: Final = 35.0
"""Seconds after which a line on which nothing moves is given up."""

LEAST_RECEIVED: Final = 150
"""Bytes in that time; the answers to keep-alives alone are 216 or more (measured with OpenSSH 10.0: six of 36)."""
LEAST_TAKEN: Final = 4096
"""Bytes in that time that a host takes while more of them wait: 100 a second."""


@dataclass(frozen=True)
class Sample:
    """One connection at one moment. Bytes since it began."""

    at: float
    """Seconds, of a clock that never goes back."""
    received: int
    taken: int
    """Bytes that ssh got rid of."""
    waiting: bool
    """Whether the kernel holds bytes that the host has not acknowledged."""


def is_stalled(samples: Sequence[Sample]) -> bool:
    """Given samples of one connection, oldest first, whether nothing has moved for as long as WINDOW."""
    last = samples[-1]
    begun = [number for number, sample in enumerate(samples) if sample.at <= last.at - WINDOW]
    if not begun:
        return False
    recent = list(samples)[begun[-1] :]
    first = recent[0]
    stuck = all(sample.waiting for sample in recent) and last.taken - first.taken < LEAST_TAKEN
    return stuck or last.received - first.received < LEAST_RECEIVED
