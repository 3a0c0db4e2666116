# SPDX-License-Identifier: GPL-3.0-or-later
"""How much callers may have going on at once, so that none of them starves the others or fills our memory.

Connections cost a user nothing and leave their calls behind when they go, so a bound per connection is not enough: work that may wait,
for polkit or systemd, counts against the user. While it waits it holds one of our own open calls, of which dbus-daemon(1) allows 128
(max_replies_per_connection); a rest of them stays free for the daemon's own needs. Root is bounded per connection only.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from offsited.edge.bus.refusals import LimitsExceeded
from offsited.edge.bus.vocabulary import BusError

PER_CONNECTION: Final = 64
PER_USER: Final = 32
OF_ALL_USERS: Final = 96
DESCRIPTORS: Final = 256
"""Held by calls of everybody: a quarter of the usual RLIMIT_NOFILE."""
_REMEMBERED: Final = 1024

_Key = TypeVar("_Key")


class Admission:
    """Counts what is going on."""

    def __init__(self) -> None:
        self._per_connection: Counter[str] = Counter()
        self._per_user: Counter[int] = Counter()
        self._descriptors = 0

    def enter(self, sender: str, descriptors: int) -> None:
        """Count a call in, until `leave`. Raise LimitsExceeded."""
        if self._per_connection[sender] >= PER_CONNECTION or self._descriptors + descriptors > DESCRIPTORS:
            raise LimitsExceeded("too many calls at once")
        self._per_connection[sender] += 1
        self._descriptors += descriptors

    def leave(self, sender: str, descriptors: int) -> None:
        """Count a call out."""
        _less(self._per_connection, sender)
        self._descriptors -= descriptors

    @contextmanager
    def working(self, user: int) -> Iterator[None]:
        """Count work that may wait against its user. Raise LimitsExceeded."""
        if user != 0 and (self._per_user[user] >= PER_USER or self._per_user.total() - self._per_user[0] >= OF_ALL_USERS):
            raise LimitsExceeded("too many calls of this user at once")
        self._per_user[user] += 1
        try:
            yield
        finally:
            _less(self._per_user, user)


class Callers:
    """The user behind each connection. `ask` tells it of a unique name, or raises BusError when that is not on the bus any more."""

    def __init__(self, ask: Callable[[str], Awaitable[int]]) -> None:
        self._ask = ask
        self._users: OrderedDict[str, int] = OrderedDict()
        self._waiting: dict[str, list[Callable[[int | None], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def identify(self, sender: str, then: Callable[[int | None], None]) -> None:
        """Call `then` with the user id of a connection, or with None if it has gone; in the order of these requests, maybe at once."""
        if sender in self._users:
            then(self._users[sender])
        elif sender in self._waiting:
            self._waiting[sender].append(then)
        else:
            self._waiting[sender] = [then]
            task = asyncio.get_running_loop().create_task(self._learn(sender), name=f"user of {sender}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _learn(self, sender: str) -> None:
        user = None
        try:
            user = self._users[sender] = await self._ask(sender)
            if len(self._users) > _REMEMBERED:  # a unique name is never given twice: what was learnt stays true
                self._users.popitem(last=False)
        except BusError:
            pass
        finally:
            for then in self._waiting.pop(sender):
                then(user)

    async def close(self) -> None:
        """Whoever still waits to be identified counts as gone."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _less(counter: Counter[_Key], key: _Key) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
