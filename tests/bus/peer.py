# SPDX-License-Identifier: GPL-3.0-or-later
"""A peer on the bus that does what it likes: a blocking socket and dbus_next's codec, none of the code under test."""

import array
import os
import socket
from collections.abc import Sequence
from typing import Any, Self

from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message

from .service import NAME, PATH, PATIENCE, PROBE

INTERACTIVE = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION
NO_REPLY = MessageFlag.NO_REPLY_EXPECTED
DRIVER = "org.freedesktop.DBus"


class Peer:
    """One connection to the bus."""

    def __init__(self, address: str, *, uid: int = 0) -> None:
        self._serial = 0
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        os.seteuid(uid)  # SO_PEERCRED, unix(7), is taken when the socket connects
        try:
            self.sock.connect(address.partition("path=")[2].partition(",")[0])
        finally:
            os.seteuid(0)
        self.sock.sendall(b"\0AUTH EXTERNAL " + str(uid).encode().hex().encode() + b"\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n")
        answer = b""
        while answer.count(b"\r\n") < 2:
            answer += self.sock.recv(1)
        assert b"AGREE_UNIX_FD" in answer
        self.name: str = self.call(DRIVER, "/org/freedesktop/DBus", DRIVER, "Hello")[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def send(self, message: Message) -> int:
        """Send a message with its descriptors, and return its serial."""
        message.serial = self.next_serial()
        self.send_bytes(marshalled(message), message.unix_fds)
        return message.serial

    def send_bytes(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send anything."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self.sock.sendmsg([data], rights)
        if data[sent:]:
            self.sock.sendall(data[sent:])

    def receive(self) -> Message:
        """Return the next message. Its descriptors are the caller's to close."""
        unmarshaller: Any = Unmarshaller(None, self.sock)  # type: ignore[no-untyped-call]
        while unmarshaller.unmarshall() is None:
            pass
        message: Message = unmarshaller.message
        return message

    def answer(self) -> Message:
        """Return the next message that is an answer."""
        while True:
            message = self.receive()
            if message.reply_serial:
                return message
            close(message)

    def reply(self, serial: int) -> Message:
        """Return the answer to a call, passing over everything else."""
        while (message := self.answer()).reply_serial != serial:
            close(message)
        return message

    def signal(self, member: str) -> Message:
        """Return the next signal of a name."""
        while True:
            message = self.receive()
            if message.message_type is MessageType.SIGNAL and message.member == member:
                return message

    def call_to_me(self) -> Message:
        """Return the next call."""
        while (message := self.receive()).message_type is not MessageType.METHOD_CALL:
            close(message)
        return message

    def ask(self, message: Message) -> Message:
        """Send a call and return its answer."""
        return self.reply(self.send(message))

    def call(self, destination: str, path: str, interface: str, member: str, signature: str = "", *args: Any) -> list[Any]:
        """Call a method and return its results; an error fails the test."""
        answer = self.ask(
            Message(destination=destination, path=path, interface=interface, member=member, signature=signature, body=list(args))
        )
        assert answer.message_type is MessageType.METHOD_RETURN, (answer.error_name, answer.body)
        body: list[Any] = answer.body
        return body

    def error(self, message: Message) -> tuple[str, str]:
        """Send a call that is expected to fail; return the error's name and words."""
        answer = self.ask(message)
        assert answer.message_type is MessageType.ERROR, answer.body
        close(answer)
        return answer.error_name, answer.body[0]

    def signal_of(self, sender: str) -> Message:
        """Return the next signal of a connection."""
        while (message := self.receive()).message_type is not MessageType.SIGNAL or message.sender != sender:
            close(message)
        return message

    def follow(self, rule: str = "type='signal'") -> None:
        """Receive signals."""
        self.call(DRIVER, "/org/freedesktop/DBus", DRIVER, "AddMatch", "s", rule)


def probe(member: str, signature: str = "", *args: Any, fds: Sequence[int] = (), **header: Any) -> Message:
    """A call of the service's probe."""
    defaults = {"destination": NAME, "path": PATH, "interface": PROBE, "member": member}
    return Message(**{**defaults, "signature": signature, "body": list(args), "unix_fds": list(fds), **header})


def marshalled(message: Message) -> bytes:
    """A message's bytes. Its serial is the caller's to set."""
    return bytes(message._marshall(negotiate_unix_fd=True))  # type: ignore[no-untyped-call]


def close(message: Message) -> None:
    """Close a message's descriptors."""
    for fd in message.unix_fds:
        os.close(fd)
