# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: S608 - every piece of SQL here is a constant of ours; values are bound
"""What a run is about to change at a target: the plan, kept in a database of its own beside the ledger, so that it may have any size.

It is filled by worker.survey, asked by the transport, told the hashes of what was sent, and taken over into the ledger by `commit`. The
ledger stays as it is until then. The file is made anew by each run and outlives no power loss: nothing depends on it but the run itself.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from offsited.core.limits import Count
from offsited.core.manifest import TOP, Line, Row, encode_gone, encode_row, parent, parents
from offsited.core.plan import KEPT_BACK, RECORDED, REPLACED, SENT, Change, Changes
from offsited.worker.columns import COLUMNS, DEFINITIONS, FIELDS, flatten, signed, unflatten, unsigned
from offsited.worker.ledger import Doubt, Ledger
from offsited.worker.listing import Unread

PENDING_FILE: Final = "pending.sqlite"
_MARKS: Final = ", ".join("?" * len(FIELDS))
_PRAGMAS: Final = "PRAGMA pending.journal_mode = OFF; PRAGMA pending.synchronous = OFF; PRAGMA pending.cache_size = -16384"
_SCHEMA: Final = f"""
    CREATE TABLE pending.changes (path BLOB PRIMARY KEY, parent BLOB NOT NULL, name BLOB NOT NULL, change INTEGER NOT NULL, {DEFINITIONS})
        WITHOUT ROWID;
    CREATE TABLE pending.folders (path BLOB PRIMARY KEY, inode INTEGER NOT NULL, mtime NOT NULL, signature BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE pending.unread (path BLOB PRIMARY KEY, parent BLOB NOT NULL, error INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE pending.excluded (path BLOB PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE pending.groups (inode INTEGER NOT NULL, path BLOB NOT NULL, PRIMARY KEY (inode, path)) WITHOUT ROWID;
    CREATE TABLE pending.facts (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
"""
_PUT: Final = f"INSERT OR REPLACE INTO pending.changes VALUES (?, ?, ?, ?, {_MARKS})"
_SET_HASH: Final = f"""
    UPDATE pending.changes SET sha256 = ?, change = change | {Change.HASHED}
    WHERE path = ? AND link = 0 AND change & {REPLACED} AND NOT change & {KEPT_BACK}
"""
"""The common case at once: a file of one name, of which no hash is expected."""
_UNCHANGED_FOLDERS: Final = """
    SELECT f.path, f.mtime FROM (
        SELECT CAST(CASE d.path WHEN x'' THEN e.name ELSE d.path || x'2f' || e.name END AS BLOB) AS path, e.mtime
        FROM main.entries e JOIN main.directories d ON d.id = e.dir WHERE e.kind = 'd'
    ) f WHERE NOT EXISTS (SELECT 1 FROM pending.changes c WHERE c.path = f.path)
    AND NOT EXISTS (SELECT 1 FROM pending.folders p WHERE p.path = f.path)
"""
_PAGE: Final = 1000
_HELD_BACK: Final = Change.HELD | Change.UNREADABLE
_TRAVELS: Final = f"change & {SENT} AND NOT change & {KEPT_BACK} AND NOT carried"
_UNGROUPED: Final = f"{_TRAVELS} AND NOT EXISTS (SELECT 1 FROM pending.groups g WHERE g.inode = c.inode AND g.path = c.path)"
_TAKEN_BACK: Final = f"carried AND change & {Change.KIND | Change.CONTENT | Change.DOUBTFUL} AND NOT change & {KEPT_BACK}"
"""What the tree can carry no longer: what the target has of it goes."""
_UNPROVEN: Final = f"(kind = 'f' AND change & {Change.INODE} AND NOT change & {REPLACED | KEPT_BACK | Change.HASHED})"
"""A file that may be the same, and nobody has looked."""
WAS_DIRECTORY: Final = "EXISTS (SELECT 1 FROM main.directories d WHERE d.path = c.path)"
_ODD: Final = f"change & {Change.GONE | Change.HELD | Change.UNREADABLE} OR kind != 'd' AND {WAS_DIRECTORY}"
"""Does not come into the ledger just as it stands in the plan."""
_PROVEN: Final = ", ".join(f"CASE WHEN {_UNPROVEN} THEN 0 ELSE inode END" if field == "inode" else field for field in FIELDS)
"""The columns of a row that comes into the ledger: an inode that was not looked into proves nothing of the content next time."""
DELETES: Final = f"c.kind != 'd' AND change & {Change.GONE} AND NOT change & {Change.NEW | Change.RENAMED | Change.UNREADABLE}"
"""Takes a file away from the target, or another entry that is no directory."""
_OLD_KIND: Final = "(SELECT e.kind FROM main.directories d JOIN main.entries e ON e.dir = d.id WHERE d.path = c.parent AND e.name = c.name)"
REPLACES: Final = f"""
    NOT change & {Change.NEW | Change.GONE | Change.UNREADABLE}
    AND (change & {Change.CONTENT} AND c.kind != 'd' OR change & {Change.KIND} AND {_OLD_KIND} NOT IN ('d', c.kind))
"""
"""Takes a file's content away by putting another in its place, or something of another type."""
_PARENT_STANDS: Final = f"""
    NOT EXISTS (SELECT 1 FROM pending.changes p WHERE p.path = c.parent AND c.path != x''
                AND ((p.change & {Change.GONE} AND NOT p.change & {Change.HELD}) OR p.kind != 'd'))
"""


class Item(NamedTuple):
    """A path, how it changes, and its row to come; of what is gone, unreadable or held the row that the target has."""

    change: Changes
    row: Row


class Folder(NamedTuple):
    """A directory, and what must still be true of it after everything was sent."""

    path: bytes
    inode: int
    """0 = not known: a snapshot by hard links makes its directories anew."""
    mtime: int


class Totals(NamedTuple):
    """What a plan comes to. A rename counts once, as renamed; what replaces something counts with the bytes that go."""

    added: Count
    changed: Count
    deleted: Count
    renamed: Count
    attributes: int
    """Entries of any kind of which only attributes change, in the tree or in the manifest."""
    unreadable: int
    """A directory that could not be read is one."""


class Pending:
    """The plan of a run, beside its ledger. Paths come in path order wherever several are given."""

    def __init__(self, ledger: Ledger, file: Path, *, fresh: bool) -> None:
        """Open it; `fresh`: begin a new one, and forget what an earlier run left."""
        self.ledger = ledger
        self.database = ledger.database
        self._entered = False
        if fresh:
            file.unlink(missing_ok=True)
        self.database.execute("ATTACH ? AS pending", (str(file),))
        self.database.executescript(_PRAGMAS)
        if fresh:
            self.database.executescript(_SCHEMA)

    @classmethod
    @contextmanager
    def opened(cls, ledger: Ledger, file: Path, *, fresh: bool = False) -> Iterator["Pending"]:
        found = cls(ledger, file, fresh=fresh)
        try:
            yield found
        finally:
            found._leave()
            found.written()
            # An error on its way up may still hold a query.
            with suppress(sqlite3.OperationalError):
                found.database.execute("DETACH pending")

    # --- what the transport asks -----------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be sent, deleted or recorded, and nothing must be compared before that is known."""
        marks = f"(change & {Change.UNREADABLE} AND NOT unreadable OR change & {Change.HELD} AND NOT held)"
        news = f"change & {SENT | RECORDED | Change.GONE} AND NOT change & {_HELD_BACK}"
        wanted = f"{news} OR ({marks} AND NOT change & {Change.NEW}) OR {_UNPROVEN}"
        return self._one(f"SELECT NOT EXISTS (SELECT 1 FROM pending.changes WHERE {wanted})") == 1

    def to_compare(self) -> Iterator[Item]:
        """Files that may be the same although their inode says nothing: they must be hashed before anything is sent (`set_hash`)."""
        return self.select(_by_one_name(_UNPROVEN))

    def to_send(self) -> Iterator[Item]:
        """What travels, directories included; not what the manifest carries."""
        return self.select(_TRAVELS)

    def again(self) -> Iterator[Item]:
        """Those of `to_send` that rsync must not take for unchanged (-I), before the others."""
        return self.select(f"{_TRAVELS} AND change & {Change.AGAIN}")

    def nodes_again(self) -> Iterator[Item]:
        """Those of `again` that are neither file nor directory, nor come in the place of one."""
        return self.select(f"{_TRAVELS} AND change & {Change.AGAIN} AND NOT change & {Change.KIND} AND kind NOT IN ('d', 'f')")

    def link_groups(self) -> Iterator[list[bytes]]:
        """Hard-link groups that must be sent whole, each as its paths."""
        group: list[bytes] = []
        current = None
        for inode, path in self.database.execute("SELECT inode, path FROM pending.groups ORDER BY inode, path"):
            if inode != current and group:
                yield group
                group = []
            current = inode
            group.append(path)
        if group:
            yield group

    def ungrouped(self) -> Iterator[Item]:
        """Those of `to_send` that are in none of `link_groups`."""
        return self.select(_UNGROUPED)

    def rewritten(self, size: int) -> Iterator[Item]:
        """Files of at least this size, of one name, of which the target has an older content for sure, and no hash is known."""
        others = Change.NEW | Change.KIND | Change.AGAIN | Change.GROUP | Change.DOUBTFUL | KEPT_BACK
        return self.select(
            f"kind = 'f' AND size >= {size} AND link = 0 AND sha256 = x'' AND change & {Change.CONTENT} AND NOT change & {others}"
        )

    def told_in(self, directories: Collection[bytes]) -> Iterator[Item]:
        """Those of `ungrouped` whose directory is one of these; the top is in itself."""
        self.database.execute("CREATE TEMP TABLE IF NOT EXISTS told (path BLOB PRIMARY KEY) WITHOUT ROWID")
        self.database.execute("DELETE FROM temp.told")
        self.database.executemany("INSERT INTO temp.told VALUES (?)", ((path,) for path in directories))
        yield from self.select(f"{_UNGROUPED} AND c.parent IN (SELECT path FROM temp.told)")

    def within(self, path: bytes) -> list[Item]:
        """A directory and all below it, of what changes."""
        own = self.item(path)
        # Two bounds that SQLite can see: with "or it is the top" in the condition it read all that comes after.
        bounds, values = ("path > ?", (TOP,)) if path == TOP else ("path > ? AND path < ?", (path + b"/", path + b"0"))
        below = self.database.execute(f"SELECT path, change, {COLUMNS} FROM pending.changes WHERE {bounds} ORDER BY path", values)
        return [*([own] if own else []), *(Item(change, unflatten(path, columns)) for path, change, *columns in below)]

    def crowd(self) -> Iterator[tuple[bytes, int, int]]:
        """Each directory in which something travels, with how many entries do, and the bytes of them."""
        query = f"SELECT parent, count(*), coalesce(sum(size), 0) FROM pending.changes WHERE path != x'' AND {_TRAVELS} GROUP BY parent"
        yield from self.database.execute(query)

    def kept_out(self) -> Iterator[bytes]:
        """Paths of the snapshot that must not travel: of a plan against nothing, all there are."""
        query = f"SELECT path FROM pending.changes WHERE NOT ({_TRAVELS}) UNION SELECT path FROM pending.unread"
        for (path,) in self.database.execute(f"{query} UNION SELECT path FROM pending.excluded"):
            yield path

    def amount(self) -> Count:
        """How many entries of any kind travel, and the bytes of them."""
        return Count(*self.database.execute(f"SELECT count(*), coalesce(sum(size), 0) FROM pending.changes WHERE {_TRAVELS}").fetchone())

    def count_gone(self) -> int:
        """Entries of any kind that go at the target."""
        return self._one(f"SELECT count(*) FROM pending.changes WHERE change & {Change.GONE} AND NOT change & {_HELD_BACK}")

    def count_carried(self) -> int:
        """Entries, changed or not, that the manifest alone keeps."""
        path = "CASE d.path WHEN x'' THEN e.name ELSE CAST(d.path || x'2f' || e.name AS BLOB) END"
        stands = f"NOT EXISTS (SELECT 1 FROM pending.changes c WHERE c.path = {path})"
        old = f"SELECT count(*) FROM main.entries e JOIN main.directories d ON d.id = e.dir WHERE e.carried AND {stands}"
        return self._one(f"SELECT count(*) FROM pending.changes WHERE carried AND NOT change & {KEPT_BACK}") + self._one(old)

    def rows_at_target(self) -> Iterator[Item]:
        """Every row of the encrypted tree that the target may have, now or in the end: what changes, or goes, and what does not."""
        yield from self.select("NOT carried")
        for row in self.unchanged():
            yield Item(0, row)

    def unchanged(self) -> Iterator[Row]:
        """The rows of the encrypted tree of which the plan says nothing."""
        for row in self.ledger.rows():
            if not row.carried and self.item(row.path) is None:
                yield row

    def directories(self) -> Iterator[bytes]:
        """Directories that change, or in which something is sent or deleted: their mtime and their IV must follow."""
        touching = f"(({_TRAVELS}) OR (change & {Change.GONE} AND NOT change & {_HELD_BACK})) AND path != x'' AND {_PARENT_STANDS}"
        query = f"""
            SELECT path FROM pending.changes c WHERE kind = 'd' AND {_TRAVELS}
            UNION SELECT parent FROM pending.changes c WHERE {touching} ORDER BY 1
        """
        for (path,) in self.database.execute(query):
            yield path

    def deletions(self) -> Iterator[Item]:
        """What must go at the target: the topmost alone, of those whose directory stays one."""
        gone = f"change & {Change.GONE} AND NOT change & {_HELD_BACK} AND (NOT carried OR change & {Change.DOUBTFUL})"
        return self.select(f"(({gone}) OR ({_TAKEN_BACK})) AND {_PARENT_STANDS}")

    def carried(self) -> Iterator[Item]:
        """What changes and is kept by the manifest alone."""
        return self.select(f"carried AND NOT change & {KEPT_BACK}")

    def gone(self) -> Iterator[Item]:
        """Everything that is gone, not the topmost alone."""
        return self.select(f"change & {Change.GONE}")

    def crowded(self, length: int, count: int) -> Iterator[bytes]:
        """Directories to which at least `count` names of at least `length` bytes come."""
        query = f"""
            SELECT parent FROM pending.changes WHERE length(name) >= ? AND change & {Change.NEW} AND NOT change & {KEPT_BACK}
            GROUP BY parent HAVING count(*) >= ? ORDER BY parent
        """
        for (path,) in self.database.execute(query, (length, count)):
            yield path

    def unread(self) -> Iterator[Unread]:
        """What could not be read: the target keeps what it has of it."""
        for path, error in self.database.execute("SELECT path, error FROM pending.unread ORDER BY path"):
            yield Unread(path, error)

    def excluded(self) -> Iterator[bytes]:
        """What the walk left out by the source's patterns; of an excluded directory, itself alone."""
        for (path,) in self.database.execute("SELECT path FROM pending.excluded ORDER BY path"):
            yield path

    def folders(self) -> Iterator[Folder]:
        """The directories that were listed."""
        for path, inode, mtime in self.database.execute("SELECT path, inode, mtime FROM pending.folders ORDER BY path"):
            yield Folder(path, unsigned(inode), int(mtime))

    def unchanged_folders(self) -> Iterator[Folder]:
        """The directories that were found to be as they were, but for what lies where nothing could be read."""
        unread = {one.path for one in self.unread()}
        for path, mtime in self.database.execute(_UNCHANGED_FOLDERS):
            if not unread or unread.isdisjoint((path, *parents(path))):
                yield Folder(path, 0, int(mtime))

    def item(self, path: bytes) -> Item | None:
        """How a path changes; None if it does not."""
        found = self.database.execute(f"SELECT change, {COLUMNS} FROM pending.changes WHERE path = ?", (path,)).fetchone()
        return Item(found[0], unflatten(path, found[1:])) if found else None

    def doubts(self, *, whole: bool = False) -> Iterator[Doubt]:
        """What the target is in doubt about from the moment on that this is sent; for the intent and for `Ledger.doubt`.

        `whole`: everything is compared with the target next time anyhow; only what rsync would take for unchanged is named.
        """
        gone = f"(change & {Change.GONE} AND NOT change & {_HELD_BACK})"
        wanted = f"({_TRAVELS}) OR {gone} OR ({_TAKEN_BACK})"
        for change, row in self.select(f"({wanted}) AND change & {Change.AGAIN}" if whole else wanted):
            yield Doubt(row.path, row.size, row.mtime, row.inode, bool(change & Change.AGAIN), row.kind == "d")

    def totals(self) -> Totals:
        """Sums of it; what a limit holds is in them."""
        renamed, gone = Change.RENAMED, Change.GONE
        back = f"change & {Change.GONE | Change.UNREADABLE}"
        only = f"change & {Change.ATTRIBUTES | Change.MANIFEST} AND NOT change & {REPLACED} AND NOT {back}"
        return Totals(
            self.count(f"kind != 'd' AND change & {Change.NEW} AND NOT {back} AND NOT change & {renamed}"),
            self.count_replaced(REPLACES),
            self.count(DELETES),
            self.count(f"kind != 'd' AND change & {gone} AND change & {renamed}"),
            self._one(f"SELECT count(*) FROM pending.changes WHERE {only}"),
            self._one("SELECT count(*) FROM pending.unread"),
        )

    def count(self, condition: str) -> Count:
        """What meets a condition on table `c`, and the bytes of it."""
        query = f"SELECT count(*), coalesce(sum(size), 0) FROM pending.changes c WHERE {condition}"
        return Count(*self.database.execute(query).fetchone())

    def count_replaced(self, condition: str) -> Count:
        """As `count`, with the bytes that the target has of it."""
        query = f"""
            SELECT count(*), coalesce(sum(e.size), 0) FROM pending.changes c
            LEFT JOIN main.directories d ON d.path = c.parent LEFT JOIN main.entries e ON e.dir = d.id AND e.name = c.name WHERE {condition}
        """
        return Count(*self.database.execute(query).fetchone())

    def of_inode(self, inode: int) -> list[Item]:
        """The names of an inode that change, directories not counted."""
        query = f"""
            SELECT path, change, {COLUMNS} FROM pending.changes
            WHERE inode = ? AND inode != 0 AND kind != 'd' AND NOT change & {KEPT_BACK} ORDER BY path
        """
        return [Item(change, unflatten(path, columns)) for path, change, *columns in self.database.execute(query, (signed(inode),))]

    # --- what it is told -------------------------------------------------------------------------------------------

    def set_hash(self, path: bytes, sha256: bytes) -> bool:
        """Record the hash of a file's content, for all names of its inode. Return whether it was found to be another content than
        size and mtime said, so that it goes into the -I pass."""
        if self.database.execute(_SET_HASH, (sha256, path)).rowcount:
            return False
        item = self.item(path)
        if item is None:
            return False
        names = [one for one in self.of_inode(item.row.inode) if _alike(one.row) == _alike(item.row)] or [item]
        found = [Item(_hashed(one, sha256), one.row._replace(sha256=sha256)) for one in names]
        again = any(new.change & Change.AGAIN and not old.change & Change.AGAIN for old, new in zip(names, found, strict=True))
        if again and item.row.link:
            found = [Item(change | Change.GROUP, row) for change, row in found]
            self.put_group(item.row.inode, [row.path for _, row in found])
        self.put(found)
        return again

    def set_hashes(self, found: Iterable[tuple[Row, bytes]]) -> None:
        """As `set_hash`, of many files at once, of which the content is new anyhow. One transaction: by one each they took 145 µs."""
        alone = []
        self.begin()
        for row, sha256 in found:
            if row.link:
                self.set_hash(row.path, sha256)
            else:
                alone.append((sha256, Change.HASHED, row.path))
        self.database.executemany("UPDATE pending.changes SET sha256 = ?, change = change | ? WHERE path = ?", alone)
        self.written()

    def put(self, items: Iterable[Item]) -> None:
        """Enter changes, in place of those of the same paths."""
        values = ((row.path, parent(row.path), row.path.rpartition(b"/")[2], int(change), *flatten(row)) for change, row in items)
        self.database.executemany(_PUT, values)

    def put_group(self, inode: int, paths: Iterable[bytes]) -> None:
        """Enter a hard-link group that must be sent whole."""
        self.database.executemany("INSERT OR IGNORE INTO pending.groups VALUES (?, ?)", ((signed(inode), path) for path in paths))

    def set_fact(self, name: str, value: str | int) -> None:
        self.database.execute("REPLACE INTO pending.facts VALUES (?, ?)", (name, value))

    def fact(self, name: str) -> str | int:
        """What worker.survey noted: `device`, `entries` met, `size` in bytes."""
        found = self.database.execute("SELECT value FROM pending.facts WHERE name = ?", (name,)).fetchone()
        return found[0] if found else ""

    def begin(self) -> None:
        """Make one transaction of what is entered until `written`: thousands of small ones would be slow."""
        if not self.database.in_transaction:
            self.database.execute("BEGIN")

    def written(self) -> None:
        """End what `begin` began, if anything."""
        if self.database.in_transaction and not self._entered:
            self.database.execute("COMMIT")

    def _leave(self) -> None:
        """Forget what `enter` prepared, if no `commit` came."""
        if self._entered:
            self.database.execute("ROLLBACK")
            self._entered = False

    # --- its end ---------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[Line]:
        """The lines of the segment that says all this."""
        for path, row, recorded in self._outcome():
            if recorded:
                yield Line(path, (encode_row(row) if row else encode_gone(path)).encode(), gone=row is None)

    def all_lines(self) -> Iterator[Line]:
        """The lines of a segment that says everything, as if there were no other. In path order."""
        self.database.execute("CREATE TEMP TABLE IF NOT EXISTS everything (path BLOB PRIMARY KEY, line TEXT NOT NULL) WITHOUT ROWID")
        self.database.execute("DELETE FROM temp.everything")
        put = "REPLACE INTO temp.everything VALUES (?, ?)"
        self.database.executemany(put, ((row.path, encode_row(row)) for row in self.ledger.rows()))
        for path, row, _ in self._outcome():
            self.database.execute("DELETE FROM temp.everything WHERE path = ?", (path,))
            if row is not None:
                self.database.execute(put, (path, encode_row(row)))
        for path, line in self.database.execute("SELECT path, line FROM temp.everything ORDER BY path"):
            yield Line(path, line.encode(), gone=False)

    def commit(self, digest: str) -> None:
        """Take everything over into the ledger, as of the commit with this digest, which is at the target.

        Where nothing was to be committed, `digest` is that of the ledger: what is known of inodes and directories is kept none the less.
        """
        if not self._entered:
            self.enter()
        self.ledger.set_fact("commit", digest)
        self.database.execute("COMMIT")
        self._entered = False

    def enter(self) -> None:
        """Prepare `commit` in an open transaction, which ends with it or comes to nothing: it takes a while where much changed."""
        self.written()
        doubts = f"change & {Change.HELD} AND change & {Change.DOUBTFUL}"
        self.database.execute("DROP TABLE IF EXISTS temp.kept_doubts")
        self.database.execute(
            f"CREATE TEMP TABLE kept_doubts AS SELECT * FROM main.doubts WHERE path IN (SELECT path FROM pending.changes WHERE {doubts})"
        )
        self.database.execute("BEGIN IMMEDIATE")
        self._entered = True
        try:
            self._take_over()
        except BaseException:
            self._leave()
            raise

    def _take_over(self) -> None:
        self.ledger.put(((path, row) for path, row, _ in self._outcome(_ODD)), forgetting=False)
        self.ledger.copy(f"pending.changes c WHERE NOT ({_ODD})", _PROVEN)
        self.ledger.finish(self.ledger.commit_digest)
        self.database.execute("INSERT INTO main.doubts SELECT * FROM temp.kept_doubts")
        self.ledger.set_fact("device", self.fact("device"))
        self.database.execute(
            "UPDATE main.directories SET signature = nullif(f.signature, x'') FROM pending.folders f WHERE f.path = directories.path"
        )
        for unsure in (
            "SELECT path FROM pending.unread UNION SELECT parent FROM pending.unread",
            f"SELECT parent FROM pending.changes WHERE change & {Change.HELD}",
            f"SELECT parent FROM pending.changes WHERE {_UNPROVEN} OR (kind = 'f' AND sha256 = x'' AND NOT change & {KEPT_BACK})",
        ):
            self.database.execute(f"UPDATE main.directories SET signature = NULL WHERE path IN ({unsure})")

    def _outcome(self, condition: str = "1") -> Iterator[tuple[bytes, Row | None, bool]]:
        """Each path that is to be entered, its row (None = gone), and whether that is news for the manifest."""
        for change, row in self.select(condition):
            if change & (Change.UNREADABLE | Change.HELD):
                if change & Change.NEW:
                    continue
                marked = row._replace(unreadable=bool(change & Change.UNREADABLE), held=bool(change & Change.HELD))
                yield row.path, marked, marked != self.ledger.row(row.path)
            elif change & Change.GONE:
                if not change & Change.NEW:
                    yield row.path, None, True
            else:
                yield row.path, row, bool(change & RECORDED)

    def select(self, condition: str) -> Iterator[Item]:
        """What meets a condition on table `c`; by pages, so that changes may be entered meanwhile."""
        query = f"SELECT path, change, {COLUMNS} FROM pending.changes c WHERE ({condition}) AND path > ? ORDER BY path LIMIT {_PAGE}"
        page = self.database.execute(query.replace("path > ?", "path >= ?"), (TOP,)).fetchall()
        while page:
            for path, change, *columns in page:
                yield Item(change, unflatten(path, columns))
            page = self.database.execute(query, (page[-1][0],)).fetchall() if len(page) == _PAGE else []

    def _one(self, query: str) -> int:
        return int(self.database.execute(query).fetchone()[0])


def _by_one_name(wanted: str) -> str:
    """The condition for what is wanted, of each inode the first name alone."""
    same = "inode = c.inode AND inode != 0 AND path < c.path AND size = c.size AND mtime = c.mtime"
    return f"{wanted} AND NOT EXISTS (SELECT 1 FROM pending.changes WHERE {same} AND {wanted})"


def _alike(row: Row) -> tuple[str, int, int]:
    return row.kind, row.size, row.mtime


def _hashed(item: Item, sha256: bytes) -> Changes:
    """How a file changes, now that its hash is known."""
    change = item.change | Change.HASHED
    if change & REPLACED or item.row.sha256 == sha256:
        return change
    return change | Change.CONTENT | Change.AGAIN
