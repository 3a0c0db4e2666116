# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger of a target follows the commit that was confirmed there, whatever became of it."""

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from offsited.core import intent
from offsited.core.commit import Commit, digest, encode
from offsited.core.manifest import Header, Line, Row, SegmentFile, encode_gone, encode_row, root_hash
from offsited.worker import segments
from offsited.worker.books import Books
from offsited.worker.confirmed import Announced, Confirmed
from offsited.worker.ledger import Doubt, Ledger

TOP = Row(b"", "d", 0o755, inode=1)
A, B, C = (Row(name, "f", 0o644, size=1, mtime=1, sha256=name * 32, inode=number) for number, name in enumerate((b"a", b"b", b"c"), 2))
MANY = [Row(b"m%03d" % number, "f", 0o600, sha256=bytes(32), inode=100 + number) for number in range(50)]


class Target:
    """What is known of one, and what a job does with that."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.before = self.confirmed = Confirmed.read(directory)
        self.confirmed.new_tree()
        self.listed: tuple[SegmentFile, ...] = ()
        self.job = 0

    def commit(self, rows: Iterable[Row] = (), gone: Iterable[bytes] = (), *, recorded: bool = True) -> None:
        """Commit changes; `recorded`: the job lived long enough to enter them in the ledger."""
        self.job += 1
        found: dict[bytes, Row | None] = {row.path: row for row in rows} | dict.fromkeys(gone)
        lines = [Line(path, (encode_row(row) if row else encode_gone(path)).encode(), gone=row is None) for path, row in found.items()]
        self.listed = segments.append(self.confirmed.segments, self.listed, Header("v", "seed", self.job), sorted(lines))
        commit = Commit(
            vault="v", target="seed", job=self.job, previous=self.confirmed.digest, snapshot="s", snapshot_dated=0, opened=0, committed=0,
            reconciled=0, entries=0, bytes=0, segments=self.listed, root=root_hash(self.listed),
        )  # fmt: skip
        self.before = self.confirmed
        content = encode(commit)
        self.confirmed = self.confirmed.confirm(Announced(content=content.decode(), commit_path="x", sealed=digest(content)))
        if recorded:
            with Ledger.opened(self.confirmed.manifest) as ledger, ledger.changing():
                ledger.take_over(sorted(found.items()), self.confirmed.digest, forgetting=False)
            self.before = self.confirmed

    def prepare(self) -> Books:
        return Books.prepare(self.confirmed, self.before)

    @property
    def rows(self) -> dict[bytes, Row]:
        with Ledger.opened(self.confirmed.manifest) as ledger:
            assert ledger.commit_digest == self.confirmed.digest
            return {row.path: row for row in ledger.rows()}


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(tmp_path / "seed")


def without_inodes(*rows: Row) -> dict[bytes, Row]:
    return {row.path: row._replace(inode=0) for row in rows}


def test_nothing_is_known_yet(target: Target) -> None:
    target.prepare()
    assert target.rows == {}


def test_a_ledger_that_fits_is_left_alone(target: Target) -> None:
    target.commit([TOP, A, B])
    assert not target.prepare().doubtful
    assert target.rows == {row.path: row for row in (TOP, A, B)}


def test_a_ledger_that_is_behind_catches_up(target: Target) -> None:
    """Of entries that the last commit does not speak of, their inodes stay known: nothing has to be read again."""
    target.commit([TOP, A, *MANY])
    target.commit([C], [A.path], recorded=False)
    assert len(target.listed) == 2
    assert not target.prepare().doubtful
    assert target.rows == {row.path: row for row in (TOP, *MANY)} | without_inodes(C)


def test_a_ledger_that_is_behind_forgets_what_went_although_the_segments_were_merged(target: Target) -> None:
    """A segment that is the only one need not say what is gone."""
    target.commit([TOP, A])
    target.commit([B], [A.path], recorded=False)
    assert len(target.listed) == 1
    assert not target.prepare().doubtful
    assert set(target.rows) == {b"", b"b"}


def test_a_ledger_that_is_behind_the_first_commit(target: Target) -> None:
    target.commit([TOP, A], recorded=False)
    assert not target.prepare().doubtful
    assert target.rows == without_inodes(TOP, A)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _overwrite_pages(file: Path) -> None:
    """All but the first page, which says what the file is."""
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(b"\xa5" * (file.stat().st_size - 4096))


def _another_version(file: Path) -> None:
    with Ledger.opened(file) as ledger:
        ledger.database.execute("PRAGMA user_version = 99")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "lost": Path.unlink,
    "cut": _cut,
    "garbage": lambda file: file.write_bytes(b"x" * 10_000),
    "pages": _overwrite_pages,
    "another version": _another_version,
    "empty": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_ledger_that_cannot_be_used_is_made_anew(target: Target, damage: str) -> None:
    target.commit([TOP, A, B, *MANY])
    target.commit([C], [B.path])
    DAMAGES[damage](target.confirmed.manifest)
    assert not target.prepare().doubtful
    assert target.rows == without_inodes(TOP, A, C, *MANY)


@pytest.mark.parametrize("segment", [0, 1])
@pytest.mark.parametrize("damage", ["lost", "cut", "garbage"])
def test_without_segments_nothing_is_known(target: Target, damage: str, segment: int) -> None:
    target.commit([TOP, A, B, *MANY])
    target.commit([C], [B.path])
    target.confirmed.manifest.unlink()
    DAMAGES[damage](target.confirmed.segments / target.listed[segment].name)
    assert target.prepare().doubtful
    assert target.prepare().doubtful, "and so it stays, until everything was compared"
    with Ledger.opened(target.confirmed.manifest) as ledger:
        assert list(ledger.rows()) == []


def test_segments_alone_are_not_needed(target: Target) -> None:
    target.commit([TOP, A])
    (target.confirmed.segments / target.listed[0].name).unlink()
    assert not target.prepare().doubtful
    assert target.rows == {row.path: row for row in (TOP, A)}


def test_a_commit_that_is_lost_makes_the_ledger_worthless(target: Target) -> None:
    target.commit([TOP, A])
    (target.directory / "commit.json").unlink()
    confirmed = Confirmed.read(target.directory)
    assert Books.prepare(confirmed, confirmed).doubtful
    with Ledger.opened(confirmed.manifest) as ledger:
        assert list(ledger.rows()) == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_an_interrupted_job_was_about_to_change_is_not_forgotten_with_the_ledger(target: Target, damage: str) -> None:
    """The intent says it too; nothing is known then of which content was on its way."""
    target.commit([TOP, A, B, *MANY])
    with Ledger.opened(target.confirmed.manifest) as ledger:
        ledger.doubt([Doubt(b"a", 1, 1, 2, again=False, directory=False), Doubt(b"\xff\n", 1, 1, 3, again=True, directory=False)])
    head = intent.Header("v", "seed", 2, whole=False).encode()
    lines = intent.encode_line(b"a", again=False) + intent.encode_line(b"\xff\n", again=True)
    target.confirmed.intent.write_bytes(gzip.compress(head + lines))
    DAMAGES[damage](target.confirmed.manifest)
    assert not target.prepare().doubtful
    with Ledger.opened(target.confirmed.manifest) as ledger:
        assert {doubt.path: doubt.again for doubt in ledger.doubts()} == {b"a": True, b"\xff\n": True}


@pytest.mark.parametrize("content", [b"", b"x", gzip.compress(b"not json"), gzip.compress(b'{"path": "a"}')[:-9]], ids=range(4))
def test_an_intent_that_cannot_be_read_makes_everything_doubtful(target: Target, content: bytes) -> None:
    target.commit([TOP, A, *MANY])
    target.confirmed.intent.write_bytes(content)
    target.confirmed.manifest.unlink()
    assert target.prepare().doubtful
