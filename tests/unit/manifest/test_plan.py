# SPDX-License-Identifier: GPL-3.0-or-later
"""How one entry, one directory, one hard-link group changes: tables, and what must hold for any."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core.gocryptfs import LONG_NAME
from offsited.core.manifest import Row
from offsited.core.plan import (
    REPLACED,
    SEALED_PATH_LIMIT,
    Change,
    Changes,
    compare,
    compare_directory,
    fits,
    is_carried,
    merge,
    number_group,
    sealed_length,
)

from .test_rows import rows

FILE = Row(b"a", "f", 0o644, 1, 1, 10, 1000, sha256=bytes(32), inode=7)
LINK = Row(b"a", "l", 0o777, target=b"x", mtime=1, inode=7)
C = Change


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        (FILE, {}, 0),
        (FILE, {"size": 11}, C.CONTENT),
        (FILE, {"mtime": 1001, "inode": 8}, C.CONTENT | C.ATTRIBUTES | C.INODE),
        (FILE, {"mode": 0o600}, C.ATTRIBUTES),
        (FILE, {"uid": 2}, C.ATTRIBUTES),
        (FILE, {"gid": 2}, C.ATTRIBUTES),
        (FILE, {"inode": 8}, C.INODE),
        (FILE._replace(inode=0), {}, C.INODE),
        (FILE._replace(sha256=b""), {}, C.INODE),
        (FILE, {"xattrs": (("user.a", b""),)}, C.MANIFEST),
        (FILE, {"flags": "i"}, C.MANIFEST),
        (FILE, {"holes": ((0, 4096),)}, C.MANIFEST),
        (FILE._replace(unreadable=True), {}, C.MANIFEST),
        (FILE._replace(held=True), {}, C.MANIFEST),
        (FILE, {"kind": "d"}, C.KIND | C.INODE),
        (LINK, {"target": b"y"}, C.CONTENT),
        (LINK, {"mtime": 2}, C.ATTRIBUTES),
        (LINK, {"carried": True}, C.CONTENT),
        (Row(b"a", "c", 0o600, inode=1), {"rdev": (1, 3)}, C.CONTENT),
        (Row(b"a", "d", 0o755, mtime=1, inode=1), {"mtime": 2, "inode": 9}, C.ATTRIBUTES),
    ],
)
def test_how_an_entry_changes(old: Row, new: dict[str, Any], change: Changes) -> None:
    fresh = {"unreadable": False, "held": False, "sha256": b"", "inode": old.inode or 7}
    assert compare(old, old._replace(**{**fresh, **new}), same_device=True) == change


def test_on_another_device_an_inode_says_nothing() -> None:
    assert compare(FILE, FILE, same_device=False) == C.INODE
    assert merge(FILE, FILE._replace(sha256=b""), C.INODE).sha256 == FILE.sha256


@given(rows, rows)
def test_a_hash_is_kept_only_with_its_content(old: Row, new: Row) -> None:
    change = compare(old, new._replace(path=old.path), same_device=True)
    kept = merge(old, new._replace(path=old.path, sha256=b""), change).sha256
    assert kept == (b"" if change & REPLACED else old.sha256)


@given(st.lists(rows, max_size=6), st.lists(rows, max_size=6), st.booleans())
def test_the_changes_of_a_directory_make_the_old_one_the_new(old: list[Row], new: list[Row], same_device: bool) -> None:  # noqa: FBT001
    before, after = {row.path: row for row in old}, {row.path: row._replace(link=0, held=False, unreadable=False) for row in new}
    became = dict(before)
    for change, row in compare_directory(before, after.values(), (), same_device=same_device):
        assert change
        if change & C.GONE:
            assert became.pop(row.path) == row
        else:
            became[row.path] = row
    assert {path: _found(row) for path, row in became.items()} == {path: _found(row) for path, row in after.items()}


def _found(row: Row) -> Row:
    """What a walk can find of a row: of the hash and the group it knows nothing."""
    return row._replace(sha256=b"", link=0, inode=0)


def test_what_cannot_be_read_is_not_gone() -> None:
    gone = FILE._replace(path=b"gone")
    changes = {row.path: change for change, row in compare_directory({b"a": FILE, b"gone": gone}, (), {b"a"}, same_device=True)}
    assert changes == {b"a": C.UNREADABLE, b"gone": C.GONE}


@pytest.mark.parametrize(
    ("members", "split", "number"), [([5], [], 0), ([0, 0], [], 9), ([0, 5], [], 5), ([4, 5], [], 4), ([4, 5], [4], 5), ([5, 5], [5], 9)]
)
def test_the_number_of_a_group(members: list[int], split: list[int], number: int) -> None:
    numbering = number_group(members, split, 9)
    assert (numbering.number, numbering.fresh) == (number, number == 9)


@pytest.mark.parametrize(
    ("row", "carried"),
    [
        (Row(b"a", "l", 0o777, target=b"x" * 735), False),
        (Row(b"a", "l", 0o777, target=b"x" * 736), True),
        (Row(b"/".join([b"a"] * 178), "p", 0o644), True),
        (Row(b"/".join([b"a"] * 165), "p", 0o644), False),
        (Row(b"/".join([b"a"] * 165), "d", 0o755), False),
        (Row(b"/".join([b"a"] * 166), "p", 0o644), True),
        (Row(b"/".join([b"a"] * 164 + [b"b" * 17]), "p", 0o644), False),
        (Row(b"/".join([b"a"] * 164 + [b"b" * 17]), "d", 0o755), True),
        (Row(b"/".join([b"a"] * 178), "f", 0o644), False),
    ],
)
def test_what_only_the_manifest_can_keep(row: Row, carried: bool) -> None:  # noqa: FBT001
    assert is_carried(row) is carried


@given(st.lists(st.integers(1, 255), min_size=1, max_size=200))
def test_the_short_cut_for_short_paths_agrees(lengths: list[int]) -> None:
    path = b"/".join(b"n" * length for length in lengths)
    beside = len(".name") if lengths[-1] >= LONG_NAME else 0
    usable = len(path) < SEALED_PATH_LIMIT
    assert fits(path) == (usable and sealed_length(path) + beside < SEALED_PATH_LIMIT)
    assert fits(path, directory=True) == (usable and sealed_length(path) + len("/gocryptfs.diriv") < SEALED_PATH_LIMIT)
