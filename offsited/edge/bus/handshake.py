# SPDX-License-Identifier: GPL-3.0-or-later
"""From a bus address to an authenticated socket. https://dbus.freedesktop.org/doc/dbus-specification.html#auth-protocol"""

import asyncio
import os
import socket
from typing import Final

from dbus_next._private.address import get_system_bus_address, parse_address

from offsited.edge.bus.vocabulary import DISCONNECTED, BusError

_AUTH_FAILED: Final = "org.freedesktop.DBus.Error.AuthFailed"
_LINE_END: Final = b"\r\n"
_MAX_LINE: Final = 16 << 10
_PATIENCE: Final = 25.0
"""Seconds for all of it."""


async def open_socket(address: str | None) -> socket.socket:
    """Return a socket to the bus at an address, or to the system bus, on which messages can flow. Raise OSError, ValueError or BusError."""
    async with asyncio.timeout(_PATIENCE):
        sock = await _connect(address or get_system_bus_address())  # type: ignore[no-untyped-call]
        try:
            await _authenticate(sock)
        except BaseException:
            sock.close()
            raise
        return sock


async def _connect(address: str) -> socket.socket:
    """Try each part of an address in turn."""
    failure: Exception = ValueError(f"no Unix socket in the bus address {address!r}")
    for transport, options in parse_address(address):  # type: ignore[no-untyped-call]
        name = options.get("path") or "\0" + options.get("abstract", "")
        if transport != "unix" or name == "\0":
            continue
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(sock, name)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


async def _authenticate(sock: socket.socket) -> None:
    """SASL EXTERNAL as our effective user, then descriptors, without which we are of no use."""
    user = str(os.geteuid()).encode().hex()
    await _say(sock, f"\0AUTH EXTERNAL {user}", b"OK ")
    await _say(sock, "NEGOTIATE_UNIX_FD", b"AGREE_UNIX_FD")
    await asyncio.get_running_loop().sock_sendall(sock, b"BEGIN" + _LINE_END)


async def _say(sock: socket.socket, line: str, expected: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, line.encode() + _LINE_END)
    answer = b""
    while not answer.endswith(_LINE_END) and len(answer) < _MAX_LINE:
        data = await asyncio.get_running_loop().sock_recv(sock, 1024)
        if not data:
            raise BusError(DISCONNECTED, "the bus closed the connection")
        answer += data
    if not answer.startswith(expected):
        raise BusError(_AUTH_FAILED, f"the bus answered {answer[:80]!r}")
