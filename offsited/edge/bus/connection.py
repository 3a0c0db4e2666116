# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages over the bus's socket, without ever blocking. unix(7), SCM_RIGHTS.

In place of dbus_next's own: its writer takes a full socket for the end of the connection, its reader never closes a descriptor.
"""

import array
import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Self

from offsited.edge.bus import wire
from offsited.edge.bus.framing import Framer
from offsited.edge.bus.handshake import open_socket
from offsited.edge.bus.vocabulary import DISCONNECTED, BusError
from offsited.edge.bus.wire import Message

_log = logging.getLogger(__name__)

_QUEUE_HIGH: Final = 4 << 20
"""Bytes waiting to be sent at which no more are read: whoever floods us waits for his own answers."""
_CHUNK: Final = 64 << 10
_RIGHTS_ROOM: Final = socket.CMSG_SPACE(253 * array.array("i").itemsize)
"""SCM_MAX_FD, unix(7): all that one recvmsg can bring."""
_MAX_SERIAL: Final = 0xFFFFFFFF


class Connection:
    """An authenticated socket to a bus.

    `receive` is given each message from the event loop; it returns whether it keeps the message's descriptors, which are closed
    otherwise. `lost` is called once, when no more messages will come or go.
    """

    def __init__(self, sock: socket.socket, receive: Callable[[Message], bool], lost: Callable[[], None]) -> None:
        self._sock = sock
        self._receive = receive
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._framer = Framer()
        self._received: deque[int] = deque()
        self._queue: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._queued = 0
        self._serial = 0
        self._sent = asyncio.Event()
        self._open = True
        self._reading = False
        self._sent.set()
        self._read_or_pause()

    @classmethod
    async def open(cls, address: str | None, receive: Callable[[Message], bool], lost: Callable[[], None]) -> Self:
        """Connect to an address, or to the system bus. Raise OSError, ValueError or BusError."""
        return cls(await open_socket(address), receive, lost)

    def send(self, message: Message) -> int:
        """Queue a message and return its serial. Its descriptors are ours to close from now on, whatever happens.

        Raise BusError when the connection is lost, MalformedError for a name or path that is none.
        """
        try:
            data = self._encode(message)
        except BaseException:
            close_all(message.fds)
            raise
        self._queue.append((memoryview(data), message.fds))
        self._queued += len(data)
        self._sent.clear()
        if len(self._queue) == 1:
            self._write()
        self._read_or_pause()
        return self._serial

    def _encode(self, message: Message) -> bytes:
        if not self._open:
            raise BusError(DISCONNECTED, "the connection to the bus is lost")
        self._serial = self._serial % _MAX_SERIAL + 1
        return wire.encode(message, self._serial)

    async def flush(self) -> None:
        """Wait until everything queued is sent, or the connection lost."""
        await self._sent.wait()

    def give_up(self, reason: str) -> None:
        """Disconnect, for a reason that the log tells."""
        _log.error("the connection to the bus is lost: %s", reason)
        self.close()

    def close(self) -> None:
        """Disconnect. What is queued is dropped."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        close_all(fd for _, fds in self._queue for fd in fds)
        close_all(self._received)
        self._queue.clear()
        self._received.clear()
        self._sent.set()
        self._loop.call_soon(self._lost)

    # --- in

    def _read_or_pause(self) -> None:
        wanted = self._open and self._queued < _QUEUE_HIGH
        if self._open and wanted and not self._reading:
            self._loop.add_reader(self._sock, self._read)
        elif self._open and self._reading and not wanted:
            self._loop.remove_reader(self._sock)
        self._reading = wanted

    def _read(self) -> None:
        try:
            for message in self._framer.feed(self._chunk()):
                self._deliver(message)
                if not self._open:
                    return
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, EOFError, wire.MalformedError) as error:
            self.give_up(str(error))

    def _chunk(self) -> bytes:
        """Read what is there. A message's descriptors come with its first byte, hence in the order of the messages."""
        data, ancillary, flags, _ = self._sock.recvmsg(_CHUNK, _RIGHTS_ROOM, socket.MSG_CMSG_CLOEXEC)
        for level, type_, content in ancillary:
            if (level, type_) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                self._received.extend(fds)
        if flags & socket.MSG_CTRUNC:  # from here on nobody knows which descriptor belongs to which message
            raise OSError("descriptors did not arrive: too many open files")
        if not data:
            raise EOFError("closed by the bus")
        return data

    def _deliver(self, message: Message) -> None:
        if message.descriptors > len(self._received):
            raise wire.MalformedError("a message announces descriptors that did not come")
        message = message.with_fds(tuple(self._received.popleft() for _ in range(message.descriptors)))
        kept = False
        try:
            kept = self._receive(message)
        except Exception:
            _log.exception("a defect while a message of the bus was handled")
        finally:
            if not kept:
                close_all(message.fds)

    # --- out

    def _write(self) -> None:
        try:
            while self._queue:
                self._write_some()
        except (BlockingIOError, InterruptedError):
            self._loop.add_writer(self._sock, self._write)
        except OSError as error:
            self.give_up(str(error))
        else:
            self._loop.remove_writer(self._sock)
            self._sent.set()
        self._read_or_pause()

    def _write_some(self) -> None:
        """Send what the socket takes now. Descriptors go with the first byte; once the kernel has them, ours are closed."""
        data, fds = self._queue[0]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
        self._queued -= sent
        if sent == len(data):
            self._queue.popleft()
        else:
            self._queue[0] = (data[sent:], ())
        close_all(fds)


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
