# SPDX-License-Identifier: GPL-3.0-or-later
"""What one target is known to hold."""

from pathlib import Path

import pytest

from offsited.core.commit import Commit, digest, encode
from offsited.worker.confirmed import Confirmed, Sealed

COMMIT = Commit(vault="v", target="seed", job=7, snapshot="s", snapshot_dated=5, opened=6, committed=8, entries=3, bytes=9)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "seed").mkdir()
    return tmp_path / "seed"


def test_nothing_yet(tmp_path: Path) -> None:
    found = Confirmed.read(tmp_path / "missing")
    assert (found.commit, found.content, found.dated, found.digest, found.sealed) == (None, None, 0, "", Sealed())
    assert not found.is_at_target(None)
    assert not found.is_at_target(b"")


def test_what_was_confirmed_is_known_again_by_its_encrypted_form(directory: Path) -> None:
    Confirmed.read(directory).confirm(encode(COMMIT), "X/Y", b"encrypted")
    found = Confirmed.read(directory)
    assert (found.commit, found.dated, found.digest, found.sealed.path) == (COMMIT, 5, digest(encode(COMMIT)), "X/Y")
    assert found.is_at_target(b"encrypted")
    assert not found.is_at_target(b"encrypted ")
    assert not found.is_at_target(None)


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", encode(COMMIT)[:-10]])
def test_a_damaged_commit_is_as_good_as_none(directory: Path, content: bytes) -> None:
    Confirmed.read(directory).confirm(encode(COMMIT), "X/Y", b"encrypted")
    (directory / "commit.json").write_bytes(content)
    found = Confirmed.read(directory)
    assert (found.commit, found.dated, found.sealed) == (None, 0, Sealed())
    assert not found.is_at_target(b"encrypted")


def test_damage_beside_it_costs_a_comparison_and_nothing_else(directory: Path) -> None:
    Confirmed.read(directory).confirm(encode(COMMIT), "X/Y", b"encrypted")
    (directory / "sealed.json").write_bytes(b"x")
    found = Confirmed.read(directory)
    assert (found.commit, found.is_at_target(b"encrypted")) == (COMMIT, False)


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
