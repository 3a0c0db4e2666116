# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots as they may be, how they change, and whether two trees are the same."""

import fcntl
import os
import stat
import struct
import subprocess
from pathlib import Path

Entry = tuple[int, int, int, int, bytes, int]
"""Mode, owner, group, mtime in ns, content or target of a link, number of names within the tree."""


def tree(top: Path) -> dict[bytes, Entry]:
    """Every entry below a directory, and the directory itself as `.`."""
    found: dict[bytes, os.stat_result] = {b".": os.lstat(top)}
    for directory, directories, names in os.walk(os.fsencode(top)):
        for name in (*directories, *names):
            path = directory + b"/" + name
            found[os.path.relpath(path, os.fsencode(top))] = os.lstat(path)
    inodes = [status.st_ino for status in found.values()]
    return {path: _entry(os.fsencode(top) + b"/" + path, status, inodes.count(status.st_ino)) for path, status in found.items()}


def _entry(path: bytes, status: os.stat_result, names: int) -> Entry:
    content = b""
    if stat.S_ISREG(status.st_mode):
        content = Path(os.fsdecode(path)).read_bytes()
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content, 1 if stat.S_ISDIR(status.st_mode) else names


def fill(top: Path) -> Path:
    """Entries of every kind and strange names."""
    for name in ("a", "d/b", "d/deep/c", "gone/x", "gone/y/z", "l" * 200 + "/" + "m" * 255, "became-file/x", "became-directory"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(name.encode() * 100)
    for raw in (b"\xff\xfe", b"new\nline", b"-dash", b"gocryptfs.conf", b" "):
        (top / os.fsdecode(raw)).write_bytes(raw)
    (top / "empty").touch()
    (top / "hollow").mkdir()
    (top / "soft").symlink_to("nowhere")
    os.link(top / "a", top / "d/hard")
    os.mkfifo(top / "fifo")
    os.chown(top / "d/b", 4_000_000, 5)
    (top / "d/b").chmod(0o4751)
    for path, when in ((top / "a", 1_600_000_000_123_456_789), (top / "hollow", 1_500_000_000_000_000_001)):
        os.utime(path, ns=(when, when))
    return top


def change(top: Path) -> Path:
    """What can happen between two snapshots. A file of an older one is never written into: its inode is shared."""
    (top / "a").unlink()
    (top / "a").write_text("changed")
    (top / "new").write_text("new")
    subprocess.run(["rm", "-r", str(top / "gone"), str(top / "became-file"), str(top / ("l" * 200))], check=True)
    (top / "became-file").write_text("now a file")
    (top / "became-directory").unlink()
    (top / "became-directory").mkdir()
    (top / "became-directory/x").touch()
    (top / "d/deep").rename(top / "d/moved")
    (top / "empty").unlink()
    return top


More = tuple[dict[str, bytes], int, tuple[int, int], int]
"""Extended attributes, ACLs among them; chattr flags; device number; bytes that it takes on the disk."""


def more(top: Path) -> dict[bytes, More]:
    """What `tree` does not tell of every entry below a directory."""
    return {path: _more(os.fsencode(top) + b"/" + path) for path in tree(top)}


def _more(path: bytes) -> More:
    status = os.lstat(path)
    xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}
    device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    blocks = status.st_blocks if stat.S_ISREG(status.st_mode) else 0
    return xattrs, flags(path) if stat.S_IFMT(status.st_mode) in {stat.S_IFREG, stat.S_IFDIR} else 0, device, blocks * 512


def flags(path: bytes | Path, wanted: int | None = None) -> int:
    """The flags of a file or directory, ioctl_iflags(2); set, if they are given."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if wanted is not None:
            fcntl.ioctl(descriptor, 0x40086602, struct.pack("=q", wanted))
        return int(struct.unpack("=i", fcntl.ioctl(descriptor, 0x80086601, bytes(8))[:4])[0])
    finally:
        os.close(descriptor)
