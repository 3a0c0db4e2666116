# SPDX-License-Identifier: GPL-3.0-or-later
"""Passphrases in sealed memfds. Their bytes go from terminal, file or program straight into its pages: no object of Python's holds one.

memfd_create(2), fcntl(2) F_ADD_SEALS, mlock(2), termios(3).
"""

import contextlib
import ctypes
import fcntl
import hmac
import mmap
import os
import resource
import subprocess
import termios
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self

from offsited.errors import Failed, Locked

MAX_BYTES: Final = 4096
SHORT: Final = 12
"""Bytes below which a passphrase is worth a warning: an offline guesser has the key file."""
STANDARD_INPUT: Final = "-"

_ROOM: Final = MAX_BYTES + 2  # a newline, and one more to see that there is too much
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_PR_SET_DUMPABLE: Final = 4

_Fill = Callable[[int, mmap.mmap], int]


class Unfit(Failed):
    """What was given cannot be a passphrase."""


class Passphrase:
    """A passphrase in a sealed memfd, kept out of swap while this process has it."""

    def __init__(self, descriptor: int, pages: "_LockedPages") -> None:
        self._descriptor = descriptor
        self._pages = pages

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        """The memfd, to be sent."""
        return self._descriptor

    def __len__(self) -> int:
        return os.fstat(self._descriptor).st_size

    @contextlib.contextmanager
    def as_input(self) -> Iterator[int]:
        """A descriptor to be a program's standard input: at the beginning, whoever read before."""
        descriptor = _reopen(self._descriptor)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def same_as(self, other: "Passphrase") -> bool:
        """Whether both are the same bytes."""
        with _readable(self.fileno()) as mine, _readable(other.fileno()) as theirs:
            return hmac.compare_digest(mine, theirs)

    def close(self) -> None:
        """Let go of it; its pages go with the last descriptor."""
        self._pages.close()
        os.close(self._descriptor)


def from_prompt(question: str) -> Passphrase:
    """Ask on the terminal, without echo. Raise Locked if there is no terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        raise Locked(
            "a passphrase is needed, and there is no terminal to ask on",
            hint="Give it with --passphrase-file FILE, or - for standard input",
        ) from None
    try:
        with _no_echo(terminal):
            os.write(terminal, question.encode())
            try:
                return _gather(lambda _memfd, room: _readv(terminal, room))
            finally:
                os.write(terminal, b"\n")
    finally:
        os.close(terminal)


def from_file(name: str) -> Passphrase:
    """Read a file, or standard input for "-". One newline at the end is not part of it. Raise Failed."""
    if name == STANDARD_INPUT:
        return _gather(lambda _memfd, room: _read_all(0, room))
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Failed(f"the passphrase file cannot be read: {error.strerror}", hint="Check --passphrase-file") from None
    try:
        return _gather(lambda _memfd, room: _read_all(descriptor, room))
    finally:
        os.close(descriptor)


def from_file_or_prompt(name: str | None, question: str) -> Passphrase:
    """Read a file if one is named, else ask. Raise as those do."""
    return from_prompt(question) if name is None else from_file(name)


def from_agents(question: str, identity: str, wait: Callable[[int], None]) -> Passphrase:
    """Ask through systemd-ask-password(1): on standard input if that is a terminal, else whichever agent answers first.

    `wait` is given a descriptor and returns once that can be read; what it raises ends the question. Raise Locked if it was cancelled.
    """
    return _gather(lambda memfd, _room: _ask(question, identity, wait, memfd))


@contextlib.contextmanager
def as_lines(*secrets: Passphrase) -> Iterator[int]:
    """A descriptor to be a program's standard input: each passphrase on a line of its own. The kernel copies them, sendfile(2)."""
    memfd = os.memfd_create("offsited-passphrases", os.MFD_CLOEXEC)
    try:
        for secret in secrets:
            with secret.as_input() as source:
                os.sendfile(memfd, source, 0, len(secret))
            os.write(memfd, b"\n")
        os.lseek(memfd, 0, os.SEEK_SET)
        yield memfd
    finally:
        os.close(memfd)


def twice(question: str, attempts: int, note: Callable[[str], None]) -> Passphrase:
    """Ask for a new passphrase on the terminal until it was typed the same twice. Raise Failed after so many attempts."""
    for _attempt in range(attempts):
        first = from_prompt(question)
        with from_prompt("The same again: ") as second:
            if first.same_as(second):
                return first
        first.close()
        note("The two differ; try again.")
    raise Failed("the passphrase was not typed the same twice", hint="Nothing was made or changed; run it again")


