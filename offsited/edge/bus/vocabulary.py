# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bus shares with the rest of the daemon. Values are plain Python:

y n q i u x t   int         a.      list (ay: bytes)
b               bool        a{..}   dict
d               float       (..)    tuple
s o g           str         v       the value itself; going out a `Variant`, or a plain value whose type `wire.plain_type` knows
h               int         a descriptor, where not said otherwise
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

DISCONNECTED: Final = "org.freedesktop.DBus.Error.Disconnected"
NO_REPLY: Final = "org.freedesktop.DBus.Error.NoReply"
LIMITS_EXCEEDED: Final = "org.freedesktop.DBus.Error.LimitsExceeded"


class BusError(Exception):
    """A call failed: the error's name on the bus and its message, a peer's words or ours."""

    def __init__(self, name: str, message: str = "") -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


@dataclass(frozen=True)
class Variant:
    """A value that carries its own D-Bus type, for outgoing arguments of type v."""

    signature: str
    value: Any


@dataclass(frozen=True)
class Call:
    """Who calls what. Handed to each exported method."""

    sender: str
    """The caller's unique name."""
    user: int
    """The user id behind it, as the bus knows it."""
    interactive: bool
    """ALLOW_INTERACTIVE_AUTHORIZATION was set: polkit may ask the user."""
    path: str
    interface: str
    member: str
    fds: tuple[int, ...]
    """Descriptors that came with the call. The bus closes them when the handler is done: os.dup what you keep."""


@dataclass(frozen=True)
class Signal:
    """A signal of another service."""

    sender: str
    path: str
    interface: str
    member: str
    body: tuple[Any, ...]


class Export(Protocol):
    """One object's side of one interface of the XML."""

    @property
    def interface(self) -> str:
        """The interface's name."""

    def properties(self) -> Mapping[str, object]:
        """Every property that the XML lists, in plain values."""

    async def call(self, call: Call, member: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Given the arguments as the XML types them, return the results likewise. A descriptor returned is the bus's to close.

        An OffsitedError goes to the caller as it is; anything else becomes Error.Internal without words.
        """
