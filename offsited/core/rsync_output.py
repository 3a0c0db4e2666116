# SPDX-License-Identifier: GPL-3.0-or-later
"""What rsync prints, as values: progress, items, statistics, obstacles. It is run with LC_ALL=C and core.rsync's formats."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from offsited.core import gocryptfs


@dataclass(frozen=True)
class Running:
    """One line of `--info=progress2`: bytes of the files transferred so far; entries looked at, of those known yet."""

    bytes_done: int
    entries_done: int = 0


@dataclass(frozen=True)
class Item:
    """One line of `--out-format=%i %l %n`: what was done to an entry, its length, its path with a slash after a directory's."""

    change: str
    length: int
    path: bytes

    @property
    def deleted(self) -> bool:
        return self.change.startswith("*deleting")

    @property
    def sent(self) -> bool:
        """Whether it was made or given new content, rather than new attributes alone."""
        return self.change[0] in "<>ch"

    @property
    def is_content(self) -> bool:
        """Whether the content of a regular file travelled."""
        return self.change[0] in "<>" and self.change[1] == "f"


_RUNNING: Final = re.compile(rb" *(\d+) +\d+% .*?(?:\(xfr#\d+, (?:to|ir)-chk=(\d+)/(\d+)\))?\s*")
_ITEM: Final = re.compile(rb"([<>ch.][fdLDS][a-zA-Z+.? ]{9}|\*deleting  ) (\d+) (.+)")
_ESCAPE: Final = re.compile(rb"\\#([0-3][0-7]{2})")
_OBSTACLE: Final = re.compile(r"could not make way for (?:new )?[a-z ]+: (.+)")
_STATISTIC: Final = re.compile(r"(Total bytes sent|Total bytes received): (\d+)")


def parse_line(line: bytes) -> Running | Item | None:
    """Given a line of rsync's standard output (ended by a newline or a carriage return), return what it says, or None."""
    if match := _ITEM.fullmatch(line):
        return Item(match[1].decode().rstrip(), int(match[2]), _unescaped(match[3]))
    if match := _RUNNING.fullmatch(line):
        return Running(int(match[1]), int(match[3]) - int(match[2]) if match[3] else 0)
    return None


def parse_wire_bytes(line: bytes) -> int:
    """Given a line of `--stats`, return the bytes that crossed the wire in one direction, 0 for any other line."""
    match = _STATISTIC.fullmatch(line.decode("ascii", "replace"))
    return int(match[2]) if match else 0


def parse_listing(lines: Iterable[bytes]) -> list[bytes]:
    """Given lines of `--list-only`, return the names in them without "."."""
    found = [match[1] for line in lines if (match := re.fullmatch(rb"[-dlpscb?]\S+ +[\d,.]+ \S+ \S+ (.+)", line))]
    return [name for name in found if name != b"."]


def obstacles(complaints: str) -> tuple[list[bytes], bool]:
    """Given rsync's standard error, return the paths where a directory that is not empty stands in the way of something else.

    Beside them: whether that was all it complained of.
    """
    found = [match[1] for match in _OBSTACLE.finditer(complaints)]
    return [_unescaped(path.encode("utf-8", "surrogateescape")) for path in found], not re.search(r"^rsync: ", complaints, re.MULTILINE)


def topmost(deleted: Iterable[bytes]) -> list[bytes]:
    """Given paths as rsync lists deletions (directories end in a slash), return those that lie below no other, without the slash.

    With a long name goes its companion of its own accord: rsync lists both.
    """
    paths = list(deleted)
    directories = {path for path in paths if path.endswith(b"/")}
    return [path.rstrip(b"/") for path in paths if not _parents(path) & directories]


@dataclass
class Tally:
    """What a transfer did, counted as it says so. Entries and sizes are those of the plain tree."""

    sent_entries: int = 0
    sent_bytes: int = 0
    wire_bytes: int = 0
    deleted: list[bytes] = field(default_factory=list)

    @property
    def deleted_entries(self) -> int:
        return sum(not gocryptfs.is_companion(path.rstrip(b"/")) for path in self.deleted)

    def take(self, item: Item, *, sealed: bool) -> None:
        """Count one item; `sealed` = it is of an encrypted tree."""
        if item.deleted:
            self.deleted.append(item.path)
        elif item.sent and not (sealed and gocryptfs.is_companion(item.path)):
            self.sent_entries += 1
            if item.is_content:
                self.sent_bytes += gocryptfs.plain_size(item.length) if sealed else item.length


def _unescaped(path: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 8),)), path)


def _parents(path: bytes) -> set[bytes]:
    parts = path.rstrip(b"/").split(b"/")
    return {b"/".join(parts[:depth]) + b"/" for depth in range(1, len(parts))}
