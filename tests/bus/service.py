# SPDX-License-Identifier: GPL-3.0-or-later
"""A real service on the Bus under test, in a thread of its own, so that tests can be plain, blocking peers of it."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self, TypeVar

from offsited import names
from offsited.edge.bus import Bus, Call, Export
from offsited.errors import Failed

NAME = "org.offsited.Test1"
PROBE = f"{NAME}.Probe"
SECOND = f"{NAME}.Second"
PATH = names.ROOT_PATH
XML = Path(__file__).with_name("probe.xml")
PATIENCE = 10.0
"""Seconds after which what should have happened has not."""

T = TypeVar("T")


class Probe:
    """One object's side of the interface in probe.xml."""

    interface = PROBE

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.release = asyncio.Event()
        self.echoed: list[str] = []
        self.held = 0
        self.canceled = 0

    def properties(self) -> Mapping[str, object]:
        return {"Name": "probe", "Count": 7, "Paths": ["/", "/a/b"]}

    async def call(self, call: Call, member: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return await getattr(self, f"_{member.lower()}")(call, *args)  # type: ignore[no-any-return]

    async def _nothing(self, _call: Call) -> tuple[Any, ...]:
        return ()

    async def _echo(self, _call: Call, text: str) -> tuple[Any, ...]:
        self.echoed.append(text)
        return (text,)

    async def _who(self, call: Call) -> tuple[Any, ...]:
        return (call.sender, call.interactive)

    async def _options(self, _call: Call, options: Mapping[str, object]) -> tuple[Any, ...]:
        return (repr(options),)

    async def _anything(self, _call: Call, value: object) -> tuple[Any, ...]:
        return (repr(value)[:1000],)

    async def _hold(self, _call: Call) -> tuple[Any, ...]:
        self.held += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.canceled += 1
            raise
        finally:
            self.held -= 1
        return ()

    async def _take(self, call: Call, file: int) -> tuple[Any, ...]:
        assert call.fds == (file,)
        return (os.pread(file, 100, 0),)

    async def _give(self, _call: Call) -> tuple[Any, ...]:
        return (memfd(b"given"),)

    async def _giveback(self, _call: Call, file: int) -> tuple[Any, ...]:
        return (file,)

    async def _fail(self, _call: Call, how: str) -> tuple[Any, ...]:
        match how:
            case "expected":
                raise Failed("with \0 words \udcff")
            case "unexpected":
                raise RuntimeError("/root/secret")
            case "goodbye":
                await self._bus.close()
                return ()
            case "wrong type":
                return ("a result too many",)
            case _:
                raise AssertionError(how)

    async def _unfit(self, _call: Call) -> tuple[Any, ...]:
        return ("a\0b\udcff" + "x" * (2 << 20), {"key\0": os.fsdecode(b"caf\xe9")})

    async def _long(self, _call: Call, strings: int) -> tuple[Any, ...]:
        return (["x" * (1 << 20)] * strings,)


class Second:
    """A second interface on the same object."""

    interface = SECOND

    def properties(self) -> Mapping[str, object]:
        return {"Size": 1 << 63}

    async def call(self, _call: Call, _member: str, _args: tuple[Any, ...]) -> tuple[Any, ...]:
        return ()


class Service:
    """The Bus under test, serving until the context ends: a Probe at the root path, or what is given, or without an XML nothing."""

    def __init__(self, address: str, *, xml: Path | None = XML, exports: Sequence[Export] | None = None) -> None:
        self._address = address
        self._xml = xml
        self._exports = exports
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="service")
        self.loop: asyncio.AbstractEventLoop
        self.bus: Bus
        self.probe: Probe

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.bus.close())
        self.do(self._leave.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine in the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the service's loop."""
        return self.start(work).result(PATIENCE)

    def do(self, work: Callable[[], T]) -> T:
        """Run a function in the service's loop."""

        async def call() -> T:
            return work()

        return self.run(call())

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        try:
            self.loop = asyncio.get_running_loop()
            self._leave = asyncio.Event()
            self.bus = await Bus.connect(self._xml, address=self._address)
            self.probe = Probe(self.bus)
            if self._exports is not None:
                self.bus.export(PATH, self._exports)
            elif self._xml is not None:
                self.bus.export(PATH, [self.probe, Second()])
                await self.bus.own_name(NAME)
        except BaseException as error:
            self._ready.set_exception(error)
            raise
        self._ready.set_result(None)
        await self._leave.wait()


def memfd(content: bytes) -> int:
    """A descriptor with something in it."""
    fd = os.memfd_create("test")
    os.write(fd, content)
    return fd
