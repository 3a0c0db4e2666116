# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon as seen from the command line: calls with timeouts, errors as our own, signals of the daemon alone.

A `Client` is used from plain sequential code. Between two calls nothing runs; what arrives meanwhile waits in the socket and is not lost.
"""

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from offsited import names
from offsited.errors import Failed, OffsitedError, by_bus_name

READ_TIMEOUT: Final = 25.0
ACT_TIMEOUT: Final = 300.0
"""Seconds for a call that may ask a person for a password."""

_BUS: Final = "org.freedesktop.DBus"
_BUS_PATH: Final = "/org/freedesktop/DBus"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_NOBODY_ANSWERS: Final = frozenset(
    f"{_BUS}.Error.{word}" for word in ("ServiceUnknown", "NameHasNoOwner", "NoReply", "Timeout", "TimedOut", "Disconnected")
)
_NOT_THERE: Final = frozenset(f"{_BUS}.Error.{word}" for word in ("UnknownObject", "UnknownInterface", "UnknownMethod"))
_BUS_LOST: Final = "the connection to the system bus is lost"
_LOOK: Final = f"Is it running? systemctl status {names.SERVICE}"


class NoAnswer(Failed):
    """The daemon, or the bus, does not answer."""


class NoSuchObject(Failed):
    """The daemon has no such object: it is gone, or was never there."""


@dataclass(frozen=True)
class Request:
    """One method call. `args` in dbus-next's values: an argument of type h is an index into `fds`."""

    path: str
    interface: str
    member: str
    signature: str = ""
    args: tuple[Any, ...] = ()
    fds: tuple[int, ...] = ()
    acts: bool = False
    """polkit may ask the user; the timeout is a person's."""
    destination: str = names.BUS_NAME
    start: bool = True
    """Whether the bus may start the destination for this."""


@dataclass(frozen=True)
class Reply:
    """What came back, in plain values; descriptors in `fds` are the caller's to close."""

    body: tuple[Any, ...]
    fds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Signal:
    """A signal of the daemon."""

    path: str
    interface: str
    member: str
    body: tuple[Any, ...]


@dataclass(frozen=True)
class Presence:
    """The daemon went away from the bus, or came back."""

    present: bool


Event = Signal | Presence


class _Lost:
    """The connection to the bus ended."""


