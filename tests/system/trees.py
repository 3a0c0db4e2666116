# SPDX-License-Identifier: GPL-3.0-or-later
"""Awkward trees, and what is in a tree as find(1), stat(1) and sha256sum(1) see it."""

import os
import socket
import stat
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from .machine import run

Tree = dict[bytes, tuple[bytes, ...]]
"""Paths relative to the top, each with all that is known of it."""

LONGEST = 255
"""Bytes of a file name."""


def census(top: str | Path) -> Tree:
    """Everything in a directory with type, mode, owner, group, mtime in ns, size, link target, device number, content, and link group."""
    found: Tree = {}
    inodes: dict[bytes, bytes] = {}
    for record in _records(_output("find", str(top), "-printf", "%P\\0%y %m %U %G %T@ %s\\0%l\\0%i\\0"), 4):
        path, facts, target, inode = record
        kind, mode, owner, group, changed, size = facts.split(b" ")
        found[path] = (kind, mode, owner, group, changed, b"" if kind in b"dcb" else size, target)
        inodes[path] = inode
    nodes = [path for path, facts in found.items() if facts[0] in b"cb"]
    for path, number in zip(nodes, _stat(top, nodes), strict=True):
        found[path] += (number,)
    for path, digest in _digests(top, [path for path, facts in found.items() if facts[0] == b"f"]).items():
        found[path] += (digest,)
    return _with_link_groups(found, inodes)


def _with_link_groups(found: Tree, inodes: dict[bytes, bytes]) -> Tree:
    """Add to each path the names that are the same file. Names elsewhere (other snapshots) do not count."""
    groups: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for path, inode in inodes.items():
        groups[inode].append(path)
    return {path: (*facts, *sorted(groups[inodes[path]])) for path, facts in found.items()}


def _output(*command: str) -> bytes:
    return subprocess.run(command, capture_output=True, check=True).stdout


def _records(output: bytes, width: int) -> Iterable[tuple[bytes, ...]]:
    fields = output.split(b"\0")[:-1]
    return [tuple(fields[start : start + width]) for start in range(0, len(fields), width)]


def _stat(top: str | Path, paths: list[bytes]) -> list[bytes]:
    full = [os.path.join(os.fsencode(top), path) for path in paths]
    return subprocess.run(["stat", "-c", "%t:%T", "--", *full], capture_output=True, check=True).stdout.split() if paths else []


def _digests(top: str | Path, paths: list[bytes]) -> dict[bytes, bytes]:
    if not paths:
        return {}
    listed = b"".join(b"./" + path + b"\0" for path in paths)
    command = ["xargs", "-0", "sha256sum", "-z", "--"]
    output = subprocess.run(command, input=listed, cwd=top, capture_output=True, check=True).stdout
    return {path[2:]: digest for digest, path in (line.split(b"  ", 1) for line in output.split(b"\0")[:-1])}


def differences(one: Tree, other: Tree) -> list[tuple[bytes, tuple[bytes, ...] | None, tuple[bytes, ...] | None]]:
    """What is not the same in both; for a failed test to show."""
    return [(path, one.get(path), other.get(path)) for path in sorted(one.keys() | other.keys()) if one.get(path) != other.get(path)]


def names(tree: Tree) -> set[bytes]:
    """The paths alone."""
    return set(tree)


def plant(top: Path) -> None:
    """A little of everything that a home server's file systems have."""
    top.mkdir(parents=True, exist_ok=True)
    _names(os.fsencode(top / "names"))
    _links(top / "links")
    _nodes(top / "nodes")
    _owners(top / "owners")
    _sizes(top / "sizes")
    _times(top)


def _names(top: bytes) -> None:
    os.makedirs(top + b"/-rf")
    awkward = [b"plain", b"with space", b" leading", b"trailing ", b"-n", b"--delete", b"new\nline", b"tab\t", b"\x01\x7f", b"*", b"?[a]"]
    awkward += [
        b"#hash",
        b"back\\slash",
        b"'quote\"",
        b"caf\xc3\xa9",
        b"latin1-\xe9",
        b"\xff\xfe",
        b"...",
        b"~tilde",
        b"%percent",
        b"a" * 255,
    ]
    awkward += [b"gocryptfs.conf", b"gocryptfs.diriv", b"gocryptfs.longname.x", b"gocryptfs.longname.x.name", b".gocryptfs.reverse.conf"]
    awkward += [os.urandom(4).hex().encode().ljust(length, b"x") for length in (175, 176, 177, 254, LONGEST)]
    awkward += [b"\xe2\x82\xac" * 85, b"offsited", b"backup"]
    for name in awkward:
        _write(top + b"/" + name, b"content of " + name)
    _write(top + b"/-rf/file", b"in a directory with a leading dash")
    deep = top + b"/" + b"/".join([b"d" * 200] * 6)
    os.makedirs(deep)
    _write(deep + b"/" + b"f" * LONGEST, b"deep down")


def _write(path: bytes, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _links(top: Path) -> None:
    (top / "elsewhere").mkdir(parents=True)
    (top / "one").write_text("linked")
    os.link(top / "one", top / "two")
    os.link(top / "one", top / "elsewhere" / ("long" * 50))
    os.symlink("one", top / "symlink")
    os.symlink("/nowhere/at all", top / "dangling")
    os.symlink("t" * 700, top / "long-target")  # XFS takes 1,023 bytes, encrypted ones
    os.symlink("..", top / "elsewhere" / "up")
    os.link(top / "symlink", top / "symlink-too", follow_symlinks=False)


def _nodes(top: Path) -> None:
    top.mkdir()
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(top / "block", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(top / "socket"))
    (top / "empty-directory").mkdir()
    (top / "empty-file").touch()


def _owners(top: Path) -> None:
    for number, (owner, group, mode) in enumerate(
        [(0, 0, 0o4755), (1, 2, 0o2750), (65534, 65534, 0), (2**32 - 2, 2**32 - 2, 0o7777), (100000, 5, 0o600)]
    ):
        for path in (top / f"file-{number}", top / f"directory-{number}" / "below"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{owner}")
        for path in (top / f"file-{number}", top / f"directory-{number}"):
            os.chown(path, owner, group)
            path.chmod(mode)
    os.symlink("file-1", top / "link")
    os.lchown(top / "link", 12, 34)


def _sizes(top: Path) -> None:
    top.mkdir()
    for size in (1, 16, 4095, 4096, 4097, 131072, 1_000_001):
        (top / f"{size}").write_bytes(os.urandom(size))


def _times(top: Path) -> None:
    """Nanoseconds, before the epoch, and far ahead; directories last, since what is made in them touches them."""
    for number, path in enumerate(sorted((top / "sizes").iterdir())):
        os.utime(path, ns=(0, (-1_000_000_001, 1, 999_999_999, 1_600_000_000_123_456_789, 4_000_000_000_000_000_001)[number % 5]))
    os.utime(top / "links" / "dangling", ns=(0, 1_234_567_890_987_654_321), follow_symlinks=False)
    for number, (directory, _below, _files) in enumerate(os.walk(os.fsencode(top), topdown=False)):
        os.utime(directory, ns=(0, 1_500_000_000_000_000_001 + number))


def copy_linked(old: Path, new: Path) -> Path:
    """The next snapshot, as snapshot tools make it: every file a hard link to the one before."""
    ended = run("cp", "-al", "--", old, new)
    assert ended.status == 0, ended.told
    return new
