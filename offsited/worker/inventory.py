# SPDX-License-Identifier: GPL-3.0-or-later
"""What a target should have, by encrypted path, and what of it was met: two million entries without a list in memory."""

import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from offsited.core import gocryptfs
from offsited.core.manifest import TOP, Row
from offsited.core.verification import SEALED_IV, Difference, What
from offsited.names import DIRIV_FILE
from offsited.worker import entry
from offsited.worker.columns import wide

_SCHEMA: Final = """
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16384;
    CREATE TABLE expected (sealed BLOB PRIMARY KEY, path BLOB NOT NULL, role TEXT NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL,
        gid INTEGER NOT NULL, size INTEGER NOT NULL, mtime NOT NULL, device TEXT NOT NULL, met INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
    BEGIN;
"""
_PUT: Final = "REPLACE INTO expected VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
_MEET: Final = "UPDATE expected SET met = 1 WHERE sealed = ? RETURNING path, role, mode, uid, gid, size, mtime, device"
_IV, _LONG_NAME, _OWN = "iv", "name", "own"
_SECOND: Final = 10**9
_LAST: Final = (1 << 63) // _SECOND
"""Seconds that a file system keeps (until the year 2262); of what is later nothing can be said."""
_UNSIZED: Final = -1


class Met(NamedTuple):
    """An entry that lies at a target."""

    kind: str
    """As in a row; one that was listed has `c` for both kinds of device, `p` for pipe and socket."""
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    """Nanoseconds."""
    device: str = ""
    """MAJOR:MINOR."""

    @classmethod
    def of(cls, status: os.stat_result) -> "Met":
        """Of an entry's stat values."""
        kind = entry.kind(status.st_mode)
        device = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if kind in "cb" else ""
        return cls(kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns, device)

    @classmethod
    def wanted(cls, row: Row) -> "Met":
        """What an entry should be."""
        device = f"{row.rdev[0]}:{row.rdev[1]}" if row.kind in "cb" else ""
        return cls(row.kind, row.mode, row.uid, row.gid, row.size, row.mtime, device)


