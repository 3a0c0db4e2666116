# SPDX-License-Identifier: GPL-3.0-or-later
"""What offsited costs while nothing is to be done: how soon `offsitectl status` answers, and what the daemon takes at rest."""

import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from system.machine import must

from .figures import memory

_TIMES: Final = 11
_REST: Final = 60.0
"""Seconds that it is watched for."""


def measure() -> dict[str, float]:
    """Return seconds of `offsitectl status` (median), bytes of the daemon, and how often it woke up in a minute; its watchdog wants two."""
    seconds = list(_status())
    daemon = must("systemctl", "show", "--property=MainPID", "--value", "offsited.service").strip()
    time.sleep(5)  # what came with the last question is over
    before = _wakes(daemon)
    time.sleep(_REST)
    woken = _wakes(daemon) - before
    return {"status": statistics.median(seconds), "memory": memory(daemon), "woken": woken * 60 / _REST}


def _status() -> Iterator[float]:
    for _ in range(_TIMES):
        start = time.monotonic()
        subprocess.run(["offsitectl", "status"], check=True, capture_output=True)
        yield time.monotonic() - start


def _wakes(process: str) -> int:
    """How often it has waited for something and gone on, in all its threads."""
    found = 0
    for status in Path("/proc", process, "task").glob("*/status"):
        found += sum(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt_switches"))
    return found
