# SPDX-License-Identifier: GPL-3.0-or-later
"""What a sync is about to do, as values: how an entry changed, how a hard-link group is numbered, what the view cannot carry.

One directory at a time, or one group; what is joined over the whole tree is in worker.pending, which keeps these values on disk.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from offsited.core.gocryptfs import LONG_NAME
from offsited.core.manifest import Row
from offsited.names import BACKUP_DIR, DIRIV_FILE

SYMLINK_LIMIT: Final = 736
"""Bytes from which on a symbolic link's target may not fit into a target's file system: 735 become 1,023 once encrypted.

XFS takes no more, nor does ext4 with blocks of 1 KiB; the view itself shows up to 3,039 (measured with gocryptfs 2.5.1).
"""
SEALED_PATH_LIMIT: Final = 4096 - 256
"""Bytes from which on an encrypted path cannot be used: PATH_MAX, less what rsync's receiver puts before it, the target's directory."""


Changes = int
"""A set of `Change`; 0 is none."""


class Change:
    """How an entry differs from what the target holds: bits of a `Changes`.

    Plain numbers: with enum.IntFlag a tenth of a job's time went into taking them apart.
    """

    NEW: Final = 1
    """There was none of this path."""
    KIND: Final = 2
    """There was one of another type."""
    CONTENT: Final = 4
    """Size, mtime of a file, target or device number: it must be sent, and a file hashed."""
    ATTRIBUTES: Final = 8
    """What the tree carries besides: mode, owner, mtime of what is no file."""
    MANIFEST: Final = 16
    """What only the manifest carries: extended attributes, flags, holes, marks."""
    LINK: Final = 32
    """The number of its hard-link group."""
    INODE: Final = 64
    """Another inode, or one that says nothing. A file of the same size and mtime must then be hashed to know whether it is the same."""
    GONE: Final = 128
    AGAIN: Final = 256
    """rsync would take it for unchanged, or not break a hard link at the target: it goes into the -I pass."""
    GROUP: Final = 512
    """It is to be sent because another name of its hard-link group is."""
    RENAMED: Final = 1024
    """Gone, while something new has its content; or that new one."""
    DOUBTFUL: Final = 2048
    """An interrupted run may have changed it at the target."""
    UNREADABLE: Final = 4096
    """It could not be read: the target keeps what it has."""
    HELD: Final = 8192
    """A limit holds it back: the target keeps what it has."""
    HASHED: Final = 16384
    """Its hash is of what is there now."""


SENT: Final = Change.NEW | Change.KIND | Change.CONTENT | Change.ATTRIBUTES | Change.AGAIN | Change.GROUP | Change.DOUBTFUL
"""What makes an entry travel."""
KEPT_BACK: Final = Change.GONE | Change.UNREADABLE | Change.HELD
"""What keeps an entry from travelling whatever else is true of it."""
RECORDED: Final = Change.NEW | Change.KIND | Change.CONTENT | Change.ATTRIBUTES | Change.MANIFEST | Change.LINK
"""What makes a new row in the manifest."""
REPLACED: Final = Change.NEW | Change.KIND | Change.CONTENT
"""Whose content is another one than the target's of that path."""


def compare(old: Row | None, new: Row, *, same_device: bool) -> Changes:
    """Given an entry's row in the manifest and what was found now, return how it changed; nothing at all is 0."""
    if old is None:
        return Change.NEW
    if old.kind != new.kind:
        return Change.KIND | Change.INODE
    change = 0
    if _content(old) != _content(new):
        change |= Change.CONTENT
    if _attributes(old) != _attributes(new):
        change |= Change.ATTRIBUTES
    if _only_manifest(old) != _only_manifest(new):
        change |= Change.MANIFEST
    if new.kind != "d" and not _same_inode(old, new, same_device=same_device):
        change |= Change.INODE
    return change


def merge(old: Row | None, new: Row, change: Changes) -> Row:
    """Given both rows and how they differ, return the row to come: the hash is kept unless the content is another or may be."""
    if old is None:
        return new
    kept = old.sha256 if not change & (Change.KIND | Change.CONTENT) else b""
    return new._replace(link=old.link, sha256=kept)


def compare_directory(
    old: Mapping[bytes, Row], new: Iterable[Row], unread: Collection[bytes], *, same_device: bool
) -> Iterator[tuple[Changes, Row]]:
    """Given the rows of one directory in the manifest by path, those found now, and the paths that could not be read, return what changed.

    A path that could not be read is not gone: its old row comes back as UNREADABLE.
    """
    left = dict(old)
    for row in new:
        before = left.pop(row.path, None)
        if change := compare(before, row, same_device=same_device):
            yield change, merge(before, row, change)
    for path, row in left.items():
        yield Change.UNREADABLE if path in unread else Change.GONE, row


@dataclass(frozen=True)
class Numbering:
    """What a hard-link group is called, and whether that is a new number."""

    number: int
    fresh: bool


def number_group(members: Collection[int], split: Collection[int], fresh: int) -> Numbering:
    """Given the old group numbers (0 = none) of the entries that are one inode now, and which of them were split, return its number.

    The lowest that is not split is kept, so that no two groups ever get the same one; else `fresh`. One entry alone has none.
    """
    if len(members) < 2:
        return Numbering(0, fresh=False)
    kept = min((number for number in members if number and number not in split), default=0)
    return Numbering(kept or fresh, fresh=not kept)


def is_carried(row: Row) -> bool:
    """Whether an entry can be kept by the manifest alone: it has no content, and the view cannot show it."""
    if row.kind == "f":
        return False
    return len(row.target) >= SYMLINK_LIMIT or not fits(row.path, directory=row.kind == "d")


def fits(path: bytes, *, directory: bool = False) -> bool:
    """Whether the view can show a path, and the companion that gocryptfs puts beside a long name or into a directory.

    With long names the path itself is longer than its encrypted form, and is used too.
    """
    if len(path) * 2 < SEALED_PATH_LIMIT // 12:
        return True
    companion = len(DIRIV_FILE) + 1 if directory else 0
    if len(path.rpartition(b"/")[2]) >= LONG_NAME:
        companion = max(companion, len(".name"))
    return max(sealed_length(path) + companion, len(path)) < SEALED_PATH_LIMIT


def sealed_length(path: bytes) -> int:
    """Given a path of the snapshot, return the length in bytes of its encrypted path below the view.

    A name is padded to the next full 16 bytes and written in base64 without padding; a long one is its hash (gocryptfs's
    doc/file-format.md).
    """
    parts = [BACKUP_DIR.encode(), *path.split(b"/")] if path else [BACKUP_DIR.encode()]
    return sum(_sealed_name(len(part)) for part in parts) + len(parts) - 1


def _sealed_name(length: int) -> int:
    return len("gocryptfs.longname.") + 43 if length >= LONG_NAME else -(-(length // 16 + 1) * 64 // 3)


def _content(row: Row) -> tuple[object, ...]:
    return (row.size, row.mtime) if row.kind == "f" else (row.target, row.rdev, row.carried)


def _attributes(row: Row) -> tuple[object, ...]:
    return row.mode, row.uid, row.gid, row.mtime


def _only_manifest(row: Row) -> tuple[object, ...]:
    return row.xattrs, row.flags, row.holes, row.held, row.unreadable


def _same_inode(old: Row, new: Row, *, same_device: bool) -> bool:
    known = bool(old.sha256) or new.kind != "f"
    return same_device and known and old.inode == new.inode != 0
