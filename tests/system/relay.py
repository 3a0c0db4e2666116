# SPDX-License-Identifier: GPL-3.0-or-later
"""A bad line to the remote: a relay on this machine that passes on, trickles, holds everything back or cuts, as it is told."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Self

from .machine import PATIENCE
from .remote import HOST, HOST_ADDRESS, host_key

_PIECE: Final = 65536
_WINDOW: Final = 32768
"""Bytes that the relay takes and has not passed on: a sender soon notices that nothing moves."""


@dataclass
class Direction:
    """One way. `rate`: bytes a second; None = as they come, 0 = none."""

    rate: int | None = None
    passed: int = 0
    """Bytes so far, of all connections."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    wanted: int = 0
    enough: threading.Event = field(default_factory=threading.Event)
    """Whether `wanted` bytes have passed."""


class Relay:
    """Listens at a port of its own, and connects to the remote's sshd."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._relayed: dict[asyncio.Task[None], list[socket.socket]] = {}
        self.up, self.down = Direction(), Direction()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
        self._listener.settimeout(0)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._thread.start()
        self._accepting = asyncio.run_coroutine_threadsafe(self._accept(), self._loop)
        return self

    def __exit__(self, *_: object) -> None:
        self._accepting.cancel()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._listener.close()

    @property
    def known(self) -> str:
        """Its line for known_hosts."""
        return host_key().replace(f"{HOST} ", f"[127.0.0.1]:{self.port} ")

    def set(self, *, up: int | None, down: int | None) -> None:
        """Bytes a second from now on, None = all, 0 = none."""

        async def change() -> None:
            for way, rate in ((self.up, up), (self.down, down)):
                way.rate = rate
                way.changed.set()
                way.changed = asyncio.Event()

        self._do(change())

    def until_sent(self, more: int) -> None:
        """Wait until so many bytes more have gone up."""
        self.up.enough.clear()
        self.up.wanted = self.up.passed + more
        assert self.up.enough.wait(PATIENCE), f"{self.up.passed} bytes went up, not {self.up.wanted}"

    def close(self) -> None:
        """Take no further connection: they are refused."""
        self._accepting.cancel()
        self._listener.close()

    def cut(self) -> None:
        """Reset every connection."""

        async def reset() -> None:
            tasks = list(self._relayed)
            for task in tasks:
                for end in self._relayed[task]:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._do(reset())

    def _do(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _accept(self) -> None:
        while True:
            here, _ = await self._loop.sock_accept(self._listener)
            task = asyncio.create_task(self._relay(here))
            self._relayed[task] = [here]
            task.add_done_callback(self._relayed.pop)

    async def _relay(self, here: socket.socket) -> None:
        with here, socket.socket() as there, contextlib.suppress(OSError):
            there.settimeout(0)
            self._relayed[asyncio.current_task()].append(there)  # type: ignore[index]
            await self._loop.sock_connect(there, (HOST_ADDRESS, 22))
            await asyncio.gather(self._pass(here, there, self.up), self._pass(there, here, self.down))

    async def _pass(self, source: socket.socket, drain: socket.socket, way: Direction) -> None:
        while True:
            await self._permitted(way)
            piece = await self._loop.sock_recv(source, way.rate or _PIECE)
            if not piece:
                break
            await self._loop.sock_sendall(drain, piece)
            way.passed += len(piece)
            if way.passed >= way.wanted:
                way.enough.set()
        with contextlib.suppress(OSError):
            drain.shutdown(socket.SHUT_WR)

    async def _permitted(self, way: Direction) -> None:
        """Wait until something may pass."""
        while way.rate is not None:
            changed = way.changed
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), 1.0 if way.rate else None)
            if way.rate and not changed.is_set():
                return


@contextmanager
def relay() -> Iterator[Relay]:
    """See Relay."""
    with Relay() as made:
        yield made
