# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what a target holds, in clear, and comparing every byte with the manifest."""

import errno
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Final

from offsited.core.manifest import Row
from offsited.core.verification import Difference, What
from offsited.worker import entry, mounts
from offsited.worker.inventory import Met, compare_attributes
from offsited.worker.outgoing import sealed_from

_PIECE: Final = 1 << 20
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


class Contents:
    """What `plain/` had, in clear. May be asked from several threads."""

    def __init__(self, top: int, stop: threading.Event, *, fetched: bool) -> None:
        """`fetched`: what is there was brought here with its attributes, which are compared too."""
        self._top = top
        self._stop = stop
        self._fetched = fetched

    def compare_each(self, rows: Sequence[Row]) -> list[Difference]:
        """How entries differ from their rows. After `stop` it is of no use."""
        return [one for row in rows if not self._stop.is_set() for one in self.compare(row)]

    def compare(self, row: Row) -> list[Difference]:
        """How an entry differs from its row."""
        try:
            return [Difference(row.path, what, detail) for what, detail in self._compare(row)]
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                return [Difference(row.path, What.MISSING)]
            if error.errno == errno.ELOOP:
                return [Difference(row.path, What.TYPE, f"not {row.kind}")]
            return [Difference(row.path, What.CONTENT, f"cannot be decrypted: {error.strerror}")]

    def _compare(self, row: Row) -> Iterator[tuple[What, str]]:
        status = self._status(row.path)
        if entry.kind(status.st_mode) != row.kind:
            yield What.TYPE, f"{entry.kind(status.st_mode)} instead of {row.kind}"
            return
        if row.kind == "f":
            yield from self._compare_content(row)
        elif row.kind == "l":
            yield from self._compare_target(row)
        if self._fetched and row.kind != "d":
            yield from compare_attributes(Met.wanted(row), Met.of(status))

    def _status(self, path: bytes) -> os.stat_result:
        descriptor = mounts.open_deep(self._top, os.fsdecode(sealed_from(path)), os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def _compare_content(self, row: Row) -> Iterator[tuple[What, str]]:
        descriptor = mounts.open_deep(self._top, os.fsdecode(sealed_from(row.path)), _FILE)
        try:
            digest, position = hashlib.sha256(), 0
            while not self._stop.is_set() and (piece := _read(descriptor, position)):
                digest.update(piece)
                position += len(piece)
        except OSError as error:
            yield What.CONTENT, f"cannot be decrypted from byte {position} on: {error.strerror}"
            return
        finally:
            os.close(descriptor)
        if position != row.size:
            yield What.CONTENT, f"{position} bytes instead of {row.size}"
        elif row.sha256 and digest.digest() != row.sha256:
            yield What.CONTENT, "another content than was committed"

    def _compare_target(self, row: Row) -> Iterator[tuple[What, str]]:
        directory, _, name = row.path.rpartition(b"/")
        descriptor = mounts.open_deep(self._top, os.fsdecode(sealed_from(directory)), os.O_PATH | os.O_DIRECTORY)
        try:
            found = os.readlink(name, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        if found != row.target:
            yield What.LINK_TARGET, ""


def _read(descriptor: int, position: int) -> bytes:
    return os.pread(descriptor, _PIECE, position)
