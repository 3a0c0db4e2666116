# SPDX-License-Identifier: GPL-3.0-or-later
"""The native walk of a whole snapshot, by processes that hand each other the directories that are left.

The walk forks and changes the current directory: it must run in a process that has one thread. worker.survey is that process.
"""

import gc
import marshal
import os
import selectors
import signal
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from offsited.core.manifest import TOP, Row
from offsited.errors import Internal
from offsited.worker import mounts
from offsited.worker.listing import Batch, Excludes, Listing, Place, Reader, Unread

HANDED: Final = 64
"""Directories given to a process at once."""
_AHEAD: Final = 2
"""Requests that a process may have: it goes on while its last answer is being looked at."""
_ROOM: Final = 32768
"""Bytes that a pipe takes of a request whether or not it is read, pipe(7)."""
_ENDED: Final = "a process of the walk ended before its work"
_LENGTH: Final = struct.Struct("=Q")


def device_identity(top: int, point: Path) -> str:
    """What tells the file system of an open directory, bound at `point`, from others, across reboots.

    Its id where it has one, else the device number. Snapshots of btrfs have an id each, and keep the inodes of what they are snapshots of:
    there it is the device below.
    """
    mount = mounts.find(point)
    if mount is not None and mount.file_system == "btrfs":
        return f"btrfs:{os.fsdecode(mount.source)}"
    return f"{os.fstatvfs(top).f_fsid:x}" if os.fstatvfs(top).f_fsid else f"dev:{os.fstat(top).st_dev:x}"


def walk(top: int, known: Mapping[bytes, bytes], excluded: Excludes | None = None, *, processes: int = 2) -> Iterator[Batch]:
    """Walk the open directory `top`, and yield what is not as `known` (signatures by path) says, in no order.

    The first batch holds the row of the top itself, in a listing without a signature. With an empty `known` everything is listed.
    Raise OSError if the top itself cannot be read.
    """
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        reader = Reader(top, known, excluded)
        yield Batch(entries=1, listings=[reader.top_listing()])
        places = [(TOP, os.fstat(top).st_ino)]
        yield from _alone(reader, places) if processes < 2 else _together(reader, places, processes)
    finally:
        os.fchdir(here)
        os.close(here)


def _alone(reader: Reader, places: list[Place]) -> Iterator[Batch]:
    while places:
        batch, places = reader.read(places)
        yield batch


def _together(reader: Reader, places: list[Place], processes: int) -> Iterator[Batch]:
    """Give places to whoever has least to do; take what is found, and the places that are left, so that nobody is idle for long."""
    members: list[_Member] = []
    try:
        with selectors.DefaultSelector() as selector:
            for _ in range(processes):
                members.append(_Member.start(reader, members))
                selector.register(members[-1].results, selectors.EVENT_READ, members[-1])
            while places or any(member.owing for member in members):
                for member in sorted(members * _AHEAD, key=lambda member: member.owing):
                    if places:
                        places = member.hand(places, -(-len(places) // processes))
                for key, _ in selector.select():
                    batch, left = key.data.take()
                    places += left
                    yield batch
    finally:
        for member in members:
            member.dismiss()


@dataclass
class _Member:
    """A process of the walk, seen from the one that asks it."""

    pid: int
    requests: BinaryIO
    results: BinaryIO
    owing: int = 0
    """Requests that it has not answered."""

    @classmethod
    def start(cls, reader: Reader, others: list["_Member"]) -> "_Member":
        requests, to_member = os.pipe()
        from_member, results = os.pipe()
        pid = os.fork()
        if pid == 0:
            for other in others:
                # Else they would not see the end of their requests when the one that asks dies.
                other.requests.close()
                other.results.close()
            os.close(to_member)
            os.close(from_member)
            _serve(reader, requests, results)
        os.close(requests)
        os.close(results)
        return cls(pid, open(to_member, "wb", buffering=0), open(from_member, "rb", buffering=0))

    def hand(self, places: list[Place], share: int) -> list[Place]:
        """Ask about the last `share` of these places, or as many as are handed at once; return the others. Raise Internal if it was killed.

        While it works on something it is given only what its pipe has room for: else both might wait to be read.
        """
        count = min(HANDED, share)
        content = marshal.dumps(places[-count:])
        if self.owing and (self.owing == _AHEAD or len(content) > _ROOM):
            return places
        try:
            _send(self.requests, content)
        except BrokenPipeError:
            raise Internal(_ENDED) from None
        self.owing += 1
        return places[:-count]

    def take(self) -> tuple[Batch, list[Place]]:
        """Raise Internal if the process was killed."""
        content = _receive(self.results)
        if content is None:
            raise Internal(_ENDED)
        self.owing -= 1
        entries, size, listings, unread, excluded, left = marshal.loads(content)  # noqa: S302 - from our own fork
        found = [
            Listing(path, inode, mtime, signature, [Row._make(row) for row in rows]) for path, inode, mtime, signature, rows in listings
        ]
        return Batch(entries, size, found, [Unread(*one) for one in unread], excluded), left

    def dismiss(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.requests.close()
        self.results.close()


def _serve(reader: Reader, requests: int, results: int) -> NoReturn:
    """The life of a process of the walk. It makes no cycles, and a collection would touch, hence copy, every page of what it shares."""
    status = 1
    try:
        gc.disable()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with open(requests, "rb", buffering=0) as asked, open(results, "wb", buffering=0) as answers:
            while (content := _receive(asked)) is not None:
                batch, left = reader.read(marshal.loads(content))  # noqa: S302 - from our own parent
                listings = [(*listing[:-1], [tuple(row) for row in listing.rows]) for listing in batch.listings]
                unread = [tuple(one) for one in batch.unread]
                _send(answers, marshal.dumps((batch.entries, batch.size, listings, unread, batch.excluded, left)))
        status = 0
    finally:
        os._exit(status)


def _send(pipe: BinaryIO, content: bytes) -> None:
    left = memoryview(_LENGTH.pack(len(content)) + content)
    while left:
        left = left[pipe.write(left) :]


def _receive(pipe: BinaryIO) -> bytes | None:
    """The next message; None at the end. Nothing is read ahead: whoever waits for a second message looks at the pipe."""
    head = _exactly(pipe, _LENGTH.size)
    return None if head is None else _exactly(pipe, _LENGTH.unpack(head)[0])


def _exactly(pipe: BinaryIO, length: int) -> bytes | None:
    content = bytearray(length)
    left = memoryview(content)
    while left:
        count = pipe.readinto(left)  # type: ignore[attr-defined]
        if not count:
            return None
        left = left[count:]
    return bytes(content)
