# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's connection to the bus."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from offsited import names
from offsited.edge.bus import interfaces as xml
from offsited.edge.bus import wire
from offsited.edge.bus.connection import Connection, close_all
from offsited.edge.bus.objects import Objects
from offsited.edge.bus.serving import Server
from offsited.edge.bus.vocabulary import DISCONNECTED, LIMITS_EXCEEDED, NO_REPLY, BusError, Export, Signal, Variant
from offsited.edge.bus.watches import DRIVER, Rule, Watch, Watches
from offsited.edge.bus.wire import Flag, Kind, Message

_DRIVER_PATH: Final = "/org/freedesktop/DBus"
_DO_NOT_QUEUE: Final = 4
_OWNER: Final = 1
"""DBUS_REQUEST_NAME_REPLY_PRIMARY_OWNER."""
_NAME_TAKEN: Final = "org.freedesktop.DBus.Error.AddressInUse"
_FAILED: Final = "org.freedesktop.DBus.Error.Failed"
PULSE: Final = 30.0
"""Seconds between two questions to the bus whether it still listens, and for its answer.

A connection can be deaf without being dead: dbus-daemon(1) stops reading from us while 127 MiB (max_incoming_bytes) of what we sent lie
unread with others, which a hostile reader brings about, and with any other service, in seconds. A new connection begins at zero.
"""
_GOODBYE: Final = 1.0
"""Seconds that `close` waits for the bus to take what is queued."""


