# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: S608 - every piece of SQL here is a constant of ours; values are bound
"""Filling the plan: what a walk found, against the ledger, joined with what interrupted runs left in doubt.

Directories are compared as they are listed (`notice`). What needs the whole tree comes at the end (`finish`): doubts, renames, hard-link
groups.
"""

from collections.abc import Iterator
from typing import Final

from offsited.core import plan
from offsited.core.manifest import TOP, Row, parent
from offsited.core.plan import KEPT_BACK, REPLACED, Change, Changes
from offsited.worker.columns import qualified, signed, wide
from offsited.worker.ledger import Doubt, Ledger
from offsited.worker.links import part_kept_back, regroup
from offsited.worker.listing import Batch, Listing
from offsited.worker.pending import Item, Pending

TOO_LONG: Final = 36
"""ENAMETOOLONG: a file whose encrypted path cannot be used; neither the tree nor the manifest can keep its content."""
_INDEXES: Final = f"""
    CREATE INDEX pending.changes_by_inode ON changes (inode) WHERE inode != 0;
    CREATE INDEX pending.changes_by_hash ON changes (sha256, path) WHERE sha256 != x'';
    CREATE INDEX pending.changes_gone ON changes (size, mtime) WHERE change & {Change.GONE};
"""
_BELOW: Final = f"""
    INSERT OR IGNORE INTO pending.changes
    SELECT CAST(d.path || x'2f' || e.name AS BLOB), d.path, e.name, {Change.GONE}, {qualified("e")}
    FROM main.directories d JOIN main.entries e ON e.dir = d.id WHERE d.path = ?1 OR (d.path > ?2 AND d.path < ?3)
"""
_SAME_CONTENT: Final = """
    FROM main.entries e WHERE e.inode = changes.inode AND e.inode != 0 AND e.kind = 'f'
    AND e.size = changes.size AND e.mtime = changes.mtime AND e.sha256 != x''
"""
_KEY: Final = "CASE kind WHEN 'f' THEN hex(sha256) ELSE kind || hex(target) || '/' || rdev || '/' || mtime END"
_UNKNOWN: Final = "kind = 'd' OR (kind = 'f' AND sha256 = x'')"
_ARRIVED: Final = f"(change & {REPLACED} AND NOT change & {KEPT_BACK})"
_COME: Final = f"(change & {Change.NEW} AND NOT change & {KEPT_BACK})"
"""Where nothing was: what takes the place of something else is no rename, for that one goes."""
_LEFT: Final = f"(change & {Change.GONE} AND NOT change & {Change.NEW})"


