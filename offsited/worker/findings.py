# SPDX-License-Identifier: GPL-3.0-or-later
"""What a verification found, on disk as it is found: for whoever asked, for the root-only list of the job, for a repair."""

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from offsited.core.verification import WHOLE, Difference, Mending, What, encode_path
from offsited.worker.confirmed import MENDING_FILE

_PIECE: Final = 1 << 20
_KNOWN: Final = 100_000
"""Paths kept in memory so that nothing is told twice; of more differences some are."""


@dataclass(frozen=True)
class Mark:
    """How much was found at a moment."""

    size: int = 0
    count: int = 0


class Findings:
    """The differences of one job, one a line, root's alone. Those that a sync may have caused are taken back."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.count = 0
        self._size = 0
        self._damaged_commit = ""
        file.unlink(missing_ok=True)

    def note(self, found: Iterable[Difference]) -> None:
        """Keep differences."""
        lines = [one.encode() for one in found]
        if lines:
            with self.file.open("ab") as opened:
                self._size += sum(map(opened.write, lines))
            self.count += len(lines)

    def mark(self) -> Mark:
        return Mark(self._size, self.count)

    def back_to(self, mark: Mark) -> None:
        """Take back what was found since."""
        if self._size > mark.size:
            os.truncate(self.file, mark.size)
        self._size, self.count = mark.size, mark.count

    def note_damaged_commit(self, sealed: str) -> None:
        """The commit file at the target, by the digest of what lies there, is no commit: a repair may replace it."""
        self._damaged_commit = sealed

    def known(self) -> frozenset[bytes]:
        """Paths of which something was found."""
        return frozenset(one.path for one in itertools.islice(self._all(), _KNOWN))

    def hand_over(self, descriptor: int) -> None:
        """Write all of them into a file that the caller opened. Raise OSError."""
        if not self.count:
            return
        with self.file.open("rb") as opened:
            while piece := opened.read(_PIECE):
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]

    def ask_for_repair(self, target: Path) -> None:
        """Leave for the next sync to the target, whose directory here is `target`, what it is to send again."""
        whole = any(one.what in WHOLE or one.own for one in self._all())
        temporary = target / f".{MENDING_FILE}.tmp"
        with temporary.open("wb") as file:
            file.write(Mending(whole, self._damaged_commit).encode())
            file.writelines(encode_path(one.path) for one in self._all() if not one.own and one.what is not What.EXTRA)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target / MENDING_FILE)

    def _all(self) -> Iterator[Difference]:
        if self.count:
            with self.file.open("rb") as opened:
                yield from map(Difference.decode, opened)
