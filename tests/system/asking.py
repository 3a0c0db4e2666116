# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions for passphrases as systemd's agents see them, and a terminal with a login on it. systemd-ask-password(1), inotify(7)."""

import configparser
import ctypes
import os
import pty
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from .machine import PATIENCE, must

PLACE = Path("/run/systemd/ask-password")
_IN_MOVED_TO, _IN_DELETE = 0x80, 0x200
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Question:
    """One that waits for an answer."""

    file: Path
    identity: str
    message: str
    address: str

    @property
    def is_open(self) -> bool:
        return self.file.exists()

    def answer(self, passphrase: str) -> None:
        """As an agent does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"+" + passphrase.encode(), self.address)


class Questions:
    """Those of one vault that are put from now on, or are there already."""

    def __init__(self, vault: str) -> None:
        self._identity = f"offsited:{vault}"
        self._seen: set[Path] = set()
        self._events = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        assert _libc.inotify_add_watch(self._events, os.fsencode(PLACE), _IN_MOVED_TO | _IN_DELETE) >= 0

    def close(self) -> None:
        os.close(self._events)

    def open(self) -> list[Question]:
        """Those that wait now."""
        found = [question for file in sorted(PLACE.glob("ask.*")) if (question := _parsed(file)) is not None]
        return [question for question in found if question.identity == self._identity]

    def next(self) -> Question:
        """Wait for one that was not returned before."""
        while not (fresh := [question for question in self.open() if question.file not in self._seen]):
            self._wait()
        self._seen.add(fresh[0].file)
        return fresh[0]

    def until_none(self) -> None:
        """Wait until none is open."""
        while self.open():
            self._wait()

    def _wait(self) -> None:
        """Until something has changed."""
        assert select.select([self._events], [], [], PATIENCE)[0], "no question came or went"
        os.read(self._events, 65536)


def _parsed(file: Path) -> Question | None:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(file.read_text())
    except FileNotFoundError:
        return None
    asked = parser["Ask"]
    return Question(file, asked.get("Id", ""), asked.get("Message", ""), asked["Socket"])


@contextmanager
def questions(vault: str) -> Iterator[Questions]:
    """See Questions."""
    found = Questions(vault)
    try:
        yield found
    finally:
        found.close()


class Terminal:
    """A terminal with somebody at it."""

    def __init__(self, *command: str) -> None:
        self._master, slave = pty.openpty()
        environment = {"TERM": "dumb", "PATH": os.environ["PATH"], "HOME": "/root"}
        self.process = subprocess.Popen(["setsid", "--ctty", "--wait", *command], stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        self._seen = ""

    def until(self, text: str) -> str:
        """Wait until this is shown; return what was, since the last such text."""
        end = monotonic() + PATIENCE
        while text not in self._seen:
            assert select.select([self._master], [], [], max(0.0, end - monotonic()))[0], f"{text!r} is not in {self._seen!r}"
            try:
                self._seen += os.read(self._master, 65536).decode(errors="replace")
            except OSError:  # login(1) hangs the terminal up before it takes it for itself
                assert self.process.poll() is None, f"{text!r} is not in {self._seen!r}"
        before, found, self._seen = self._seen.partition(text)
        return before + found

    def type(self, line: str) -> None:
        os.write(self._master, line.encode() + b"\n")

    def status(self) -> int:
        """Wait for the program's own end."""
        return self.process.wait(PATIENCE)

    def leave(self) -> None:
        """Hang up."""
        os.close(self._master)
        self.process.wait(PATIENCE)


@contextmanager
def login() -> Iterator[Terminal]:
    """Root logs in on a console, through PAM. Afterwards logind has nothing left of it."""
    terminal = Terminal("login", "-f", "root")
    try:
        yield terminal
    finally:
        terminal.leave()
        must("systemctl", "stop", "user@0.service", "user-runtime-dir@0.service")