class Comparison:
    """The filling of one plan."""

    def __init__(self, pending: Pending, device: str) -> None:
        """`device`: what the snapshot's file system is, as `walk.device_identity` names it. Of another one inodes say nothing."""
        self._pending = pending
        self._ledger: Ledger = pending.ledger
        self._database = pending.database
        self._same_device = device == pending.ledger.device
        self._entries = self._size = 0
        pending.set_fact("device", device)

    def known(self, *, thorough: bool) -> dict[bytes, bytes]:
        """The signatures that the walk may go by. `thorough`: none, so that what they do not cover (flags, holes) is looked at too."""
        return self._ledger.signatures() if self._same_device and not thorough else {}

    def notice(self, batch: Batch) -> None:
        """Enter what a piece of the walk found."""
        self._entries += batch.entries
        self._size += batch.size
        unread = {one.path for one in batch.unread}
        for listing in batch.listings:
            unread.update(self._compare(listing, unread))
        self._database.executemany(
            "INSERT OR IGNORE INTO pending.unread VALUES (?, ?, ?)", ((path, parent(path), error) for path, error in batch.unread)
        )
        self._database.executemany("INSERT OR IGNORE INTO pending.excluded VALUES (?)", ((path,) for path in batch.excluded))

    def finish(self) -> None:
        """Enter what only the whole tree shows."""
        self._database.executescript(_INDEXES)
        self._pending.begin()
        self._mark_unread()
        for doubt in self._ledger.doubts():
            self._join(doubt)
        if self._same_device:
            self._find_by_inode()
        recognise_renames(self._pending)
        regroup(self._pending, same_device=self._same_device)
        part_kept_back(self._pending)
        self._pending.set_fact("entries", self._entries - 1)  # but for the top itself
        self._pending.set_fact("size", self._size)

    def _compare(self, listing: Listing, unread: set[bytes]) -> list[bytes]:
        """Enter a directory; return the paths of files in it that cannot be kept."""
        directory = listing.directory
        is_top = listing.rows[:1] != [] and listing.rows[0].path == TOP
        old = self._ledger_top() if is_top else self._ledger.children(directory)
        unfit = [row.path for row in listing.rows if row.kind == "f" and not plan.fits(row.path)]
        rows = [row for row in listing.rows if row.path not in unfit] if unfit else listing.rows
        changes = list(plan.compare_directory(old, rows, unread.union(unfit), same_device=self._same_device))
        self._pending.put(Item(*change) for change in changes)
        for change, row in changes:
            if row.path in old and old[row.path].kind == "d" and change & (Change.GONE | Change.KIND):
                self._database.execute(_BELOW, (row.path, row.path + b"/", row.path + b"0"))
        if unfit:
            self._note_unfit(unfit)
        if not is_top:
            signature = b"" if unfit else listing.signature
            values = directory, signed(listing.inode), wide(listing.mtime), signature
            self._database.execute("INSERT OR REPLACE INTO pending.folders VALUES (?, ?, ?, ?)", values)
        return unfit

    def _ledger_top(self) -> dict[bytes, Row]:
        row = self._ledger.row(TOP)
        return {TOP: row} if row else {}

    def _note_unfit(self, paths: list[bytes]) -> None:
        values = ((path, parent(path), TOO_LONG) for path in paths)
        self._database.executemany("INSERT OR IGNORE INTO pending.unread VALUES (?, ?, ?)", values)

    def _mark_unread(self) -> None:
        """What could not be read keeps its old row, marked; where it has none it is not in the manifest."""
        for path, _ in list(self._pending.unread()):
            old, item = self._ledger.row(path), self._pending.item(path)
            if old:
                self._pending.put([Item(Change.UNREADABLE, old)])
            elif item:
                self._pending.put([Item(item.change | Change.UNREADABLE, item.row)])

    def _join(self, doubt: Doubt) -> None:
        """What an interrupted run was about to change is sent, or deleted, whatever the manifest says."""
        item, old = self._pending.item(doubt.path), self._ledger.row(doubt.path)
        if item is None and old is None:
            gone = Row(doubt.path, "f", 0, size=doubt.size, mtime=doubt.mtime)
            self._pending.put([Item(Change.GONE | Change.NEW | Change.DOUBTFUL, gone)])
        elif item is not None:
            self._pending.put([Item(item.change | self._doubted(doubt, item.row), item.row)])
        elif old is not None:
            self._pending.put([Item(self._doubted(doubt, old), old)])

    def _doubted(self, doubt: Doubt, row: Row) -> Changes:
        """Another content of the same size and mtime may be there already, or a hard link: rsync would not see that, or not mend it."""
        same = self._same_device and row.inode == doubt.inode != 0
        alike = row.kind != "f" or (row.size, row.mtime) == (doubt.size, doubt.mtime)
        again = doubt.again or (row.kind != "d" and alike and not same)  # of a directory: its IV
        in_the_way = row.kind != "d" and doubt.directory
        return Change.DOUBTFUL | (Change.AGAIN if again else 0) | (Change.KIND if in_the_way else 0)

    def _find_by_inode(self) -> None:
        """A file that was moved, or got another name, on the same file system keeps its hash."""
        self._database.execute(f"""
            UPDATE pending.changes SET sha256 = (SELECT e.sha256 {_SAME_CONTENT} LIMIT 1)
            WHERE kind = 'f' AND sha256 = x'' AND {_ARRIVED} AND EXISTS (SELECT 1 {_SAME_CONTENT})
        """)


def recognise_renames(pending: Pending) -> None:
    """Mark what is gone while something new has its content, one for one; to be asked again when more hashes are known."""
    database, renamed = pending.database, Change.RENAMED
    database.execute(f"UPDATE pending.changes SET change = change & ~{renamed} WHERE change & {renamed}")
    database.execute("DROP TABLE IF EXISTS temp.contents")
    database.execute(f"""
        CREATE TEMP TABLE contents AS
        SELECT {_KEY} AS content, count(*) FILTER (WHERE {_LEFT}) AS gone, count(*) FILTER (WHERE {_COME}) AS come
        FROM pending.changes WHERE NOT ({_UNKNOWN}) AND ({_LEFT} OR {_COME}) GROUP BY 1 HAVING gone AND come
    """)
    for mine, others in ((_LEFT, "come"), (_COME, "gone")):
        database.execute(f"""
            UPDATE pending.changes SET change = change | {renamed} WHERE path IN (
                SELECT path FROM (
                    SELECT path, content, row_number() OVER (PARTITION BY content ORDER BY path) AS number
                    FROM (SELECT path, {_KEY} AS content FROM pending.changes WHERE NOT ({_UNKNOWN}) AND {mine})
                ) JOIN temp.contents USING (content) WHERE number <= {others})
        """)
    database.execute("DROP TABLE temp.contents")


def renamed(pending: Pending) -> Iterator[tuple[bytes, bytes]]:
    """Old and new path of each rename that was recognised, by the new one."""
    renamed = f"change & {Change.RENAMED}"
    numbered = f"SELECT path, {_KEY} AS content, row_number() OVER (PARTITION BY {_KEY} ORDER BY path) AS number FROM pending.changes"
    query = f"""
        SELECT gone.path, come.path FROM ({numbered} WHERE {renamed} AND {_LEFT}) gone
        JOIN ({numbered} WHERE {renamed} AND NOT {_LEFT}) come USING (content, number) ORDER BY come.path
    """
    yield from pending.database.execute(query)


def rename_candidates(pending: Pending) -> Iterator[Item]:
    """New files without a hash that something gone is as large and as old as: once they are hashed, `recognise_renames` can tell."""
    gone = f"EXISTS (SELECT 1 FROM pending.changes g WHERE g.change & {Change.GONE} AND g.size = c.size AND g.mtime = c.mtime)"
    return pending.select(f"kind = 'f' AND sha256 = x'' AND {_ARRIVED} AND {gone}")
