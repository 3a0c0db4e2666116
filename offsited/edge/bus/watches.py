# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals of other services, and of nobody else: any user may send any signal straight to our connection, match rule or not."""

import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from offsited.edge.bus import wire
from offsited.edge.bus.vocabulary import BusError, Signal
from offsited.edge.bus.wire import Message

_log = logging.getLogger(__name__)

DRIVER: Final = "org.freedesktop.DBus"
"""The bus itself. It alone sends under this name, and it is the owner of it."""
_NO_OWNER: Final = "org.freedesktop.DBus.Error.NameHasNoOwner"

Ask = Callable[[str, str], Awaitable[tuple[Any, ...]]]
"""Calls a method of the driver that takes one string. Raises BusError."""


@dataclass(frozen=True)
class Rule:
    """What a watch follows; None follows any. D-Bus specification, Match Rules."""

    sender: str
    path: str | None
    path_namespace: str | None
    interface: str
    member: str | None
    arg0: str | None

    def __str__(self) -> str:
        return _rule(**vars(self))

    def fits(self, message: Message) -> bool:
        """Whether a signal fits, its sender and arguments aside."""
        return (
            message.interface == self.interface
            and self.member in {None, message.member}
            and self.path in {None, message.path}
            and (self.path_namespace is None or f"{message.path}/".startswith(f"{self.path_namespace.rstrip('/')}/"))
        )


class Watch:
    """A subscription to signals."""

    def __init__(self, watches: "Watches", rule: Rule, handler: Callable[[Signal], None]) -> None:
        self._watches = watches
        self.rule = rule
        self.handler = handler

    async def close(self) -> None:
        """End it: the handler is not called again, and the match rule is removed from the bus."""
        await self._watches.remove(self)


class Owners:
    """Who owns the well-known names that were asked for, followed until the connection ends: they are few."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._followed: set[str] = set()
        self._owners: dict[str, str] = {}

    async def follow(self, name: str) -> None:
        """Know the owner of a name from now on. Raise BusError."""
        if name.startswith(":") or name == DRIVER:
            self._owners[name] = name
        if name in self._owners:
            return
        self._followed.add(name)
        await self._ask("AddMatch", _rule(sender=DRIVER, interface=DRIVER, member="NameOwnerChanged", arg0=name))
        owner = await self._owner(name)
        self._owners.setdefault(name, owner)  # a change that was heard of meanwhile is newer than the answer

    async def _owner(self, name: str) -> str:
        try:
            (owner,) = await self._ask("GetNameOwner", name)
        except BusError as error:
            if error.name != _NO_OWNER:
                raise
            return ""
        return str(owner)

    def changed(self, name: str, owner: str) -> None:
        """The bus says that a name has a new owner, or none: an empty string."""
        if name in self._followed:
            self._owners[name] = owner

    def owns(self, unique_name: str, name: str) -> bool:
        """Whether a connection owns a name."""
        return self._owners.get(name) == unique_name


class Watches:
    """The watches of one connection."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._owners = Owners(ask)
        self._watches: list[Watch] = []

    async def add(self, rule: Rule, handler: Callable[[Signal], None]) -> Watch:
        """Begin to follow what a rule says. Nothing that is sent after this returns is missed. Raise BusError."""
        await self._owners.follow(rule.sender)
        watch = Watch(self, rule, handler)
        self._watches.append(watch)
        try:
            await self._ask("AddMatch", str(rule))
        except BaseException:
            self._watches.remove(watch)
            raise
        return watch

    async def remove(self, watch: Watch) -> None:
        """End a watch; one that is ended already, or whose connection is lost, is no error."""
        if watch not in self._watches:
            return
        self._watches.remove(watch)
        with contextlib.suppress(BusError):
            await self._ask("RemoveMatch", str(watch.rule))

    def receive(self, message: Message) -> None:
        """Give a signal to those who follow it. A body that cannot be read is a MalformedError."""
        if message.sender == DRIVER and message.member == "NameOwnerChanged":
            name, _, owner = wire.decode_body(message)
            self._owners.changed(name, owner)
        takers = [watch for watch in self._watches if watch.rule.fits(message) and self._owners.owns(message.sender, watch.rule.sender)]
        if takers:
            self._deliver(message, takers)

    @staticmethod
    def _deliver(message: Message, takers: list[Watch]) -> None:
        body = wire.decode_body(message.with_fds(()))
        signal = Signal(message.sender, message.path, message.interface, message.member, body)
        for watch in takers:
            if watch.rule.arg0 is None or body[:1] == (watch.rule.arg0,):
                _call(watch.handler, signal)


def _call(handler: Callable[[Signal], None], signal: Signal) -> None:
    try:
        handler(signal)
    except Exception:
        _log.exception("a defect in the handler of %s.%s", signal.interface, signal.member)


def _rule(**terms: str | None) -> str:
    return ",".join(f"{key}={_quoted(value)}" for key, value in {"type": "signal", **terms}.items() if value is not None)


def _quoted(value: str) -> str:
    """Within single quotes there is no escape, so a quote ends them, comes with a backslash, and opens them again."""
    return "'" + value.replace("'", "'\\''") + "'"
