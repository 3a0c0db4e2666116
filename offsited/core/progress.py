# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress of a job: what a worker says in its unit's StatusText, and what the daemon reads there.

StatusText is readable by everybody and limited to 4,000 bytes: a phase and four numbers, no file names.
"""

import re
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """What a job is busy with, in the order of a sync."""

    STARTING = "starting"
    WAITING = "waiting"
    WALKING = "walking"
    HASHING = "hashing"
    VIEW = "view"
    COMPARING = "comparing"
    SENDING = "sending"
    CHECKING = "checking"
    DELETING = "deleting"
    COMMITTING = "committing"
    FETCHING = "fetching"
    WRITING = "writing"
    LISTING = "listing"
    READING = "reading"
    MOUNTED = "mounted"


@dataclass(frozen=True)
class Progress:
    """Bytes and entries of the current phase; a total of 0 means that it is not known."""

    phase: Phase = Phase.STARTING
    bytes_done: int = 0
    bytes_total: int = 0
    entries_done: int = 0
    entries_total: int = 0

    def status_text(self) -> str:
        """Return the line for sd_notify's STATUS=."""
        return f"{self.phase}: {self.bytes_done} of {self.bytes_total} bytes, {self.entries_done} of {self.entries_total} entries"


_STATUS = re.compile(r"([a-z]+): (\d{1,19}) of (\d{1,19}) bytes, (\d{1,19}) of (\d{1,19}) entries")


def parse_status_text(text: str) -> Progress | None:
    """Given a unit's StatusText, return the progress in it, or None if it holds none."""
    match = _STATUS.fullmatch(text)
    if match is None or match[1] not in set(Phase):
        return None
    return Progress(Phase(match[1]), *(int(number) for number in match.groups()[1:]))
