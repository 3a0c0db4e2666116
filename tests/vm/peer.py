# SPDX-License-Identifier: GPL-3.0-or-later
"""How qemu, and its agent in the guest, are spoken to: one JSON object a line, over a socket. QEMU's qmp-spec and qemu-ga(8)."""

import json
import socket
from collections import deque
from pathlib import Path
from time import monotonic
from typing import Any


class Refused(Exception):
    """The peer's own word on why it does not do what it was told."""


class Peer:
    """One that answers; of its own accord it may also tell of events."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.connect(str(path))
        self._rest = b""
        self._events: deque[dict[str, Any]] = deque()

    def close(self) -> None:
        self._socket.close()

    def call(self, command: str, *, patience: float, **arguments: Any) -> Any:
        """Have a command carried out, and return what it returns. Raise Refused."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._socket.sendall(json.dumps({"execute": command, "arguments": named}).encode() + b"\n")
        end = monotonic() + patience
        while "return" not in (told := self._next(end)):
            if "error" in told:
                raise Refused(told["error"]["desc"])
            self._events.append(told)
        return told["return"]

    def event(self, name: str, *, patience: float, **data: Any) -> dict[str, Any]:
        """Wait for an event with this data, unless it has been told of already; return all its data. Those before it are forgotten."""
        end = monotonic() + patience
        while True:
            told = self._events.popleft() if self._events else self._next(end)
            if told.get("event") == name and data.items() <= told.get("data", {}).items():
                found: dict[str, Any] = told.get("data", {})
                return found

    def _next(self, end: float) -> dict[str, Any]:
        while b"\n" not in self._rest:
            self._socket.settimeout(max(0.1, end - monotonic()))
            received = self._socket.recv(65536)
            assert received, "it has hung up"
            self._rest += received
        line, _, self._rest = self._rest.partition(b"\n")
        document: dict[str, Any] = json.loads(line)
        return document
