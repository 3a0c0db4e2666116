# SPDX-License-Identifier: GPL-3.0-or-later
"""Damage to a mirror, of every kind that a disk, a host or a hand can do; found by stock gocryptfs's own names."""

import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BLOCK = 4096 + 32
HEADER = 18


class Mirror:
    """The mirror of a mounted disk, with gocryptfs at hand to tell where an entry lies."""

    def __init__(self, current: Path, control: Path) -> None:
        self.current = current
        self._control = control

    @classmethod
    @contextmanager
    def opened(cls, current: Path, passphrase: bytes, work: Path) -> Iterator["Mirror"]:
        point, control = work / "clear", work / "control"
        point.mkdir(exist_ok=True)
        key_file = work / "key"
        if not key_file.exists():
            shutil.copy(current / "gocryptfs.conf", key_file)
        options = ["-fg", "-q", "-nosyslog", "-ro", "-passfile=/dev/stdin", f"-config={key_file}", f"-ctlsock={control}"]
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        command = ["gocryptfs", *options, f"-notifypid={os.getpid()}", "--", str(current), str(point)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdin is not None
            process.stdin.write(passphrase)
            process.stdin.close()
            try:
                assert signal.sigtimedwait([signal.SIGUSR1], 60), "gocryptfs did not mount it"
                yield cls(current, control)
            finally:
                process.terminate()
                process.wait()
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])

    def sealed(self, path: bytes | str, *, beside: bool = False) -> Path:
        """Where an entry of the snapshot lies, or one that lies `beside` it."""
        plain = os.fsdecode(path)
        request = {"EncryptPath": plain if beside else f"backup/{plain}" if plain else "backup"}
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._control))
            connection.sendall(json.dumps(request).encode())
            answer = json.loads(connection.recv(65536))
        assert not answer["ErrNo"], answer
        return self.current / str(answer["Result"])


@contextmanager
def untimed(*paths: Path) -> Iterator[None]:
    """Within: whatever is done, files and their directories keep their times: nothing but the content tells."""
    kept = {one: os.lstat(one) for path in paths for one in (path, path.parent) if os.path.lexists(one)}
    yield
    for path, status in kept.items():
        if os.path.lexists(path):
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


@dataclass
class Victims:
    """What a fault may be done to: entries of the snapshot that nothing was done to yet."""

    top: Path
    mirror: Mirror
    older: Path
    """A mirror of an earlier commit."""
    draw: random.Random
    left: dict[bytes, os.stat_result]

    @classmethod
    def of(cls, top: Path, mirror: Mirror, older: Path, draw: random.Random) -> "Victims":
        left = {}
        for directory, directories, names in os.walk(os.fsencode(top)):
            for name in (*directories, *names):
                path = os.path.relpath(os.path.join(directory, name), os.fsencode(top))
                with suppress(UnicodeDecodeError):  # gocryptfs's control socket knows no others
                    path.decode()
                    left[path] = os.lstat(os.path.join(directory, name))
        return cls(top, mirror, older, draw, left)

    def take(self, suits: Callable[[bytes, os.stat_result], bool]) -> bytes:
        """One that suits, and nothing is below or above it that something was done to."""
        suitable = [path for path, status in sorted(self.left.items()) if suits(path, status)]
        assert suitable, "too many faults for this tree"
        chosen = self.draw.choice(suitable)
        inode = self.left[chosen].st_ino
        for path, status in list(self.left.items()):
            if path.startswith(chosen + b"/") or chosen.startswith(path + b"/") or status.st_ino == inode:
                del self.left[path]
        self.left.pop(chosen, None)
        return chosen

    def file(self, size: int = 1) -> tuple[bytes, Path]:
        """A file of at least so many bytes, of one name, and where it lies."""
        path = self.take(lambda _, status: stat.S_ISREG(status.st_mode) and status.st_size >= size and status.st_nlink == 1)
        return path, self.mirror.sealed(path)

    def directory(self) -> tuple[bytes, Path]:
        """A directory with entries, none of which has another name elsewhere."""
        full = {os.path.dirname(path) for path in self.left}
        linked = [path for path, status in self.left.items() if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode)]
        suits = lambda path, status: (  # noqa: E731
            stat.S_ISDIR(status.st_mode) and path in full and not any(one.startswith(path + b"/") for one in linked)
        )
        path = self.take(suits)
        return path, self.mirror.sealed(path)


def flip(victims: Victims) -> bytes:
    path, sealed = victims.file()
    with untimed(sealed), sealed.open("r+b") as file:
        position = victims.draw.randrange(os.fstat(file.fileno()).st_size)
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes((byte ^ 1 << victims.draw.randrange(8),)))
    return path


