# SPDX-License-Identifier: GPL-3.0-or-later
"""The one door through which a worker runs other programs.

Each child gets a clean environment, and inherits no descriptor that is not named. What it writes to
standard error goes on to the journal as it comes, and its first and last lines are kept for whoever judges the child's end.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Final

ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"}
GRACE: Final = 10.0
"""Seconds between SIGTERM and SIGKILL."""

_LINES_KEPT: Final = 100
_LINE_MAX: Final = 65536

Listener = Callable[[bytes], None]


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit status (negative = signal), and what it complained of."""

    status: int
    complaints: str


class Child:
    """A running program."""

    def __init__(self, process: asyncio.subprocess.Process, on_line: Listener, *, leads_group: bool) -> None:
        self._process = process
        self._leads_group = leads_group
        self._complaints = _Complaints()
        self._reading = [asyncio.create_task(_read(process.stdout, on_line)), asyncio.create_task(_read(process.stderr, self._complaints))]

    @classmethod
    async def start(
        cls, command: Sequence[str], *, on_line: Listener, stdin: int = asyncio.subprocess.DEVNULL, group: bool = True
    ) -> "Child":
        """Start a program. `on_line` gets each line of its standard output, ended by a newline or a carriage return. Raise OSError.

        `group`: it leads a process group of its own, which ends with it. (gocryptfs makes a session of its own, and must not.)
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=ENVIRONMENT,
            process_group=0 if group else None,
            cwd="/",
        )
        return cls(process, on_line, leads_group=group)

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> Ended:
        """Return how the child ended, once it has and its output is read."""
        status = await self._process.wait()
        await asyncio.wait(self._reading, timeout=GRACE)
        return Ended(status, self._complaints.text())

    async def end(self) -> None:
        """End the child, with its group, in order if it lets us. A child that the kernel does not let go is left to systemd."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.running:
                self._signal(number)
                await _within(GRACE, self._process.wait())
        for task in self._reading:
            task.cancel()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._leads_group:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)


async def run(command: Sequence[str], *, on_line: Listener | None = None) -> Ended:
    """Run a program to its end. When the caller is cancelled, the program is ended first. Raise OSError if it cannot be started."""
    child = await Child.start(command, on_line=on_line or _ignore)
    try:
        return await child.wait()
    finally:
        await child.end()


class _Complaints:
    """The first and the last lines of a child's standard error."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=_LINES_KEPT)

    def __call__(self, line: bytes) -> None:
        sys.stderr.buffer.write(line + b"\n")
        sys.stderr.buffer.flush()
        text = os.fsdecode(line)
        if len(self._first) < _LINES_KEPT:
            self._first.append(text)
        else:
            self._last.append(text)

    def text(self) -> str:
        return "\n".join([*self._first, *self._last])


async def _read(stream: asyncio.StreamReader | None, on_line: Listener) -> None:
    assert stream is not None  # noqa: S101 - both streams are pipes
    async for line in _lines(stream):
        on_line(line)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines without their ends; a line without end is cut at _LINE_MAX bytes."""
    rest = b""
    while chunk := await stream.read(_LINE_MAX):
        *lines, rest = re.split(rb"[\r\n]", rest + chunk)
        if len(rest) > _LINE_MAX:
            lines, rest = [*lines, rest], b""
        for line in lines:
            if line:
                yield line
    if rest:
        yield rest


async def _within(seconds: float, waiting: Coroutine[object, object, object]) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(waiting, seconds)


def _ignore(_line: bytes) -> None:
    return
