# SPDX-License-Identifier: GPL-3.0-or-later
"""What notices leave on this machine: what was told of a vault, and each notice until it was sent.

state/notices/remembered.json      core.notice.Remembered
state/notices/SERIAL-WAY.json      a notice on its way by mail or Apprise
state/notices/ping.json            the sign of life that is due; the newest one alone
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from offsited.core.notice import Moment, Notice, Ping, Remembered
from offsited.store import sync_directory, write_whole

_REMEMBERED: Final = "remembered.json"
JUDGING, SENDING = "judging", "sending"
"""What one process at a time does with a vault; whoever sends may judge, and not the other way round."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Way(StrEnum):
    """How a notice is sent."""

    MAIL = "mail"
    PING = "ping"
    APPRISE = "apprise"


class Item(BaseModel):
    """A notice on its way. Times in microseconds since the epoch."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = 1
    way: Way
    which: int = 0
    """Of several addresses of a way that are served one by one, the index."""
    notice: Notice
    ping: Ping | None = None
    subject: str
    body: str
    tries: int = 0
    due: int = 0
    """When to try again."""
    error: str = ""
    """Why the last try failed, as a word of `core.notice.Unsent`."""

    @property
    def name(self) -> str:
        """The name of its file."""
        if self.way is Way.PING:
            return f"{Way.PING}.json"
        return f"{self.notice.serial:08d}-{self.way}{self.which or ''}.json"


@dataclass(frozen=True)
class Spool:
    """The directory of one vault. Root's alone: a letter may name files if the settings say so."""

    directory: Path

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Within: nobody else does `what` with this vault. Raise FileNotFoundError if the vault has no state."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        with alone(os.open(self.directory / f".{what}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)):
            yield

    def remembered(self) -> Remembered | None:
        """What was told, or None: nothing, or it cannot be read."""
        try:
            return Remembered.model_validate_json((self.directory / _REMEMBERED).read_bytes())
        except (OSError, ValidationError):
            return None

    def remember(self, remembered: Remembered) -> None:
        """Keep what was told."""
        write_whole(self.directory / _REMEMBERED, remembered.model_dump_json().encode())

    def put(self, item: Item) -> None:
        """Keep an item. Of signs of life the newest one takes the place of the one before."""
        write_whole(self.directory / item.name, item.model_dump_json().encode())

    def settle(self, item: Item, then: Item | None) -> None:
        """Given an item as it was found, keep what became of it; None = it was sent, or is not worth it any more.

        Judging does not wait for what is being sent: a newer item that has taken its place meanwhile stays.
        """
        with self.locked(JUDGING):
            if _read(self.directory / item.name) != item:
                return
            if then is not None:
                self.put(then)
                return
            (self.directory / item.name).unlink()
            sync_directory(self.directory)

    def items(self) -> list[Item]:
        """All that is not sent yet, oldest first."""
        try:
            names = sorted(entry.name for entry in self.directory.iterdir() if entry.suffix == ".json" and not entry.name.startswith("."))
        except FileNotFoundError:
            return []
        return [item for name in names if name != _REMEMBERED and (item := _read(self.directory / name)) is not None]


@contextmanager
def alone(descriptor: int) -> Iterator[None]:
    """Within: nobody else is here with this open file or directory, which is closed at the end."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def moment() -> Moment:
    """Now, as judgments want it."""
    uptime = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    return Moment(time.time_ns() // 1000, _BOOT_ID.read_text("ascii").strip(), uptime)


def _read(path: Path) -> Item | None:
    try:
        return Item.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
