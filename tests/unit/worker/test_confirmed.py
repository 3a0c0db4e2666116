# SPDX-License-Identifier: GPL-3.0-or-later
"""What one target is known to hold."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from offsited.core import intent
from offsited.core.commit import Commit, digest, encode
from offsited.core.manifest import SegmentFile, root_hash
from offsited.worker.confirmed import Announced, Confirmed, Sealed, Standing

SEGMENTS = (SegmentFile("manifest-00000007.jsonl.gz", "ab" * 32, 3, 100),)
COMMIT = Commit(
    vault="v", target="seed", job=7, snapshot="s", snapshot_dated=5, opened=6, committed=8, reconciled=8, entries=3, bytes=9,
    segments=SEGMENTS, root=root_hash(SEGMENTS),
)  # fmt: skip
LATER = COMMIT.model_copy(update={"job": 8, "snapshot_dated": 6})


def confirm(directory: Path, commit: Commit = COMMIT, sealed: bytes = b"encrypted") -> Confirmed:
    """Commit as a job does it."""
    announced = Announced(content=encode(commit).decode(), commit_path="X/Y", sealed=digest(sealed))
    Confirmed.read(directory).announce(announced)
    return Confirmed.read(directory).confirm(announced)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "seed").mkdir()
    return tmp_path / "seed"


def test_nothing_yet(tmp_path: Path) -> None:
    found = Confirmed.read(tmp_path / "missing")
    assert (found.commit, found.content, found.dated, found.digest, found.sealed) == (None, None, 0, "", Sealed())
    assert found.announced() is None
    assert (found.interrupted, found.intends_all, list(found.intent_lines())) == (False, False, [])
    assert found.standing(None) is Standing.NOTHING
    assert found.standing(b"encrypted") is Standing.UNKNOWN


def test_what_was_confirmed_is_known_again_by_its_encrypted_form(directory: Path) -> None:
    found = confirm(directory)
    assert (found.commit, found.dated, found.digest, found.sealed.commit_path) == (COMMIT, 5, digest(encode(COMMIT)), "X/Y")
    assert found.standing(b"encrypted") is Standing.CONFIRMED
    assert found.standing(b"encrypted ") is Standing.UNKNOWN
    assert found.standing(None) is Standing.LOST
    assert found.announced() is None


def test_an_older_one_of_ours_is_told_from_a_strangers(directory: Path) -> None:
    confirm(directory)
    found = confirm(directory, LATER, b"encrypted later")
    assert found.standing(b"encrypted later") is Standing.CONFIRMED
    assert found.standing(b"encrypted") is Standing.ROLLED_BACK
    assert found.standing(b"another") is Standing.UNKNOWN


def test_a_commit_on_its_way_is_remembered_until_it_is_known_to_have_arrived(directory: Path) -> None:
    confirm(directory)
    announced = Announced(content=encode(LATER).decode(), commit_path="X/Y", sealed=digest(b"later"))
    Confirmed.read(directory).announce(announced)
    found = Confirmed.read(directory)
    assert (found.commit, found.announced()) == (COMMIT, announced)
    assert announced.arrived(b"later")
    assert not announced.arrived(b"encrypted")
    assert not announced.arrived(None)


HEADER = intent.Header("v", "seed", 7, whole=False)
LINES = intent.encode_line(b"a", again=False) + intent.encode_line(b"\xff\n", again=True)


@pytest.mark.parametrize(
    ("content", "everything"),
    [
        (gzip.compress(HEADER.encode() + LINES), False),
        (gzip.compress(replace(HEADER, whole=True).encode()), True),
        (gzip.compress(b""), True),
        (gzip.compress(LINES), True),
        (b"", True),
        (b"not packed", True),
        (gzip.compress(HEADER.encode())[:12], True),
    ],
)
def test_an_intent_that_says_everything_or_nothing_that_can_be_read(directory: Path, content: bytes, everything: bool) -> None:  # noqa: FBT001
    (directory / "intent.jsonl.gz").write_bytes(content)
    found = Confirmed.read(directory)
    assert (found.interrupted, found.intends_all) == (True, everything)


def test_an_intent_that_was_cut_is_said_to_be(directory: Path) -> None:
    whole = gzip.compress(HEADER.encode() + LINES * 1000)
    (directory / "intent.jsonl.gz").write_bytes(whole)
    assert list(Confirmed.read(directory).intent_lines()) == [HEADER.encode(), *LINES.splitlines(keepends=True) * 1000]
    (directory / "intent.jsonl.gz").write_bytes(whole[:-20])
    assert list(Confirmed.read(directory).intent_lines())[-1] == b""


def test_a_commit_that_arrived_ends_the_intent(directory: Path) -> None:
    (directory / "intent.jsonl.gz").write_bytes(gzip.compress(HEADER.encode()))
    assert not confirm(directory).interrupted


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", encode(COMMIT)[:-10], encode(COMMIT).replace(b"ababab", b"cdcdcd")])
def test_a_damaged_commit_is_as_good_as_none(directory: Path, content: bytes) -> None:
    confirm(directory)
    (directory / "commit.json").write_bytes(content)
    found = Confirmed.read(directory)
    assert (found.commit, found.content, found.dated) == (None, None, 0)
    assert found.standing(b"encrypted") is Standing.ROLLED_BACK, "ours, but nothing is known of it any more"


def test_damage_beside_it_makes_the_commit_unknown(directory: Path) -> None:
    confirm(directory)
    (directory / "sealed.json").write_bytes(b"x")
    found = Confirmed.read(directory)
    assert (found.commit, found.standing(b"encrypted")) == (COMMIT, Standing.UNKNOWN)


def test_what_cannot_be_read_is_as_good_as_none(directory: Path) -> None:
    (directory / "commit.json").mkdir()
    assert Confirmed.read(directory).commit is None


def test_a_tree_is_new_for_each_job(directory: Path) -> None:
    found = Confirmed.read(directory)
    found.new_tree()
    (found.tree / "old").touch()
    found.new_tree()
    assert not list(found.tree.iterdir())
    assert found.tree.stat().st_mode & 0o777 == 0o700
