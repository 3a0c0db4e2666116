# SPDX-License-Identifier: GPL-3.0-or-later
"""The one door through which a worker runs other programs.

Each child gets a clean environment, and inherits no descriptor that is not named. What it writes to
standard error goes on to the journal as it comes, and its first and last lines are kept for whoever judges the child's end.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"}
GRACE: Final = 10.0
"""Seconds between SIGTERM and SIGKILL."""

_TALKATIVE: Final = 200
"""Reads after which a program counts as one that says much in small pieces."""
_LITTLE: Final = 32768
_GATHERED: Final = 0.02
"""Seconds between two reads of its output."""
_PIPE_SIZE: Final = 1 << 20
"""Bytes, so that it need not wait meanwhile; as much as anyone may have, pipe(7)."""
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

    def __init__(self, transport: asyncio.SubprocessTransport, output: "_Output", *, leads_group: bool) -> None:
        self._transport = transport
        self._output = output
        self._leads_group = leads_group

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        on_line: Listener,
        stdin: int = asyncio.subprocess.DEVNULL,
        group: bool = True,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> "Child":
        """Start a program. `on_line` gets each line of its standard output, ended by a newline or a carriage return. Raise OSError.

        `group`: it leads a process group of its own, which ends with it. (gocryptfs makes a session of its own, and must not.)
        """
        transport, output = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Output(on_line),
            *command,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**ENVIRONMENT, **environment},
            process_group=0 if group else None,
            cwd="/",
        )
        return cls(transport, output, leads_group=group)

    @property
    def running(self) -> bool:
        return self._transport.get_returncode() is None

    async def wait(self) -> Ended:
        """Return how the child ended, once it has and its output is read. What `on_line` raised is raised here."""
        await self._output.exited.wait()
        await _within(GRACE, self._output.read.wait())
        if self._output.error:
            raise self._output.error
        return Ended(self._transport.get_returncode() or 0, self._output.complaints.text())

    async def end(self) -> None:
        """End the child, with its group, in order if it lets us. A child that the kernel does not let go is left to systemd."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.running:
                self._signal(number)
                await _within(GRACE, self._output.exited.wait())
        self._transport.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._leads_group:
                os.killpg(self._transport.get_pid(), number)
            else:
                self._transport.send_signal(number)


async def run(command: Sequence[str], *, on_line: Listener | None = None) -> Ended:
    """Run a program to its end. When the caller is cancelled, the program is ended first. Raise OSError if it cannot be started."""
    child = await Child.start(command, on_line=on_line or _ignore)
    try:
        return await child.wait()
    finally:
        await child.end()


def relay(line: bytes) -> None:
    """Pass a line on to the journal. One that is gone must not end the job, nor hide from it what the line says."""
    with contextlib.suppress(OSError):
        sys.stderr.buffer.write(line + b"\n")
        sys.stderr.buffer.flush()


class _Output(asyncio.SubprocessProtocol):
    """What a child says. (asyncio's own Process.wait() does not return while a descendant has a pipe open: gocryptfs, ssh.)"""

    def __init__(self, on_line: Listener) -> None:
        self.complaints = _Complaints()
        self.exited = asyncio.Event()
        self.read = asyncio.Event()
        self.error: Exception | None = None
        self._transport: asyncio.SubprocessTransport | None = None
        self._reads = 0
        self._widened = False
        self._open = {1: _Lines(on_line), 2: _Lines(self.complaints)}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport if isinstance(transport, asyncio.SubprocessTransport) else None

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._take(fd, data)
        self._reads += 1
        if fd == 1 and self._reads > _TALKATIVE and len(data) < _LITTLE:
            self._gather()

    def _gather(self) -> None:
        """Let more come before it is read again: a program that flushes each line wakes us thousands of times a second."""
        pipe = self._transport.get_pipe_transport(1) if self._transport else None
        if not isinstance(pipe, asyncio.ReadTransport) or pipe.is_closing():
            return
        if not self._widened:
            self._widened = True
            with contextlib.suppress(OSError):
                fcntl.fcntl(pipe.get_extra_info("pipe"), fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        pipe.pause_reading()
        asyncio.get_running_loop().call_later(_GATHERED, _resume, pipe)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._take(fd, b"\n")
        del self._open[fd]
        if not self._open:
            self.read.set()

    def process_exited(self) -> None:
        self.exited.set()

    def _take(self, fd: int, data: bytes) -> None:
        """Reading goes on after a listener's error: the child must not wait for us."""
        try:
            self._open[fd].take(data)
        except Exception as error:  # wait() raises it
            self.error = self.error or error


class _Lines:
    """Cuts a stream into lines without their ends; a line without end is cut at _LINE_MAX bytes."""

    def __init__(self, on_line: Listener) -> None:
        self._on_line = on_line
        self._rest = b""

    def take(self, data: bytes) -> None:
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + data)
        while len(self._rest) > _LINE_MAX:
            lines, self._rest = [*lines, self._rest[:_LINE_MAX]], self._rest[_LINE_MAX:]
        for line in filter(None, lines):
            self._on_line(line)


class _Complaints:
    """The first and the last lines of a child's standard error."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=_LINES_KEPT)

    def __call__(self, line: bytes) -> None:
        relay(line)
        text = os.fsdecode(line)
        if len(self._first) < _LINES_KEPT:
            self._first.append(text)
        else:
            self._last.append(text)

    def text(self) -> str:
        return "\n".join([*self._first, *self._last])


def _resume(pipe: asyncio.ReadTransport) -> None:
    if not pipe.is_closing():
        pipe.resume_reading()


async def _within(seconds: float, waiting: Coroutine[object, object, object]) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(waiting, seconds)


def _ignore(_line: bytes) -> None:
    return