def warn_if_short(secret: Passphrase, note: Callable[[str], None]) -> None:
    """Whoever has a target has a key file to try guesses on."""
    if len(secret) < SHORT:
        note(f"warning: a passphrase of {len(secret)} bytes is short; whoever has a target can try guesses at leisure")


def refuse_core_dumps() -> None:
    """From here on this process leaves no core file, and no other process of the user may read its memory. prctl(2)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _gather(fill: _Fill) -> Passphrase:
    """Let `fill` put a passphrase into a new memfd; check it, cut it to size, seal it."""
    refuse_core_dumps()
    memfd = os.memfd_create("offsited-passphrase", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memfd, _ROOM)
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        pages = _LockedPages(memfd)
        with mmap.mmap(memfd, _ROOM) as room:
            length = _length(room, fill(memfd, room))
        os.ftruncate(memfd, length)
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
        return Passphrase(memfd, pages)
    except BaseException:
        os.close(memfd)
        raise


def _length(room: mmap.mmap, filled: int) -> int:
    """The passphrase's length without the newline that ends it. Raise Unfit for what cannot be a passphrase."""
    length = filled - 1 if filled and room[filled - 1] == ord("\n") else filled
    if length == 0:
        raise Unfit("the passphrase is empty", hint="Enter at least one character; better six words or more")
    if length > MAX_BYTES:
        raise Unfit(f"the passphrase is longer than {MAX_BYTES} bytes")
    if room.find(b"\n", 0, length) >= 0 or room.find(b"\0", 0, length) >= 0:
        raise Unfit("the passphrase has more than one line, or a NUL", hint="gocryptfs reads one line")
    return length


def _read_all(descriptor: int, room: mmap.mmap) -> int:
    filled = 0
    with memoryview(room) as view:
        while filled < len(view):
            with view[filled:] as rest:
                count = _readv(descriptor, rest)
            if count == 0:
                break
            filled += count
    return filled


def _readv(descriptor: int, buffer: memoryview | mmap.mmap) -> int:
    try:
        return os.readv(descriptor, [buffer])
    except OSError as error:
        raise Failed(f"the passphrase cannot be read: {error.strerror}") from None


def _ask(question: str, identity: str, wait: Callable[[int], None], memfd: int) -> int:
    """What the program prints goes into the memfd by itself, no further than its size; the shared offset says how much."""
    command = ["systemd-ask-password", "--timeout=0", "-n", "--icon=drive-harddisk", f"--id={identity}", question]
    try:
        asking = subprocess.Popen(command, stdout=memfd)
    except OSError as error:
        raise Failed(f"systemd-ask-password cannot be run: {error.strerror}") from None
    with asking:
        ended = os.pidfd_open(asking.pid)
        try:
            wait(ended)
        finally:
            os.close(ended)
            asking.terminate()  # takes its question back
    if asking.returncode != 0:
        raise Locked("nobody answered: the question for the passphrase was cancelled")
    return os.lseek(memfd, 0, os.SEEK_CUR)


@contextlib.contextmanager
def _no_echo(terminal: int) -> Iterator[None]:
    """Line by line, and nothing shown; as it was afterwards."""
    before = termios.tcgetattr(terminal)
    silent = termios.tcgetattr(terminal)
    silent[3] = (silent[3] & ~termios.ECHO) | termios.ICANON | termios.ISIG
    termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)


def _reopen(descriptor: int) -> int:
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def _readable(descriptor: int) -> mmap.mmap:
    """A write-sealed memfd can be mapped shared through a read-only descriptor alone."""
    readable = _reopen(descriptor)
    try:
        return mmap.mmap(readable, 0, prot=mmap.PROT_READ)
    finally:
        os.close(readable)


class _LockedPages:
    """Keeps a memfd's pages out of swap until it is closed, mlock(2); where the limit does not allow it, it does nothing."""

    def __init__(self, descriptor: int) -> None:
        self._length = ctypes.c_size_t(os.fstat(descriptor).st_size)
        readable = _reopen(descriptor)
        try:
            address = _libc.mmap(None, self._length, mmap.PROT_READ, mmap.MAP_SHARED, readable, 0)
        finally:
            os.close(readable)
        self._address = None if address == _MAP_FAILED else ctypes.c_void_p(address)
        if self._address is not None:
            _libc.mlock(self._address, self._length)

    def close(self) -> None:
        if self._address is not None:
            _libc.munmap(self._address, self._length)
            self._address = None


_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
