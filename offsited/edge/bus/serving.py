# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls from others: found in the tree, admitted, run each as its own task, answered. The one translator of errors to the bus."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from offsited.edge.bus import wire
from offsited.edge.bus.admission import Admission, Callers
from offsited.edge.bus.connection import close_all
from offsited.edge.bus.objects import Objects, Target
from offsited.edge.bus.refusals import LimitsExceeded
from offsited.edge.bus.vocabulary import BusError, Call
from offsited.edge.bus.wire import Flag, Kind, Message
from offsited.errors import Internal, InvalidArgs, OffsitedError

_log = logging.getLogger(__name__)

_MAX_WORDS: Final = 4096
"""Characters of an error's message."""


class Server:
    """Answers calls. `send` queues a message and takes over its descriptors; `user_of` tells the user behind a unique name."""

    def __init__(self, objects: Objects, send: Callable[[Message], int], user_of: Callable[[str], Awaitable[int]]) -> None:
        self._objects = objects
        self._send = send
        self._callers = Callers(user_of)
        self._admission = Admission()
        self._tasks: set[asyncio.Task[None]] = set()

    def receive(self, message: Message) -> bool:
        """Take a call; return whether its descriptors are kept. What is refused costs neither a task nor a look at the body."""
        try:
            target = self._objects.resolve(message.path, message.interface, message.member)
            _check(message, target)
            self._admission.enter(message.sender, message.descriptors)
        except OffsitedError as error:
            self._refuse(message, error)
            return False
        self._callers.identify(message.sender, partial(self._start, message, target))
        return True

    async def close(self) -> None:
        """Cancel what runs, but not the task that asks for it, and wait until it has ended."""
        await self._callers.close()
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, message: Message, target: Target, user: int | None) -> None:
        if user is None:
            close_all(message.fds)
            self._admission.leave(message.sender, message.descriptors)
            return
        task = asyncio.get_running_loop().create_task(self._serve(message, target, user), name=f"{target.interface}.{message.member}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, message: Message, target: Target, user: int) -> None:
        ours = set(message.fds)
        try:
            results = await self._results(message, target, user)
            reply = _reply(message, target.method.results, results, ours)
            ours -= set(reply.fds) if message.wants_reply else set()
            self._answer(message, reply)
        except OffsitedError as error:
            self._refuse(message, error)
        except Exception:
            _log.exception("a defect in %s.%s", target.interface, message.member)
            self._refuse(message, Internal("an internal error; the daemon's journal says more"))
        finally:
            close_all(ours)
            self._admission.leave(message.sender, message.descriptors)

    async def _results(self, message: Message, target: Target, user: int) -> tuple[Any, ...]:
        if target.export is None:
            return self._objects.answer(message.path, message.member, _arguments(message))
        with self._admission.working(user):
            interactive = bool(message.flags & Flag.ALLOW_INTERACTIVE_AUTHORIZATION)
            call = Call(message.sender, user, interactive, message.path, target.interface, message.member, message.fds)
            return await target.export.call(call, message.member, _arguments(message))

    def _answer(self, message: Message, reply: Message) -> None:
        """Send a reply if one is wanted, and if there is still a bus to send it to."""
        if message.wants_reply:
            with contextlib.suppress(BusError):
                self._send(reply)

    def _refuse(self, message: Message, error: OffsitedError) -> None:
        body = wire.encode_body("s", (error.message[:_MAX_WORDS],), wire.no_descriptor)
        reply = Message(
            kind=Kind.ERROR,
            error_name=error.bus_name,
            reply_serial=message.serial,
            destination=message.sender,
            signature="s",
            body=body,
        )
        self._answer(message, reply)


def _check(message: Message, target: Target) -> None:
    """Raise InvalidArgs or LimitsExceeded for a call that cannot be what the XML says, by its header alone."""
    arguments = target.method.arguments
    if message.signature != arguments:
        raise InvalidArgs(f"{message.member} takes arguments of the types {arguments!r}")
    if message.descriptors > arguments.count("h"):
        raise InvalidArgs(f"{message.member} takes no such number of descriptors")
    if message.body is None:
        raise LimitsExceeded("the call is too long")


def _arguments(message: Message) -> tuple[Any, ...]:
    try:
        return wire.decode_body(message)
    except wire.MalformedError as error:
        raise InvalidArgs(f"{message.member}: {error}") from None


def _reply(message: Message, signature: str, results: tuple[Any, ...], ours: set[int]) -> Message:
    """Encode a method's results. Descriptors among them are added to `ours`, the ones to be closed. Raise OSError for one that is none."""
    fds: list[int] = []

    def index(descriptor: int) -> int:
        os.fstat(descriptor)
        ours.add(descriptor)
        if descriptor not in fds:
            fds.append(descriptor)
        return fds.index(descriptor)

    try:
        body = wire.encode_body(signature, results, index)
    except wire.TooLongError as error:
        raise LimitsExceeded(error.message) from None
    return Message(
        kind=Kind.RETURN,
        reply_serial=message.serial,
        destination=message.sender,
        signature=signature,
        body=body,
        fds=tuple(fds),
    )