class Client:
    """A connection to the system bus. Raise NoAnswer if there is none."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._owner = ""
        self._events: asyncio.Queue[Event | _Lost] = asyncio.Queue()
        try:
            self._bus = self._runner.run(_connect())
            self._watching = self._runner.get_loop().create_task(self._watch())
        except BaseException:
            self._runner.close()
            raise
        self._bus.add_message_handler(self._receive)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bus."""
        self._bus.disconnect()  # type: ignore[no-untyped-call]
        self._runner.close()

    def call(self, request: Request) -> Reply:
        """Call a method. Raise the error that its name on the bus stands for, NoAnswer, or NoSuchObject."""
        return self._runner.run(self._call(request))

    def call_all(self, requests: Sequence[Request]) -> list[Reply | OffsitedError]:
        """Call methods side by side; return what each gave, or raised."""
        return self._runner.run(self._call_all(requests))

    def get(self, path: str, interface: str, *, destination: str = names.BUS_NAME) -> dict[str, Any]:
        """Return all properties of one interface of an object."""
        reply = self.call(Request(path, PROPERTIES, "GetAll", "s", (interface,), destination=destination))
        return dict(reply.body[0])

    def managed_objects(self, *, start: bool = True) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """Return every object of the daemon with its properties. `start`: whether the bus may start the daemon for that."""
        reply = self.call(Request(names.ROOT_PATH, f"{_BUS}.ObjectManager", "GetManagedObjects", start=start))
        return dict(reply.body[0])

    def subscribe(self) -> None:
        """From now on, keep what the daemon signals, and whether it is there, for `next_event`."""
        for rule in (
            f"type='signal',sender='{_BUS}',interface='{_BUS}',member='NameOwnerChanged',arg0='{names.BUS_NAME}'",
            f"type='signal',sender='{names.BUS_NAME}',path_namespace='{names.ROOT_PATH}'",
        ):
            self._ask_bus("AddMatch", rule)
        try:
            self._owner = str(self._ask_bus("GetNameOwner", names.BUS_NAME).body[0])
        except NoAnswer:
            self._owner = ""

    def next_event(self, timeout: float | None) -> Event | None:
        """Return the next event, or None after `timeout` seconds without one. Raise NoAnswer when the bus itself is gone."""
        return self._runner.run(self._next_event(timeout))

    def next_event_or(self, descriptor: int) -> Event | None:
        """Return the next event, or None once `descriptor` can be read. Raise NoAnswer when the bus itself is gone."""
        return self._runner.run(self._next_event_or(descriptor))

    def _ask_bus(self, member: str, argument: str) -> Reply:
        return self.call(Request(_BUS_PATH, _BUS, member, "s", (argument,), destination=_BUS))

    async def _call_all(self, requests: Sequence[Request]) -> list[Reply | OffsitedError]:
        return await asyncio.gather(*(self._call_caught(request) for request in requests))

    async def _call_caught(self, request: Request) -> Reply | OffsitedError:
        try:
            return await self._call(request)
        except OffsitedError as error:
            return error

    async def _call(self, request: Request) -> Reply:
        flags = MessageFlag.NONE
        if request.acts:
            flags |= MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION
        if not request.start:
            flags |= MessageFlag.NO_AUTOSTART
        message = Message(
            destination=request.destination,
            path=request.path,
            interface=request.interface,
            member=request.member,
            signature=request.signature,
            body=list(request.args),
            unix_fds=list(request.fds),
            flags=flags,
        )
        return _result(await self._exchange(message, ACT_TIMEOUT if request.acts else READ_TIMEOUT))

    async def _exchange(self, message: Message, timeout: float) -> Message:
        """dbus-next loses calls on a dead connection: hence the timeout, and whatever the socket raised."""
        try:
            async with asyncio.timeout(timeout):
                reply = await self._bus.call(message)
        except TimeoutError:
            raise NoAnswer(f"the daemon did not answer within {timeout:.0f} s", hint=_LOOK) from None
        except (EOFError, OSError):
            reply = None
        if reply is None:
            raise NoAnswer(_BUS_LOST, hint="Try again")
        return reply

    async def _next_event(self, timeout: float | None) -> Event | None:
        try:
            async with asyncio.timeout(timeout):
                event = await self._events.get()
        except TimeoutError:
            return None
        if isinstance(event, _Lost):
            raise NoAnswer(_BUS_LOST, hint="Try again")
        return event

    async def _next_event_or(self, descriptor: int) -> Event | None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(descriptor, readable.set)
        event, ready = loop.create_task(self._next_event(None)), loop.create_task(readable.wait())
        try:
            await asyncio.wait({event, ready}, return_when=asyncio.FIRST_COMPLETED)
            return event.result() if event.done() else None
        finally:
            loop.remove_reader(descriptor)
            event.cancel()
            ready.cancel()

    async def _watch(self) -> None:
        """Put the end of the connection into the queue, behind what came before it."""
        with contextlib.suppress(Exception):  # however it ended
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        self._events.put_nowait(_Lost())

    def _receive(self, message: Message) -> bool:
        """Keep signals of the daemon. Anybody may send us a signal of any shape; the bus vouches for the sender's unique name alone."""
        for descriptor in message.unix_fds if message.message_type is MessageType.SIGNAL else ():
            os.close(descriptor)
        if message.message_type is not MessageType.SIGNAL:
            return False
        if message.sender == _BUS and message.member == "NameOwnerChanged":
            self._owner_changed(*message.body)
        elif message.sender == self._owner:
            body = tuple(_plain(value) for value in message.body)
            self._events.put_nowait(Signal(message.path, message.interface, message.member, body))
        return True

    def _owner_changed(self, name: str, _old: str, new: str) -> None:
        if name == names.BUS_NAME:
            self._owner = new
            self._events.put_nowait(Presence(bool(new)))


def option(signature: str, value: object) -> Variant:
    """One value of an `a{sv}` of options."""
    return Variant(signature, value)


async def _connect() -> MessageBus:
    try:
        async with asyncio.timeout(READ_TIMEOUT):
            return await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
    except Exception as error:  # dbus-next raises what it meets: OSError, its own, bare Exception
        raise NoAnswer(f"the system bus cannot be reached: {error}", hint="Is it running? systemctl status dbus") from None


def _result(reply: Message) -> Reply:
    if reply.message_type is not MessageType.ERROR:
        return Reply(tuple(_plain(value) for value in reply.body), tuple(reply.unix_fds))
    for descriptor in reply.unix_fds:
        os.close(descriptor)
    words = str(reply.body[0]) if reply.body and isinstance(reply.body[0], str) else ""
    raise _error(str(reply.error_name), words)


def _error(name: str, words: str) -> OffsitedError:
    if name in _NOBODY_ANSWERS or name.startswith(f"{_BUS}.Error.Spawn."):
        return NoAnswer("the daemon does not answer", hint=_LOOK)
    if name in _NOT_THERE:
        return NoSuchObject(words or name)
    return by_bus_name(name)(words or name)


def _plain(value: Any) -> Any:  # noqa: ANN401 - any D-Bus value
    """Strip dbus-next's variants, at any depth."""
    if isinstance(value, Variant):
        return _plain(value.value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
