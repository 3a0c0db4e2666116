# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever descriptor somebody hands over as a passphrase: it is refused in bounded time and memory, and others are answered meanwhile.

OFFSITED_FLOOD=10000 hands over that many in a row instead of 500, as root and as a user whom polkit lets.
"""

import fcntl
import os
import pwd
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest
from bus.peer import Peer, close
from dbus_next.constants import MessageType

from offsited.errors import Exit

from .conftest import fresh_disk, fresh_vault
from .daemon import MANAGER, ROOT, SERVICE, VAULT, connect, main_pid, objects, request
from .machine import PATIENCE, must, shown, write
from .vaults import OnDisk

FLOOD = int(os.environ.get("OFFSITED_FLOOD", "500"))
INVALID = "org.freedesktop.DBus.Error.InvalidArgs"
ERROR = "org.offsited.Offsite1.Error."
ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
RULE = Path("/etc/polkit-1/rules.d/50-offsited-test.rules")
AT_ONCE = 16
SOON = 5.0
"""Seconds within which each must be refused, and others be answered, however busy this machine is."""
MORE_MEMORY = 16 << 20
"""Bytes that the daemon may have more of afterwards."""


def _memfd(size: int, seals: int = ALL_SEALS, content: bytes = b"") -> int:
    descriptor = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    os.pwrite(descriptor, content, 0)
    if seals:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def _socket() -> int:
    one, other = socket.socketpair()
    other.detach()  # never closed, and never written to
    return one.detach()


def _regular_file() -> int:
    descriptor = os.open("/tmp", os.O_TMPFILE | os.O_RDWR)
    os.write(descriptor, b"passphrase")
    return descriptor


HOSTILE: dict[str, Callable[[], int]] = {
    "a directory": lambda: os.open("/etc", os.O_RDONLY | os.O_DIRECTORY),
    "a place": lambda: os.open("/etc/hostname", os.O_PATH),
    "a regular file": _regular_file,
    "a socket": _socket,
    "a pipe that nobody writes to": lambda: os.pipe()[0],
    "the writing end of a pipe": lambda: os.pipe()[1],
    "a device without end": lambda: os.open("/dev/zero", os.O_RDONLY),
    "a terminal": lambda: os.openpty()[1],
    "an event that never comes": lambda: os.eventfd(0),
    "a process": lambda: os.pidfd_open(os.getpid()),
    "empty": lambda: _memfd(0),
    "too long": lambda: _memfd(4097),
    "1 GiB": lambda: _memfd(1 << 30),
    "unsealed": lambda: _memfd(10, 0),
    "writable": lambda: _memfd(10, ALL_SEALS & ~fcntl.F_SEAL_WRITE),
    "growing": lambda: _memfd(10, ALL_SEALS & ~fcntl.F_SEAL_GROW),
    "shrinking": lambda: _memfd(10, ALL_SEALS & ~fcntl.F_SEAL_SHRINK),
    "to be unsealed further": lambda: _memfd(10, ALL_SEALS & ~fcntl.F_SEAL_SEAL),
}
"""Kinds of descriptors; none of them is ever closed by who hands it over, until the test has ended."""


@pytest.fixture(scope="module")
def home(canary: str, key: Path) -> Iterator[OnDisk]:
    """A vault that stays as it is, whatever is tried."""
    with fresh_disk() as disk, fresh_vault(canary) as vault:
        yield OnDisk(vault, disk, key)


@pytest.fixture
def authorised(user: pwd.struct_passwd) -> Iterator[int]:
    """A user whom polkit lets unlock."""
    rule = f"""
        polkit.addRule(function(action, subject) {{
            if (action.id == "org.offsited.Offsite1.unlock" && subject.user == "{user.pw_name}") return polkit.Result.YES;
        }});
    """
    write(RULE, rule, 0o644)
    must("systemctl", "restart", "polkit.service")
    yield user.pw_uid
    RULE.unlink()
    must("systemctl", "restart", "polkit.service")


@pytest.fixture(params=["root", "authorised"])
def uid(request: pytest.FixtureRequest) -> int:
    return 0 if request.param == "root" else int(request.getfixturevalue("authorised"))


@pytest.fixture(autouse=True)
def unharmed(home: OnDisk) -> Iterator[None]:
    """The daemon is the same afterwards, has nothing more open, hardly more memory, and the vault is as it was."""
    pid, restarts, memory, opened = main_pid(), shown(SERVICE, "NRestarts"), _memory(), _open()
    yield
    assert (main_pid(), shown(SERVICE, "NRestarts")) == (pid, restarts)
    assert _open() == opened
    assert _memory() - memory < MORE_MEMORY
    assert not home.vault.is_locked()


def _memory() -> int:
    status = Path(f"/proc/{main_pid()}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) * 1024


def _open() -> int:
    return len(os.listdir(f"/proc/{main_pid()}/fd"))


@pytest.mark.parametrize("kind", HOSTILE)
def test_it_is_refused_at_once(home: OnDisk, kind: str) -> None:
    descriptor = HOSTILE[kind]()
    with connect() as peer:
        begun = monotonic()
        name, _ = peer.error(request(home.vault.path, VAULT, "Unlock", "ha{sv}", 0, {}, fds=[descriptor]))
        assert monotonic() - begun < SOON
    os.close(descriptor)
    assert name == INVALID


def test_a_flood_of_them_hurts_nobody(home: OnDisk, uid: int) -> None:
    """Of all kinds, all held open, many at once; another caller is answered all the while."""
    held = [make() for make in HOSTILE.values()]
    answers: list[str] = []
    with connect(uid) as peer:
        flood = threading.Thread(target=lambda: answers.extend(_flood(peer, home.vault.path, held)))
        begun = monotonic()
        flood.start()
        waited = _ask_meanwhile(flood)
        flood.join()
        took = monotonic() - begun
    for descriptor in held:
        os.close(descriptor)
    print(f"{FLOOD} as user {uid}: {took:.1f} s; another caller was answered {len(waited)} times, within {max(waited):.3f} s")
    assert answers == [INVALID] * FLOOD
    assert max(waited) < SOON


def _flood(peer: Peer, path: str, held: list[int]) -> Iterator[str]:
    """The answers to FLOOD calls, AT_ONCE on their way."""
    for start in range(0, FLOOD, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, FLOOD))
        for number in numbers:
            peer.send(request(path, VAULT, "Unlock", "ha{sv}", 0, {}, fds=[held[number % len(held)]]))
        for _ in numbers:
            answer = peer.answer()
            close(answer)
            yield answer.error_name


def _ask_meanwhile(flood: threading.Thread) -> list[float]:
    """How long each answer took, in seconds, as long as the flood lasts; one at least."""
    waited: list[float] = []
    with connect() as peer:
        while not waited or flood.is_alive():
            begun = monotonic()
            answer = peer.ask(request(ROOT, MANAGER, "GetVault", "s", "nobody"))
            waited.append(monotonic() - begun)
            close(answer)
    return waited


def test_wrong_passphrases_in_a_row_are_tried_one_at_a_time(home: OnDisk, authorised: int) -> None:
    """What could be a passphrase costs a unit each; of several at once one is tried, and the others are told so."""
    descriptor = _memfd(5, content=b"wrong")
    with connect(authorised) as peer, connect() as watcher:
        serials = [peer.send(request(home.vault.path, VAULT, "Unlock", "ha{sv}", 0, {}, fds=[descriptor])) for _ in range(AT_ONCE)]
        assert watcher.ask(request(ROOT, MANAGER, "GetVault", "s", home.vault.name)).message_type is MessageType.METHOD_RETURN
        answers = {peer.answer().error_name for _ in serials}
    os.close(descriptor)
    assert answers == {ERROR + "WrongPassphrase", ERROR + "Busy"}


def test_a_caller_that_dies_before_its_answer_leaves_nothing(home: OnDisk) -> None:
    """It is killed with its descriptors on their way."""
    descriptor = _memfd(5, content=b"wrong")
    child = os.fork()
    if child == 0:
        peer = connect()
        peer.send(request(home.vault.path, VAULT, "Unlock", "ha{sv}", 0, {}, fds=[descriptor]))
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(descriptor)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    end = monotonic() + PATIENCE
    while (ended := home.vault.unlock()).status == Exit.BUSY:  # what was sent may be taken up only now
        assert monotonic() < end
        sleep(0.1)
    assert ended.status == 0, ended
    unit = f"offsited-prove-{home.vault.name}.service"
    while shown(unit, "ActiveState") != "inactive":
        assert monotonic() < end
    assert home.vault.path in objects()