def cut(victims: Victims) -> bytes:
    path, sealed = victims.file(2 * 4096 + 1)
    with untimed(sealed):
        os.truncate(sealed, HEADER + BLOCK * victims.draw.randrange(1, (sealed.stat().st_size - HEADER) // BLOCK + 1))
    return path


def empty(victims: Victims) -> bytes:
    path, sealed = victims.file()
    with untimed(sealed):
        os.truncate(sealed, 0)
    return path


def zero(victims: Victims) -> bytes:
    """gocryptfs takes a block of zeros for a hole."""
    path, sealed = victims.file(2 * 4096)
    with untimed(sealed), sealed.open("r+b") as file:
        file.seek(HEADER + BLOCK * victims.draw.randrange(2))
        file.write(bytes(BLOCK))
    return path


def age(victims: Victims) -> bytes:
    """A block of what the same file was before: it authenticates."""
    path = victims.take(lambda path, _: path.startswith(b"aging/"))
    sealed = victims.mirror.sealed(path)
    old = (victims.older / sealed.relative_to(victims.mirror.current)).read_bytes()
    with untimed(sealed), sealed.open("r+b") as file:
        assert file.read(HEADER) == old[:HEADER]
        file.write(old[HEADER : HEADER + BLOCK])
    return path


def swap(victims: Victims) -> tuple[bytes, ...]:
    (one, first), (other, second) = victims.file(), victims.file()
    with untimed(first, second):
        third = first.with_name("third")
        first.rename(third)
        second.rename(first)
        third.rename(second)
    return one, other


def remove(victims: Victims) -> bytes:
    path, sealed = victims.file()
    with untimed(sealed):
        sealed.unlink()
    return path


def remove_directory(victims: Victims) -> bytes:
    path, sealed = victims.directory()
    with untimed(sealed):
        shutil.rmtree(sealed)
    return path


def wrong_mode(victims: Victims) -> bytes:
    path = victims.take(lambda _, status: not stat.S_ISLNK(status.st_mode))
    sealed = victims.mirror.sealed(path)
    sealed.chmod(stat.S_IMODE(sealed.stat().st_mode) ^ 0o4)
    return path


def wrong_owner(victims: Victims) -> bytes:
    path = victims.take(lambda *_: True)
    sealed = victims.mirror.sealed(path)
    mode = stat.S_IMODE(sealed.lstat().st_mode)
    os.chown(sealed, 12345, -1, follow_symlinks=False)
    if not sealed.is_symlink():
        sealed.chmod(mode)
    return path


def wrong_time(victims: Victims) -> bytes:
    path = victims.take(lambda *_: True)
    sealed = victims.mirror.sealed(path)
    when = sealed.lstat().st_mtime_ns + 1
    os.utime(sealed, ns=(when, when), follow_symlinks=False)
    return path


def wrong_type(victims: Victims) -> bytes:
    path, sealed = victims.file()
    with untimed(sealed):
        sealed.unlink()
        sealed.mkdir()
        (sealed / "in-the-way").touch()
    return path


def wrong_target(victims: Victims) -> bytes:
    """A link that leads where another one leads."""
    is_link = lambda _, status: stat.S_ISLNK(status.st_mode) and status.st_nlink == 1  # noqa: E731
    path, other = victims.take(is_link), victims.take(is_link)
    sealed = victims.mirror.sealed(path)
    status = sealed.lstat()
    with untimed(sealed):
        target = os.readlink(victims.mirror.sealed(other))
        sealed.unlink()
        sealed.symlink_to(target)
        os.chown(sealed, status.st_uid, status.st_gid, follow_symlinks=False)
    return path


def wrong_iv(victims: Victims) -> bytes:
    path, sealed = victims.directory()
    iv = sealed / "gocryptfs.diriv"
    with untimed(iv):
        content = iv.read_bytes()
        iv.chmod(0o600)
        iv.write_bytes(bytes((content[0] ^ 1,)) + content[1:])
    return path


def wrong_name(victims: Victims) -> bytes:
    path = victims.take(lambda path, _: len(os.path.basename(path)) >= 176)
    companion = victims.mirror.sealed(path)
    companion = companion.with_name(f"{companion.name}.name")
    with untimed(companion):
        content = companion.read_bytes()
        companion.chmod(0o600)
        if victims.draw.random() < 0.5:
            companion.unlink()
        else:
            companion.write_bytes(content[:5] + (b"A" if content[5:6] != b"A" else b"B") + content[6:])
    return path


def extra(victims: Victims) -> bytes:
    """A file too many, under a name that decrypts."""
    path = b"extra-%d" % victims.draw.randrange(10**9)
    sealed = victims.mirror.sealed(path)
    with untimed(sealed):
        sealed.write_bytes(b"anything")
    return path


def stray(victims: Victims) -> bytes:
    """A directory too many that gocryptfs does not know of."""
    sealed = victims.mirror.sealed("") / f"stray-{victims.draw.randrange(10**9)}"
    with untimed(sealed):
        sealed.mkdir()
        (sealed / "within").write_bytes(b"anything")
    return os.fsencode(sealed.relative_to(victims.mirror.current))


Fault = Callable[[Victims], bytes | tuple[bytes, ...]]
FAULTS: tuple[Fault, ...] = (
    flip, cut, empty, zero, age, swap, remove, remove_directory, wrong_mode, wrong_owner, wrong_time, wrong_type, wrong_target, wrong_iv,
    wrong_name, extra, stray,
)  # fmt: skip