class Bus:
    """One connection. Everything that waits here ends when the connection does. Made by `connect`."""

    unique_name: str

    def __init__(self, interfaces: Mapping[str, xml.Interface]) -> None:
        self._connection: Connection
        self._objects = Objects(interfaces)
        self._server = Server(self._objects, self._send, self._user_of)
        self._watches = Watches(self._ask)
        self._pending: dict[int, asyncio.Future[Message]] = {}
        self._closed = asyncio.Event()
        self._pulse: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, interfaces_xml: Path | None = None, *, address: str | None = None) -> Self:
        """Connect to `address`, or to the system bus. Exports need the XML. Raise BusError, OSError, or ValueError for a bad address."""
        bus = cls({} if interfaces_xml is None else xml.read(interfaces_xml))
        bus._connection = await Connection.open(address, bus._receive, bus._lost)
        try:
            (bus.unique_name,) = await bus._driver("Hello")
        except BaseException:
            bus._connection.close()
            raise
        bus._pulse = asyncio.get_running_loop().create_task(bus._feel_pulse(), name="pulse of the bus")
        return bus

    async def own_name(self, name: str) -> None:
        """Own a well-known name; raise BusError if it cannot be had at once."""
        (answer,) = await self._driver("RequestName", "su", name, _DO_NOT_QUEUE)
        if answer != _OWNER:
            raise BusError(_NAME_TAKEN, f"{name} has an owner")

    # --- objects of ours

    def export(self, path: str, exports: Sequence[Export]) -> None:
        """Put an object on the bus; below the root, tell everybody: InterfacesAdded.

        Raise ValueError for a bad path or one in use, KeyError for an interface that the XML does not have.
        """
        self._objects.add(path, exports)
        if path.startswith(names.ROOT_PATH + "/"):
            self.emit(names.ROOT_PATH, xml.OBJECT_MANAGER, "InterfacesAdded", path, self._objects.interfaces_of(path))

    def unexport(self, path: str) -> None:
        """Take an object off the bus: InterfacesRemoved. A call to it that runs goes on. Raise KeyError if there is none."""
        gone = self._objects.remove(path)
        if path.startswith(names.ROOT_PATH + "/"):
            self.emit(names.ROOT_PATH, xml.OBJECT_MANAGER, "InterfacesRemoved", path, gone)

    def changed(self, path: str, interface: str, properties: Mapping[str, object]) -> None:
        """Emit PropertiesChanged. What the XML calls const or silent is left out, what it calls `invalidates` goes without its value."""
        known = self._objects.interface(interface).properties
        values = {name: Variant(known[name].type, value) for name, value in properties.items() if known[name].emits == "true"}
        invalidated = [name for name in properties if known[name].emits == "invalidates"]
        if values or invalidated:
            self.emit(path, xml.PROPERTIES, "PropertiesChanged", interface, values, invalidated)

    def emit(self, path: str, interface: str, member: str, *args: object) -> None:
        """Emit a signal of the XML. On a lost connection there is nobody to hear it, and no error. Raise BusError for one too long."""
        signature = self._objects.interface(interface).signals[member]
        body = wire.encode_body(signature, args, wire.no_descriptor)
        signal = Message(kind=Kind.SIGNAL, path=path, interface=interface, member=member, signature=signature, body=body)
        with contextlib.suppress(BusError):
            self._send(signal)

    # --- calls of ours

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *args: object,
        fds: Sequence[int] = (),
        timeout: float = 25.0,
        interactive: bool = False,
    ) -> tuple[Any, ...]:
        """Call a method; return its results in plain values, descriptors among them the caller's to close.

        An argument of type h is an index into `fds`, which stay the caller's. `timeout` in seconds. Raise BusError: the peer's, or
        Disconnected at once when the connection is lost, NoReply after the timeout, LimitsExceeded when call or answer is too long;
        MalformedError for arguments that are not of the signature.
        """
        message = Message(
            kind=Kind.CALL,
            flags=Flag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else 0,
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=wire.encode_body(signature, args, range(len(fds)).index),
            fds=_duplicates(fds),
        )
        return _results(await self._answer(self._send(message), timeout))

    async def watch(
        self,
        *,
        sender: str,
        path: str | None = None,
        path_namespace: str | None = None,
        interface: str,
        member: str | None = None,
        arg0: str | None = None,
        handler: Callable[[Signal], None],
    ) -> Watch:
        """Follow signals of whoever owns the name `sender` now; anybody else's are dropped, whatever they claim. Raise BusError."""
        return await self._watches.add(Rule(sender, path, path_namespace, interface, member, arg0), handler)

    # --- the end

    async def wait_closed(self) -> None:
        """Return when the connection is lost or closed."""
        await self._closed.wait()

    async def close(self) -> None:
        """Cancel the handlers that run, send what is queued (for a second at most), disconnect."""
        await self._server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                await self._connection.flush()
        self._connection.close()
        await self._closed.wait()

    def _lost(self) -> None:
        for future in self._pending.values():
            if not future.done():
                future.set_exception(BusError(DISCONNECTED, "the connection to the bus was lost before the answer"))
        if self._pulse is not None:
            self._pulse.cancel()
        self._closed.set()

    async def _feel_pulse(self) -> None:
        while True:
            await asyncio.sleep(PULSE)
            try:
                await self.call(DRIVER, _DRIVER_PATH, DRIVER, "GetId", timeout=PULSE)
            except BusError as error:
                if error.name == NO_REPLY:
                    self._connection.give_up(f"it has not answered for {PULSE:g} s")

    # --- messages

    def _send(self, message: Message) -> int:
        return self._connection.send(message)

    def _receive(self, message: Message) -> bool:
        match message.kind:
            case Kind.CALL:
                return self._server.receive(message)
            case Kind.RETURN | Kind.ERROR:
                return self._replied(message)
            case Kind.SIGNAL:
                self._watches.receive(message)
        return False

    def _replied(self, message: Message) -> bool:
        """That an answer comes from whom we asked is for the bus to see to: it lets through what was asked for, and nothing else."""
        future = self._pending.get(message.reply_serial)
        if future is None or future.done():
            return False
        future.set_result(message)
        return True

    async def _answer(self, serial: int, timeout: float) -> Message:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._pending[serial] = future
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            _drop(future)
            raise BusError(NO_REPLY, f"no answer within {timeout:g} s") from None
        except asyncio.CancelledError:
            _drop(future)
            raise
        finally:
            del self._pending[serial]

    async def _driver(self, member: str, signature: str = "", *args: object) -> tuple[Any, ...]:
        return await self.call(DRIVER, _DRIVER_PATH, DRIVER, member, signature, *args)

    async def _ask(self, member: str, text: str) -> tuple[Any, ...]:
        return await self._driver(member, "s", text)

    async def _user_of(self, sender: str) -> int:
        (user,) = await self._ask("GetConnectionUnixUser", sender)
        return int(user)


def _results(answer: Message) -> tuple[Any, ...]:
    """Return an answer's values, or raise its error. Descriptors that are not among the values are closed."""
    used: set[int] = set()
    try:
        values = wire.decode_body(answer, used)
    except wire.MalformedError as error:
        close_all(answer.fds)
        raise BusError(LIMITS_EXCEEDED if answer.body is None else _FAILED, f"the answer cannot be read: {error}") from None
    if answer.kind == Kind.RETURN:
        close_all(set(answer.fds) - used)
        return values
    close_all(answer.fds)
    raise BusError(answer.error_name, values[0] if values and isinstance(values[0], str) else "")


def _drop(future: asyncio.Future[Message]) -> None:
    """Close what came with an answer that nobody waits for any more."""
    if future.done() and not future.cancelled() and future.exception() is None:
        close_all(future.result().fds)


def _duplicates(fds: Sequence[int]) -> tuple[int, ...]:
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))  # noqa: PERF401  (what was copied must be known when one fails)
    except OSError:
        close_all(copies)
        raise
    return tuple(copies)
