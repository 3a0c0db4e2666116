# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: S608 - every piece of SQL here is a constant of ours; values are bound
"""The ledger: `state/targets/T/manifest.sqlite`, what one target holds as a database.

It is made from the manifest's segments and can be made anew from them at any time (`apply`). Beside the rows it knows what only this
machine can know: the inode of each entry, the signature of each directory, and the file system that both are of. It changes in `commit`,
`apply` and `doubt` alone, each one transaction; what a run is about to change is kept apart from it (worker.pending).
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from offsited.core.manifest import TOP, ManifestDamaged, Row, below, parent
from offsited.worker.columns import COLUMNS, DEFINITIONS, FIELDS, flatten, qualified, signed, unflatten, unsigned, wide

LEDGER_FILE: Final = "manifest.sqlite"
VERSION: Final = 1
_MARKS: Final = ", ".join("?" * len(FIELDS))
_ABOVE: Final = 0
"""The number of the directory that the top would lie in."""
_CACHED: Final = 4096
_PAGE: Final = 1000
_SCHEMA: Final = f"""
    CREATE TABLE facts (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
    CREATE TABLE directories (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, signature BLOB);
    CREATE TABLE entries (dir INTEGER NOT NULL, name BLOB NOT NULL, {DEFINITIONS}, PRIMARY KEY (dir, name)) WITHOUT ROWID;
    CREATE TABLE doubts (path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime NOT NULL, inode INTEGER NOT NULL,
        again INTEGER NOT NULL, directory INTEGER NOT NULL) WITHOUT ROWID;
    PRAGMA user_version = {VERSION};
"""
_INDEXES: Final = """
    CREATE INDEX IF NOT EXISTS by_inode ON entries (inode) WHERE inode != 0;
    CREATE INDEX IF NOT EXISTS by_link ON entries (link) WHERE link != 0;
    CREATE INDEX IF NOT EXISTS by_carried ON entries (dir, name) WHERE carried;
"""


_DOUBT: Final = """
    INSERT INTO doubts VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET
        directory = max(directory, excluded.directory),
        again = max(again, excluded.again, (size, mtime, inode) IS NOT (excluded.size, excluded.mtime, excluded.inode)),
        size = excluded.size, mtime = excluded.mtime, inode = excluded.inode
"""
"""Where two interrupted runs were about to send different contents, the target has either: only sending it again settles that."""


class Doubt(NamedTuple):
    """An entry that an interrupted run may have left at the target, as that run was about to send it."""

    path: bytes
    size: int
    mtime: int
    inode: int
    """0 = not known."""
    again: bool
    """It was in the -I pass: size and mtime say nothing about which content the target has."""
    directory: bool
    """A directory may be there."""


class Totals(NamedTuple):
    """How much a target holds."""

    entries: int
    files: int
    """Entries that are no directories: what limits are percentages of."""
    size: int
    """Bytes of regular files; one of several names counts once."""


class Ledger:
    """The open ledger of one target. Not for several threads at once."""

    def __init__(self, file: Path) -> None:
        """Open it; make an empty one where there is none. Raise ManifestDamaged for a file that is no ledger, or another version's."""
        self.file = file
        self.database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        try:
            # A commit that was answered survives power loss; a torn one is undone when the file is opened next.
            self.database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384")
            (version,) = self.database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self.database.executescript(f"BEGIN; {_SCHEMA} COMMIT")
        except sqlite3.DatabaseError as error:
            self.database.close()
            raise ManifestDamaged(f"the ledger cannot be read: {error}") from None
        if version not in {0, VERSION}:
            self.database.close()
            raise ManifestDamaged(f"the ledger has version {version}; this is {VERSION}")

    @classmethod
    @contextmanager
    def opened(cls, file: Path) -> Iterator["Ledger"]:
        ledger = cls(file)
        try:
            yield ledger
        finally:
            ledger.close()

    @staticmethod
    def remove(file: Path) -> None:
        """Remove one, with what SQLite keeps beside it; there may be none."""
        for part in file.parent.glob(f"{file.name}*"):
            part.unlink()

    def close(self) -> None:
        self.database.close()

    # --- what it says ----------------------------------------------------------------------------------------------

    @property
    def commit_digest(self) -> str:
        """The digest of the commit file that these rows are of; "" = none."""
        return str(self._fact("commit", ""))

    @property
    def device(self) -> str:
        """The file system that inodes and signatures are of, as `walk.device_identity` names it; "" = none."""
        return str(self._fact("device", ""))

    @property
    def last_link(self) -> int:
        """The highest number that a hard-link group ever had here."""
        return int(self._fact("last_link", 0))

    def signatures(self) -> dict[bytes, bytes]:
        """The signature of each directory by its path, of those whose listing is fully known."""
        return dict(self.database.execute("SELECT path, signature FROM directories WHERE signature IS NOT NULL"))

    def children(self, directory: bytes) -> dict[bytes, Row]:
        """The rows of a directory's entries by path."""
        found = self.database.execute(
            f"SELECT name, {COLUMNS} FROM entries WHERE dir = (SELECT id FROM directories WHERE path = ?)", (directory,)
        )
        return {(path := below(directory, name)): unflatten(path, columns) for name, *columns in found}

    def row(self, path: bytes) -> Row | None:
        """The row of a path."""
        query = f"SELECT {COLUMNS} FROM entries WHERE dir = ? AND name = ?"
        found = self.database.execute(query, (self._number(path), path.rpartition(b"/")[2])).fetchone()
        return unflatten(path, found) if found else None

    def rows(self) -> Iterator[Row]:
        """All rows, directory by directory: a directory's own row comes before those of its entries."""
        yield from filter(None, [self.row(TOP)])
        for (directory,) in self.database.execute("SELECT path FROM directories ORDER BY path"):
            yield from self.children(directory).values()

    def rows_from(self, after: bytes | None = None) -> Iterator[Row]:
        """All rows in the same order, from the one after `after` on; of a directory of any size a page at a time."""
        if after is None:
            yield from filter(None, [self.row(TOP)])
            after = TOP
        start, name = parent(after), after.rpartition(b"/")[2]
        for number, directory in self._numbered(start):
            last = name if directory == start else b""
            while page := self._page(number, last):
                for found, *columns in page:
                    yield unflatten(below(directory, found), columns)
                last = page[-1][0]

    def _numbered(self, start: bytes) -> Iterator[tuple[int, bytes]]:
        """Directories from a path on, in path order."""
        query = f"SELECT id, path FROM directories WHERE path >= ? ORDER BY path LIMIT {_PAGE}"
        page = self.database.execute(query, (start,)).fetchall()
        while page:
            yield from page
            page = self.database.execute(query.replace(">=", ">"), (page[-1][1],)).fetchall()

    def _page(self, number: int, last: bytes) -> list[tuple[bytes, ...]]:
        query = f"SELECT name, {COLUMNS} FROM entries WHERE dir = ? AND name > ? ORDER BY name LIMIT {_PAGE}"
        return self.database.execute(query, (number, last)).fetchall()

    def sample(self, count: int, kinds: str = "f", order: str = "random()") -> list[Row]:
        """At most so many rows of some kinds, by chance, or the first in an `order` by columns; in path order. Not the top."""
        wanted = f"instr('{kinds}', kind) AND NOT carried AND NOT (e.dir = {_ABOVE})"
        query = f"SELECT d.path, e.name FROM entries e JOIN directories d ON d.id = e.dir WHERE {wanted} ORDER BY {order} LIMIT ?"
        found = self.database.execute(query, (count,)).fetchall()
        return [row for path in sorted(below(directory, name) for directory, name in found) if (row := self.row(path))]

    def is_in_doubt(self, path: bytes) -> bool:
        """Whether an interrupted run may have changed an entry at the target, or anything below it."""
        query = "SELECT 1 FROM doubts WHERE path = ?1 OR (path > ?2 AND path < ?3) OR (?1 = x'') LIMIT 1"
        return self.database.execute(query, (path, path + b"/", path + b"0")).fetchone() is not None

    def directories_below(self, path: bytes, *, deepest_first: bool = False) -> Iterator[Row]:
        """The rows of a directory and of all below it, each after the one that holds it, or before."""
        for directory in self._directories_in(path, "DESC" if deepest_first else "ASC"):
            row = self.row(directory)
            if row:
                yield row

    def entries_below(self, path: bytes) -> Iterator[Row]:
        """The rows of all that is no directory below a directory, directory by directory."""
        for directory in self._directories_in(path, "ASC"):
            yield from (row for row in self.children(directory).values() if row.kind != "d")

    def _directories_in(self, path: bytes, order: str) -> Iterator[bytes]:
        query = f"SELECT path FROM directories WHERE ?1 = x'' OR path = ?1 OR (path > ?2 AND path < ?3) ORDER BY path {order}"
        for (directory,) in self.database.execute(query, (path, path + b"/", path + b"0")):
            yield directory

    def first_of_link(self, link: int, path: bytes) -> bytes:
        """The path of the hard-link group that was asked for first, since the ledger was opened."""
        self.database.execute("CREATE TEMP TABLE IF NOT EXISTS firsts (link INTEGER PRIMARY KEY, path BLOB NOT NULL)")
        self.database.execute("INSERT OR IGNORE INTO temp.firsts VALUES (?, ?)", (link, path))
        return bytes(self.database.execute("SELECT path FROM temp.firsts WHERE link = ?", (link,)).fetchone()[0])

    def of_inode(self, inode: int) -> list[Row]:
        """The rows of one inode that are no directories."""
        return self._found("e.inode = ? AND e.inode != 0 AND e.kind != 'd'", inode)

    def of_link(self, link: int) -> list[Row]:
        """The rows of one hard-link group."""
        return self._found("e.link = ? AND e.link != 0", link)

    def doubts(self) -> Iterator[Doubt]:
        """What interrupted runs may have changed at the target, in path order."""
        for path, size, mtime, inode, again, directory in self.database.execute("SELECT * FROM doubts ORDER BY path"):
            yield Doubt(path, size, int(mtime), unsigned(inode), bool(again), bool(directory))

    def totals(self) -> Totals:
        entries, files = self.database.execute("SELECT count(*), count(*) FILTER (WHERE kind != 'd') FROM entries").fetchone()
        (size,) = self.database.execute("SELECT coalesce(sum(size), 0) FROM entries WHERE kind = 'f' AND link = 0").fetchone()
        (linked,) = self.database.execute(
            "SELECT coalesce(sum(size), 0) FROM (SELECT max(size) AS size FROM entries WHERE kind = 'f' AND link != 0 GROUP BY link)"
        ).fetchone()
        return Totals(entries, files, size + linked)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All that is asked within is of one moment, whatever is committed meanwhile."""
        self.database.execute("BEGIN")
        try:
            yield
        finally:
            self.database.execute("COMMIT")

    # --- what changes it -------------------------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[None]:
        """One transaction: all of it or nothing."""
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")

    def apply(self, rows: Iterable[tuple[bytes, Row | None]], commit: str) -> None:
        """Take over a segment's rows (None = gone) in path order, as of the commit with this digest; what interrupted runs did is past.

        Doing it twice is doing it once. The entries' inodes and the signatures of their directories are unknown afterwards.
        """
        with self.changing():
            self.take_over(rows, commit, forgetting=True)

    def rebuild(self, segments: Iterable[Iterable[tuple[bytes, Row | None]]], commit: str) -> None:
        """Make it anew from all segments, oldest first. Nothing changes if one of them is damaged."""
        with self.changing():
            self._empty()
            for rows in segments:
                self.take_over(rows, commit, forgetting=True)
            self.take_over((), commit, forgetting=True)

    def doubt(self, doubts: Iterable[Doubt]) -> None:
        """Remember what a run is about to change at the target, until the next commit. A later doubt makes no earlier one smaller."""
        values = ((path, size, wide(mtime), signed(inode), *rest) for path, size, mtime, inode, *rest in doubts)
        with self.changing():
            self.database.executemany(_DOUBT, values)

    def forget(self) -> None:
        """Know nothing of the target any more, except which commit was the last."""
        with self.changing():
            self._empty()

    def take_over(self, rows: Iterable[tuple[bytes, Row | None]], commit: str, *, forgetting: bool) -> None:
        """As `apply`, within a transaction of the caller. Without `forgetting`, the signatures of directories stay."""
        self.put(rows, forgetting=forgetting)
        self.finish(commit)

    def put(self, rows: Iterable[tuple[bytes, Row | None]], *, forgetting: bool) -> None:
        """The rows of `take_over`."""
        places = _Places(self.database, forgetting=forgetting)
        writing, deleting = self.database.cursor(), self.database.cursor()
        put = f"REPLACE INTO entries VALUES (?, ?, {_MARKS})"
        last_link = self.last_link
        for path, row in rows:
            name = path.rpartition(b"/")[2]
            if row is None:
                deleting.execute("DELETE FROM entries WHERE dir = ? AND name = ?", (places.above(path), name))
                places.drop(path)
                continue
            writing.execute(put, (places.made_above(path), name, *flatten(row)))
            last_link = max(last_link, row.link)
            if row.kind == "d":
                places.add(path)
            else:
                places.drop(path)
        self.set_fact("last_link", last_link)

    def copy(self, source: str, columns: str) -> None:
        """As `put`, of the rows of `source` (a table `c` with a condition), by their `columns`: all at once, and ten times as fast.

        None of them may be something else than a directory where there was one.
        """
        directories = f"SELECT path FROM {source} AND kind = 'd' UNION SELECT parent FROM {source} AND path != x'' ORDER BY 1"
        self.database.execute(f"INSERT OR IGNORE INTO main.directories (path) {directories}")
        place = f"CASE c.path WHEN x'' THEN {_ABOVE} ELSE (SELECT id FROM main.directories d WHERE d.path = c.parent) END"
        self.database.execute(f"REPLACE INTO main.entries SELECT {place}, name, {columns} FROM {source} ORDER BY path")
        (last,) = self.database.execute(f"SELECT coalesce(max(link), 0) FROM {source}").fetchone()
        self.set_fact("last_link", max(last, self.last_link))

    def finish(self, commit: str) -> None:
        """The end of `take_over`."""
        self.set_fact("commit", commit)
        self.database.execute("DELETE FROM doubts")
        self._index()

    def set_fact(self, name: str, value: str | int) -> None:
        self.database.execute("REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _fact(self, name: str, default: str | int) -> str | int:
        found = self.database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return found[0] if found else default

    def _number(self, path: bytes) -> int | None:
        """The number of the directory that holds a path."""
        if path == TOP:
            return _ABOVE
        found = self.database.execute("SELECT id FROM directories WHERE path = ?", (parent(path),)).fetchone()
        return int(found[0]) if found else None

    def _found(self, condition: str, value: int) -> list[Row]:
        query = f"SELECT d.path, e.name, {qualified('e')} FROM entries e JOIN directories d ON d.id = e.dir WHERE {condition}"
        return [unflatten(below(directory, name), columns) for directory, name, *columns in self.database.execute(query, (signed(value),))]

    def _empty(self) -> None:
        for table in ("directories", "entries", "doubts"):
            self.database.execute(f"DELETE FROM {table}")
        for index in ("by_inode", "by_link", "by_carried"):
            self.database.execute(f"DROP INDEX IF EXISTS {index}")

    def _index(self) -> None:
        """After the rows: filling an index at once is much faster than row by row."""
        for statement in _INDEXES.split(";"):
            self.database.execute(statement)


class _Places:
    """The numbers of directories, while rows are taken over in path order."""

    def __init__(self, database: sqlite3.Connection, *, forgetting: bool) -> None:
        self._database = database
        self._find = (
            "UPDATE directories SET signature = NULL WHERE path = ? RETURNING id"
            if forgetting
            else "SELECT id FROM directories WHERE path = ?"
        )
        self._known: dict[bytes, int] = {}

    def above(self, path: bytes) -> int | None:
        """The number of the directory that holds a path, if there is such a directory."""
        if path == TOP:
            return _ABOVE
        directory = parent(path)
        found = self._known.get(directory)
        return self._look_up(directory) if found is None else found

    def made_above(self, path: bytes) -> int:
        """As `above`; the directory is made if need be."""
        found = self.above(path)
        return self.add(parent(path)) if found is None else found

    def add(self, directory: bytes) -> int:
        """The number of a directory, which is made if need be."""
        found = self._look_up(directory)
        if found is None:
            found = self._database.execute("INSERT INTO directories (path) VALUES (?)", (directory,)).lastrowid or 0
            self._known[directory] = found
        return found

    def drop(self, path: bytes) -> None:
        """What was a directory is none any more: nothing in it counts."""
        found = self._look_up(path)
        if found is not None:
            self._database.execute("DELETE FROM entries WHERE dir = ?", (found,))
            self._database.execute("DELETE FROM directories WHERE id = ?", (found,))
            del self._known[path]

    def _look_up(self, directory: bytes) -> int | None:
        with closing(self._database.execute(self._find, (directory,))) as cursor:
            found = cursor.fetchone()
        if found is None:
            return None
        if len(self._known) >= _CACHED:
            self._known.clear()
        self._known[directory] = found[0]
        return int(found[0])
