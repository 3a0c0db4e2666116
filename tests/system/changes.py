# SPDX-License-Identifier: GPL-3.0-or-later
"""Days in the life of a tree: what people and programs do to files, at random, in a snapshot made of hard links.

Nothing is changed in place that another snapshot shares, but for owners, modes and attributes, which such snapshots share indeed.
"""

import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

NAMES = (
    b"plain", b"with space", b"caf\xc3\xa9", b"latin1-\xe9", b"\xff\xfe", b"-dash", b"new\nline",
    b"x" * 180, b"y" * 254, b"gocryptfs.diriv",
)  # fmt: skip


class Day:
    """The changes of one day to one snapshot. `old` are earlier snapshots, to revert to."""

    def __init__(self, top: Path, seed: int, old: list[Path]) -> None:
        self._top = os.fsencode(top)
        self._random = random.Random(seed)  # noqa: S311 - the same days again for the same seed
        self._old = [os.fsencode(path) for path in old]
        self._count = 0

    def pass_by(self) -> None:
        """Do a handful of things."""
        deeds: list[Callable[[], object]] = [
            self._create, self._create, self._rewrite, self._rewrite, self._rewrite_alike, self._delete, self._delete_deeply, self._rename,
            self._rename_directory, self._link, self._split, self._merge, self._turn, self._own, self._mode, self._xattr, self._acl,
            self._touch, self._revert, self._make_node, self._make_sparse,
        ]  # fmt: skip
        for _ in range(self._random.randint(1, 12)):
            self._random.choice(deeds)()

    # --- choosing --------------------------------------------------------------------------------------------------

    def _files(self) -> list[bytes]:
        found = [os.path.join(top, name) for top, _, names in os.walk(self._top) for name in names]
        return sorted(path for path in found if stat.S_ISREG(os.lstat(path).st_mode))

    def _directories(self) -> list[bytes]:
        return sorted(top for top, _, _ in os.walk(self._top))

    def _file(self) -> bytes:
        files = self._files()
        return self._random.choice(files) if files else self._create()

    def _directory(self, *, below: bool = False) -> bytes:
        found = [path for path in self._directories() if not below or path != self._top]
        return self._random.choice(found) if found else self._top

    def _fresh(self) -> bytes:
        """A path that is free."""
        while True:
            self._count += 1
            name = self._random.choice(NAMES) if self._random.random() < 0.4 else b"file%d" % self._random.randrange(1000)
            path = os.path.join(self._directory(), name)
            if not os.path.lexists(path) and len(path) < 2000:
                return path

    def _content(self) -> bytes:
        return self._random.randbytes(self._random.choice((0, 1, 100, 4096, 5000, 70_000)))

    # --- deeds -----------------------------------------------------------------------------------------------------

    def _create(self) -> bytes:
        path = self._fresh()
        if self._random.random() < 0.3:
            os.mkdir(path)
            path = os.path.join(path, b"inside")
        _write(path, self._content())
        return path

    def _rewrite(self) -> None:
        _write(self._file(), self._content())

    def _rewrite_alike(self) -> None:
        """Other content of the same size and the same time: only a hash tells."""
        path = self._file()
        status = os.lstat(path)
        _write(path, self._random.randbytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _delete(self) -> None:
        if self._files():
            os.unlink(self._file())

    def _delete_deeply(self) -> None:
        path = self._directory(below=True)
        if path != self._top:
            shutil.rmtree(path)

    def _rename(self) -> None:
        os.rename(self._file(), self._fresh())

    def _rename_directory(self) -> None:
        path, to = self._directory(below=True), self._fresh()
        if path != self._top and not to.startswith(path + b"/"):
            os.rename(path, to)

    def _link(self) -> None:
        os.link(self._file(), self._fresh())

    def _split(self) -> None:
        """A name becomes a file of its own, with the same content and time."""
        path = self._file()
        status = os.lstat(path)
        _write(path, Path(os.fsdecode(path)).read_bytes())
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _merge(self) -> None:
        """Two files become two names of one."""
        one, other = self._file(), self._file()
        if one != other and not os.path.samefile(one, other):
            os.unlink(other)
            os.link(one, other)

    def _turn(self) -> None:
        """Something becomes something of another type."""
        if self._random.random() < 0.5:
            path = self._file()
            os.unlink(path)
            os.mkdir(path)
            _write(os.path.join(path, b"now inside"), self._content())
            return
        path = self._directory(below=True)
        if path != self._top:
            shutil.rmtree(path)
            self._random.choice((lambda: os.symlink(b"to nowhere", path), lambda: _write(path, self._content())))()

    def _own(self) -> None:
        os.chown(self._random.choice((self._file(), self._directory())), self._random.randrange(70_000), 42, follow_symlinks=False)

    def _mode(self) -> None:
        os.chmod(self._random.choice((self._file(), self._directory())), self._random.choice((0o600, 0o644, 0o4755, 0o700, 0o1777)))

    def _xattr(self) -> None:
        os.setxattr(self._file(), b"user.day", self._random.randbytes(9))

    def _acl(self) -> None:
        """u::rw-, u:1000+N:r--, g::r--, m::r--, o::---: the kernel's own form, acl(5)."""
        entries = ((1, 6, -1), (2, 4, 1000 + self._random.randrange(9)), (4, 4, -1), (16, 4, -1), (32, 0, -1))
        value = b"\x02\x00\x00\x00" + b"".join(
            tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + (who & 0xFFFFFFFF).to_bytes(4, "little") for tag, bits, who in entries
        )
        os.setxattr(self._file(), b"system.posix_acl_access", value)

    def _touch(self) -> None:
        """Another time: of a copy, for the time belongs to the inode."""
        path = self._file()
        _write(path, Path(os.fsdecode(path)).read_bytes())
        os.utime(path, ns=(0, self._random.randrange(2 * 10**18)))

    def _revert(self) -> None:
        """A directory is as it was in an earlier snapshot."""
        if not self._old:
            return
        old = self._random.choice(self._old)
        relative = os.path.relpath(self._random.choice([top for top, _, _ in os.walk(old)]), old)
        to = os.path.normpath(os.path.join(self._top, relative))
        if to == self._top or not os.path.isdir(os.path.dirname(to)):
            return
        if os.path.lexists(to):
            shutil.rmtree(to) if os.path.isdir(to) and not os.path.islink(to) else os.unlink(to)
        shutil.copytree(os.fsdecode(os.path.join(old, relative)), os.fsdecode(to), symlinks=True, copy_function=os.link, ignore=_special)

    def _make_node(self) -> None:
        path = self._fresh()
        match self._random.choice("pcl"):
            case "p":
                os.mkfifo(path)
            case "c":
                os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
            case "l":
                os.symlink(b"t" * 3500, path)

    def _make_sparse(self) -> None:
        path = self._fresh()
        _write(path, b"start")
        with open(path, "r+b") as file:
            file.truncate(1 << 20)
            file.seek(700_000)
            file.write(b"middle")


def _special(directory: str, names: list[str]) -> list[str]:
    """What copytree cannot copy."""
    paths = [(name, os.lstat(os.path.join(directory, name)).st_mode) for name in names]
    return [name for name, mode in paths if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))]


def _write(path: bytes, content: bytes) -> None:
    """A new file in place of whatever file was there: the inode of the old one belongs to other snapshots too."""
    if os.path.lexists(path):
        os.unlink(path)
    with open(path, "xb") as file:
        file.write(content)
