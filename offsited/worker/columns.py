# SPDX-License-Identifier: GPL-3.0-or-later
"""A manifest's row as columns of SQLite, the same in the ledger and in the plan beside it."""

import json
from collections.abc import Sequence
from typing import Any, Final

from offsited.core.manifest import Row

FIELDS: Final = (
    "kind", "mode", "uid", "gid", "size", "mtime", "link", "rdev", "target", "xattrs", "flags", "holes", "sha256",
    "held", "unreadable", "carried", "inode",
)  # fmt: skip
"""The columns of a row after its path."""
COLUMNS: Final = ", ".join(FIELDS)
DEFINITIONS: Final = (
    "kind TEXT NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, size INTEGER NOT NULL, mtime NOT NULL,"
    " link INTEGER NOT NULL, rdev TEXT NOT NULL, target BLOB NOT NULL, xattrs TEXT NOT NULL, flags TEXT NOT NULL, holes TEXT NOT NULL,"
    " sha256 BLOB NOT NULL, held INTEGER NOT NULL, unreadable INTEGER NOT NULL, carried INTEGER NOT NULL, inode INTEGER NOT NULL"
)
_OVERFLOW: Final = 1 << 63


def flatten(row: Row) -> tuple[object, ...]:
    """A row's columns after the path."""
    return (
        row.kind, row.mode, row.uid, row.gid, row.size, wide(row.mtime), row.link,
        f"{row.rdev[0]}:{row.rdev[1]}" if row.rdev != (0, 0) else "", row.target,
        json.dumps([(name, value.hex()) for name, value in row.xattrs]) if row.xattrs else "", row.flags,
        json.dumps(row.holes) if row.holes else "", row.sha256, row.held, row.unreadable, row.carried,
        signed(row.inode),
    )  # fmt: skip


def unflatten(path: bytes, columns: Sequence[Any]) -> Row:
    """The row of a path, from its columns."""
    kind, mode, uid, gid, size, mtime, link, rdev, target, xattrs, flags, holes, sha256, held, unreadable, carried, inode = columns
    major, _, minor = rdev.partition(":")
    return Row(
        path, kind, mode, uid, gid, size, int(mtime), link, (int(major), int(minor)) if rdev else (0, 0), target,
        tuple((name, bytes.fromhex(value)) for name, value in json.loads(xattrs)) if xattrs else (), flags,
        tuple((offset, length) for offset, length in json.loads(holes)) if holes else (), sha256,
        bool(held), bool(unreadable), bool(carried), unsigned(inode),
    )  # fmt: skip


def wide(number: int) -> int | str:
    """How a time is kept that SQLite's integers do not hold."""
    return number if -_OVERFLOW <= number < _OVERFLOW else str(number)


def signed(inode: int) -> int:
    """How an inode is kept in SQLite's integers."""
    return inode if inode < _OVERFLOW else inode - 2 * _OVERFLOW


def unsigned(inode: int) -> int:
    """The inode that was kept so."""
    return inode if inode >= 0 else inode + 2 * _OVERFLOW


def qualified(table: str) -> str:
    """The columns of a row, of one table of several."""
    return ", ".join(f"{table}.{field}" for field in FIELDS)
