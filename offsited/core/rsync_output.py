# SPDX-License-Identifier: GPL-3.0-or-later
"""What rsync prints, as values: progress, items, statistics, obstacles. It is run with LC_ALL=C and core.rsync's formats."""

import calendar
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from offsited.core import gocryptfs


class Running(NamedTuple):
    """One line of `--info=progress2`: bytes of the files transferred so far; entries looked at, of those known yet."""

    bytes_done: int
    entries_done: int = 0


class Item(NamedTuple):
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


_LISTED: Final = re.compile(rb"[-dlpscb?]\S+ +[\d,.]+ \S+ \S+ (?P<path>.+)")
_RUNNING: Final = re.compile(rb" *(\d+) +\d+% .*?(?:\(xfr#\d+, (?:to|ir)-chk=(\d+)/(\d+)\))?\s*")
_ITEM: Final = re.compile(rb"([<>ch.][fdLDS][a-zA-Z+.? ]{9}|\*deleting  ) (\d+) (.+)")
_DETAILED: Final = re.compile(rb"[<>ch.]([fdLDS])\S{9} (\d+) (\d+) (\d+) ([-rwxsStT]{9}) (-?\d+)/(\d\d)/(\d\d)-(\d\d):(\d\d):(\d\d) (.+)")
_KINDS: Final = {b"f": "f", b"d": "d", b"L": "l", b"D": "c", b"S": "p"}
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


def says_skipped(line: bytes) -> bool:
    """Whether a line says that a device node, fifo or socket was left out."""
    return line.startswith(b'skipping non-regular file "')


def parse_listing(lines: Iterable[bytes]) -> list[bytes]:
    """Given lines of `--list-only`, return the names in them without "."."""
    return [path for line in lines if (path := parse_listed(line)) and path != b"."]


def parse_listed(line: bytes) -> bytes | None:
    """Given a line of `--list-only`, return the path in it, or None."""
    match = _LISTED.fullmatch(line)
    if match is None:
        return None
    return _unescaped(match["path"].partition(b" -> ")[0] if line.startswith(b"l") else match["path"])


@dataclass(frozen=True)
class Detailed:
    """One line of `rsync.list_details`."""

    kind: str
    """f, d, l; c for a device of either kind, p for a pipe or a socket."""
    length: int
    uid: int
    gid: int
    mode: int
    mtime: int
    """Whole seconds since the epoch."""
    path: bytes


def parse_detailed(line: bytes) -> Detailed | None:
    """Given a line of `rsync.list_details`, return the entry, or None if it tells of none."""
    match = _DETAILED.fullmatch(line)
    if match is None:
        return None
    kind, length, uid, gid, letters, *when, path = match.groups()
    seconds = calendar.timegm(tuple(map(int, when)))
    path = _unescaped(path.rstrip(b"/") or path)
    return Detailed(_KINDS[kind], int(length), int(uid), int(gid), _mode(letters.decode()), seconds, path)


def _mode(letters: str) -> int:
    """Given nine letters as ls(1) writes them, return the bits."""
    bits = sum(1 << (8 - index) for index, letter in enumerate(letters) if letter not in "-ST")
    return bits | sum(bit for index, bit in ((2, 0o4000), (5, 0o2000), (8, 0o1000)) if letters[index] in "sStT")


def obstacles(complaints: str) -> tuple[list[bytes], bool]:
    """Given rsync's standard error, return the paths where a directory that is not empty stands in the way of something else.

    Beside them: whether that was all it complained of.
    """
    found = [match[1] for match in _OBSTACLE.finditer(complaints)]
    return [_unescaped(path.encode("utf-8", "surrogateescape")) for path in found], not re.search(r"^rsync: ", complaints, re.MULTILINE)


class Topmost:
    """Collects paths, of those that come the topmost alone: what lies below one that came before is left out."""

    def __init__(self) -> None:
        self.paths: set[bytes] = set()

    def add(self, path: bytes) -> None:
        if self.paths.isdisjoint(_parents(path)):
            self.paths.add(path)


@dataclass
class Tally:
    """What a transfer did, counted as it says so. Entries and sizes are those of the plain tree."""

    sent_entries: int = 0
    sent_bytes: int = 0
    wire_bytes: int = 0
    skipped: int = 0
    """Device nodes, fifos and sockets that the receiver did not make. That is no error to rsync."""
    deleted: list[bytes] = field(default_factory=list)

    @property
    def deleted_entries(self) -> int:
        return sum(not gocryptfs.is_companion(path.rstrip(b"/")) for path in self.deleted)

    def take(self, item: Item, *, sealed: bool) -> None:
        """Count one item; `sealed` = it is of an encrypted tree."""
        if item.deleted:
            self.deleted.append(item.path)
        elif item.sent and not (sealed and _is_ours(item.path)):
            self.sent_entries += 1
            if item.is_content:
                self.sent_bytes += gocryptfs.plain_size(item.length) if sealed else item.length


def _unescaped(path: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 8),)), path)


def _is_ours(sealed: bytes) -> bool:
    """Whether an encrypted path stands for no entry of the snapshot: gocryptfs's own files, and what holds the snapshot."""
    return b"/" not in sealed.rstrip(b"/") or gocryptfs.is_companion(sealed)


def _parents(path: bytes) -> set[bytes]:
    parts = path.split(b"/")
    return {b"/".join(parts[:depth]) for depth in range(1, len(parts))}