class Inventory:
    """One comparison of what a target should have with what it has."""

    def __init__(self, database: sqlite3.Connection, *, exact: bool) -> None:
        self._database = database
        self._exact = exact
        self.entries = 0
        """Of the snapshot, without its top, that were met."""

    @classmethod
    @contextmanager
    def made(cls, file: Path, *, exact: bool) -> Iterator["Inventory"]:
        """Within: an empty one. `exact`: what is met has times to the nanosecond and all types; else to the second."""
        file.unlink(missing_ok=True)
        with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as database:
            database.executescript(_SCHEMA)
            yield cls(database, exact=exact)
        file.unlink()

    def expect(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Expect entries of the snapshot, each with its encrypted path, and what gocryptfs keeps for its name."""
        for sealed, row in rows:
            self._put(sealed, row.path, row.kind, row)
            if gocryptfs.has_long_name(sealed):
                self._put(f"{sealed}.name", row.path, _LONG_NAME)
            if row.kind == "d":
                self._put(f"{sealed}/{DIRIV_FILE}", row.path, _IV)

    def expect_own(self, sealed: str, name: str, size: int = _UNSIZED) -> None:
        """Expect a file that stands for no entry of the snapshot; `size` of its content."""
        self._put(sealed, name.encode(), _OWN, Row(b"", "f", 0, size=size))

    def allow(self, sealed: Iterable[str]) -> None:
        """Whatever may be there or not, as it likes."""
        self._database.executemany("REPLACE INTO expected VALUES (?, x'', '', 0, 0, 0, 0, 0, '', 1)", ((path.encode(),) for path in sealed))

    def allow_entries(self, sealed: Iterable[str]) -> None:
        """Likewise entries of the snapshot, with what gocryptfs keeps for their names."""
        self.allow(one for path in sealed for one in (path, f"{path}.name", f"{path}/{DIRIV_FILE}"))

    def begin(self) -> None:
        """A listing begins. What an earlier one met, before it broke off, is there, and is counted again."""
        self.entries = 0

    def meet(self, sealed: bytes, met: Met) -> list[Difference] | None:
        """Cross off what lies at the target; return how it differs, None if it should not be there."""
        found = self._database.execute(_MEET, (sealed,)).fetchone()
        if found is None:
            return None
        path, role, mode, uid, gid, size, mtime, device = found
        if role in {"", _OWN, _IV, _LONG_NAME}:
            return self._of_ours(path, role, size, met)
        self.entries += path != TOP
        wanted = Met(role, mode, uid, gid, size, int(mtime), device)
        return [Difference(path, what, detail) for what, detail in self._compare(wanted, met)]

    def wrong_companion(self, sealed: bytes) -> list[Difference]:
        """What it means that what gocryptfs keeps for a name has another content; nothing where that is allowed."""
        path, role = self._database.execute("SELECT path, role FROM expected WHERE sealed = ?", (sealed,)).fetchone()
        if role == "":
            return []
        what = What.MANIFEST if role == _OWN else What.NAMES
        return [Difference(path, what, "what gocryptfs keeps for its name is damaged", own=role == _OWN)]

    def missing(self) -> Iterator[Difference]:
        """What should have been met, and was not."""
        for path, role in self._database.execute("SELECT path, role FROM expected WHERE NOT met ORDER BY path, sealed"):
            if role in {_IV, _LONG_NAME}:
                yield Difference(path, What.NAMES, "what gocryptfs keeps for its name is missing")
            else:
                yield Difference(path, What.MISSING, own=role == _OWN)

    def _put(self, sealed: str, path: bytes, role: str, row: Row | None = None) -> None:
        row = row or Row(path, "f", 0, size=SEALED_IV if role == _IV else _UNSIZED)
        size = row.size if role == _IV or row.size == _UNSIZED else gocryptfs.sealed_size(row.size)
        device = Met.wanted(row).device
        values = sealed.encode("utf-8", "surrogateescape"), path, role, row.mode, row.uid, row.gid, size, wide(row.mtime), device
        self._database.execute(_PUT, values)

    def _of_ours(self, path: bytes, role: str, size: int, met: Met) -> list[Difference]:
        if role == "" or (met.kind == "f" and size in {_UNSIZED, met.size}):
            return []
        detail = f"{met.size} bytes instead of {size}" if met.kind == "f" else "not a file"
        return [Difference(path, What.MANIFEST if role == _OWN else What.NAMES, detail, own=role == _OWN)]

    def _compare(self, wanted: Met, met: Met) -> Iterator[tuple[What, str]]:
        kind = wanted.kind if self._exact else _LISTED.get(wanted.kind, wanted.kind)
        if kind != met.kind:
            yield What.TYPE, f"{met.kind} instead of {wanted.kind}"
            return
        if kind == "f" and wanted.size != met.size:
            yield What.SIZE, f"{gocryptfs.plain_size(met.size)} bytes instead of {gocryptfs.plain_size(wanted.size)}"
        yield from compare_attributes(wanted, met, exact=self._exact)


def compare_attributes(wanted: Met, met: Met, *, exact: bool = True) -> Iterator[tuple[What, str]]:
    """How the attributes of two entries of one kind differ; without `exact` times to the second, and no device numbers."""
    if wanted.kind != "l" and wanted.mode != met.mode:
        yield What.MODE, f"{met.mode:04o} instead of {wanted.mode:04o}"
    if (wanted.uid, wanted.gid) != (met.uid, met.gid):
        yield What.OWNER, f"{met.uid}:{met.gid} instead of {wanted.uid}:{wanted.gid}"
    unit = 1 if exact else _SECOND
    if abs(wanted.mtime // _SECOND) < _LAST and wanted.mtime // unit != met.mtime // unit:
        yield What.TIME, ""
    if exact and wanted.device != met.device:
        yield What.DEVICE, f"{met.device} instead of {wanted.device}"


_LISTED: Final = {"b": "c", "s": "p"}
