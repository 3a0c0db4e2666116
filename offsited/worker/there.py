# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: S608 - every piece of SQL here is a constant of ours; values are bound
"""What a target really has, against the plan, by names, sizes and times: for a reconcile, before anything is changed there.

One listing of the target says of it what a dry run of rsync would, and spares a walk through the view.
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final

from offsited.core import gocryptfs
from offsited.core.limits import Count
from offsited.core.plan import Change
from offsited.core.rsync_output import Detailed, Topmost, parse_detailed
from offsited.worker.columns import wide
from offsited.worker.outgoing import sealed_from
from offsited.worker.pending import Item, Pending
from offsited.worker.sealed_paths import SealedPaths, in_parts

_SCHEMA: Final = """
    DROP TABLE IF EXISTS pending.expected; DROP TABLE IF EXISTS pending.surplus; DROP TABLE IF EXISTS pending.drift;
    CREATE TABLE pending.expected (sealed BLOB PRIMARY KEY, path BLOB, size INTEGER, mtime) WITHOUT ROWID;
    CREATE TABLE pending.surplus (sealed BLOB PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE pending.drift (path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime NOT NULL) WITHOUT ROWID;
"""
_EXPECT: Final = "INSERT OR IGNORE INTO pending.expected VALUES (?, ?, ?, ?)"
_DRIFTED: Final = """
    INSERT OR IGNORE INTO pending.drift
    SELECT path, size, mtime FROM pending.expected WHERE sealed = ? AND path IS NOT NULL AND (size, mtime) IS NOT (?, ?)
"""


class There:
    """A comparison. `pending.surplus` has what stands for nothing, `pending.drift` the files of which the plan says nothing and the
    target has another size or time."""

    def __init__(self, pending: Pending, backup: str) -> None:
        """`backup`: the encrypted path of the snapshot's place."""
        self._database = pending.database
        self._pending = pending
        self._prefix = backup.encode() + b"/"
        self._files = self._bytes = 0
        self._surplus = Topmost()

    async def expect(self, sealed: SealedPaths, own: Iterable[str]) -> None:
        """Note what the target may have: `own` encrypted paths, every row to come, and what goes, with gocryptfs's own beside them."""
        self._database.executescript(_SCHEMA)
        self._note((path.encode(), None, 0, 0) for path in own)
        for items in in_parts(self._pending.rows_at_target()):
            paths = await sealed.of([sealed_from(item.row.path) for item in items])
            await asyncio.to_thread(self._note, _expected(items, paths))

    def _note(self, rows: Iterable[tuple[bytes, bytes | None, int, int | str]]) -> None:
        self._pending.begin()
        self._database.executemany(_EXPECT, rows)
        self._pending.written()

    def begin(self) -> None:
        """A listing begins, maybe after one that broke off."""
        self._files = self._bytes = 0
        self._surplus = Topmost()
        for table in ("surplus", "drift"):
            self._database.execute(f"DELETE FROM pending.{table}")

    def notice(self, line: bytes) -> None:
        """Given a line of the listing, see whether it is as expected."""
        found = parse_detailed(line)
        if found is None or found.path == b"." or b".." in found.path.split(b"/"):
            return
        if self._counts(found):
            self._files += 1
            self._bytes += found.length
        if self._database.execute("SELECT 1 FROM pending.expected WHERE sealed = ?", (found.path,)).fetchone() is None:
            self._add_surplus(found)
        elif found.kind == "f":
            self._database.execute(_DRIFTED, (found.path, found.length, wide(found.mtime)))

    def _add_surplus(self, found: Detailed) -> None:
        self._surplus.add(found.path)
        if self._counts(found):
            self._database.execute("INSERT OR IGNORE INTO pending.surplus VALUES (?, ?)", (found.path, found.length))

    def _counts(self, found: Detailed) -> bool:
        """Whether it stands for an entry of a snapshot that is no directory."""
        return found.path.startswith(self._prefix) and found.kind != "d" and not gocryptfs.is_companion(found.path)

    @property
    def doomed(self) -> set[str]:
        """The topmost encrypted paths that stand for nothing."""
        return {path.decode("utf-8", "surrogateescape") for path in self._surplus.paths}

    @property
    def files(self) -> Count:
        """What is there of the snapshot's: entries that are no directories, bytes of ciphertext."""
        return Count(self._files, self._bytes)

    @property
    def surplus(self) -> Count:
        """How much stands for nothing; bytes of ciphertext."""
        return self._count("surplus")

    @property
    def drift(self) -> Count:
        """How many files differ of which the plan says nothing."""
        return self._count("drift")

    def _count(self, table: str) -> Count:
        return Count(*self._database.execute(f"SELECT count(*), coalesce(sum(size), 0) FROM pending.{table}").fetchone())


def _expected(items: list[Item], sealed: list[str]) -> Iterator[tuple[bytes, bytes | None, int, int | str]]:
    """Rows of `pending.expected`; without a path where the plan says already what becomes of what the target has."""
    for (change, row), path in zip(items, sealed, strict=True):
        told = row.kind != "f" or change & ~Change.NEW & ~Change.HASHED
        facts = (0, 0) if told else (gocryptfs.sealed_size(row.size), wide(row.mtime // 10**9))
        yield path.encode(), None if told else row.path, *facts
        for companion in gocryptfs.own_companions(path, directory=row.kind == "d"):
            yield companion.encode(), None, 0, 0
