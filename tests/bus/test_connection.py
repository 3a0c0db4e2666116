# SPDX-License-Identifier: GPL-3.0-or-later
"""The socket itself, against a bus that does what a bus should not."""

import array
import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from offsited.edge.bus import BusError, wire
from offsited.edge.bus.connection import Connection
from offsited.edge.bus.wire import Kind, Message

from .service import PATIENCE, memfd


class Ends:
    """A connection, what it received, and the bus's end of its socket."""

    def __init__(self) -> None:
        ours, self.bus = socket.socketpair(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.received: asyncio.Queue[Message] = asyncio.Queue()
        self.lost = asyncio.Event()
        self.connection = Connection(ours, self._receive, self.lost.set)

    def _receive(self, message: Message) -> bool:
        self.received.put_nowait(message)
        return False

    async def drain(self, length: int) -> bytes:
        """Read from the bus's end."""
        data = bytearray()
        while len(data) < length:
            data += await asyncio.get_running_loop().sock_recv(self.bus, 1 << 20)
        return bytes(data)


@asynccontextmanager
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    try:
        async with asyncio.timeout(PATIENCE):
            yield made
    finally:
        made.connection.close()
        made.bus.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


def signal(size: int, *fds: int) -> Message:
    body = wire.encode_body("ay", (bytes(size),), wire.no_descriptor)
    return Message(kind=Kind.SIGNAL, path="/a", interface="a.b", member="C", signature="ay", body=body, fds=fds)


def test_nothing_is_read_while_too_much_waits_to_be_sent() -> None:
    async def test() -> None:
        async with ends() as made:
            for _ in range(6):
                made.connection.send(signal(1 << 20))
            made.bus.send(wire.encode(signal(1), 1))
            for _ in range(50):
                await asyncio.sleep(0)
            assert made.received.empty()
            await made.drain(6 << 20)
            assert (await made.received.get()).member == "C"
            await made.connection.flush()

    run(test)


def test_a_descriptor_goes_with_a_message_that_goes_in_pieces() -> None:
    async def test() -> None:
        before = len(os.listdir("/proc/self/fd"))
        async with ends() as made:
            made.connection.send(signal(1 << 20))
            fd = memfd(b"late")
            made.connection.send(signal(1 << 20, fd))
            got: list[int] = []
            read = 0
            while read < 2 << 20 or not got:
                await asyncio.sleep(0)
                try:
                    data, fds, _, _ = socket.recv_fds(made.bus, 1 << 20, 10)
                except BlockingIOError:
                    continue
                read += len(data)
                got += fds
            assert [os.pread(fd, 10, 0) for fd in got] == [b"late"]
            os.close(got[0])
            await made.connection.flush()
        assert len(os.listdir("/proc/self/fd")) == before

    run(test)


def test_what_was_not_sent_is_closed_with_the_connection() -> None:
    async def test() -> None:
        before = len(os.listdir("/proc/self/fd"))
        async with ends() as made:
            made.connection.send(signal(4 << 20))
            made.connection.send(signal(1, memfd(b"never"), memfd(b"sent")))
            made.connection.close()
            with pytest.raises(BusError, match="Disconnected"):
                made.connection.send(signal(1, memfd(b"too late")))
            await made.lost.wait()
        assert len(os.listdir("/proc/self/fd")) == before

    run(test)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(100),
        b"l\x04\0\x02" + bytes(40),
        wire.encode(Message(kind=Kind.SIGNAL, path="/a", interface="a.b", member="C", fds=(0,)), 1),
    ],
    ids=["nothing", "zeros", "another protocol", "a descriptor that did not come"],
)
def test_what_no_bus_says_ends_the_connection(data: bytes) -> None:
    async def test() -> None:
        async with ends() as made:
            made.bus.send(data)
            made.bus.shutdown(socket.SHUT_WR)
            await made.lost.wait()

    run(test)


def test_a_lost_descriptor_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files: the kernel drops what it cannot hand over, and every later one would be taken for another's."""

    async def test() -> None:
        monkeypatch.setattr("offsited.edge.bus.connection._RIGHTS_ROOM", socket.CMSG_SPACE(4))
        before = len(os.listdir("/proc/self/fd"))
        async with ends() as made:
            rights = array.array("i", [0, 1, 2, 2, 2])
            made.bus.sendmsg([wire.encode(signal(1), 1)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            await made.lost.wait()
        assert len(os.listdir("/proc/self/fd")) == before

    run(test)
