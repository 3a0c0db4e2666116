# SPDX-License-Identifier: GPL-3.0-or-later
"""How a plan is cut into transfers, and a manifest into parts of a restore; what a hash is refused for."""

import itertools
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core import gocryptfs, rsync
from offsited.core.manifest import Row
from offsited.core.plan import Change, Changes, sealed_length
from offsited.worker import fetching, outgoing, writing
from offsited.worker.pending import Item

NEVER = threading.Event()


def item(number: int) -> Item:
    return Item(Change.NEW, Row(b"%d" % number, "f", 0o600))


@given(st.lists(st.integers(1, 12), max_size=20), st.integers(1, 8))
def test_a_group_is_never_cut(sizes: list[int], limit: int) -> None:
    groups, number = [], 0
    for size in sizes:
        groups.append([item(number + offset) for offset in range(size)])
        number += size
    found = list(outgoing.batches(groups, limit))
    assert [one for batch in found for one in batch] == [one for group in groups for one in group], "all, in order"
    ends = {group[-1] for group in groups}
    assert all(batch[-1] in ends for batch in found)
    for batch in found:
        assert len(batch) <= limit or len([group for group in groups if group[-1] in batch]) == 1
    for one, other in itertools.pairwise(found):
        first = next(group for group in groups if group[0] == other[0])
        assert len(one) + len(first) > limit, "no more batches than needed"


@given(st.lists(st.integers(0, 20), max_size=30))
def test_a_transfer_is_not_too_heavy(sizes: list[int]) -> None:
    """But for a single larger file: where large ones may travel side by side, each lane gets some."""
    groups = [[Item(Change.NEW, Row(b"%d" % number, "f", 0o600, size=size))] for number, size in enumerate(sizes)]
    found = list(outgoing.batches(groups, weight=10))
    assert [one for batch in found for one in batch] == [one for group in groups for one in group]
    for batch in found:
        assert sum(one.row.size for one in batch) <= 10 or len(batch) == 1
    for one, other in itertools.pairwise(found):
        assert sum(item.row.size for item in one) + other[0].row.size > 10, "no more than needed"


@given(st.lists(st.tuples(st.sampled_from("fdl"), st.sampled_from([1, 40, 175, 176, 255]), st.integers(0, 12)), min_size=1, max_size=40))
def test_a_transfer_has_room_in_a_command_line(shapes: list[tuple[str, int, int]]) -> None:
    """With what gocryptfs keeps for each: its long name, and the IV of a directory."""
    groups = [[Item(Change.NEW, Row(b"d/" * depth + b"n" * length, kind, 0o600))] for kind, length, depth in shapes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rsync, "ARGUMENTS_MAX", 5000)
        for batch in outgoing.batches(groups):
            sealed = [("x" * (sealed_length(item.row.path)), item) for item in batch]
            long = [len(item.row.path.rpartition(b"/")[2]) >= gocryptfs.LONG_NAME for item in batch]
            lines = [path for path, _ in sealed]
            lines += [f"{path}.name" for (path, _), is_long in zip(sealed, long, strict=True) if is_long]
            lines += [f"{path}/gocryptfs.diriv" for path, item in sealed if item.row.kind == "d"]
            assert len(batch) == 1 or rsync.are_few(line.encode() for line in lines)


@given(st.lists(st.integers(0, 20), max_size=30))
def test_parts_to_be_fetched_are_bounded(sizes: list[int]) -> None:
    """In entries, and in bytes but for a single larger file."""
    rows = [Row(b"%d" % number, "f", 0o600, size=size) for number, size in enumerate(sizes)]
    found = list(fetching.parts(rows, 4, lambda: 10))
    assert [row for part in found for row in part] == rows
    assert all(part for part in found)
    assert all(len(part) <= 4 and (sum(row.size for row in part) <= 10 or len(part) == 1) for part in found)


HOLES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=6)


@given(st.binary(max_size=100), HOLES, st.integers(1, 30))
def test_holes_are_left_out_and_nothing_else(content: bytes, wanted: list[tuple[int, int]], piece: int) -> None:
    """Whatever the pieces in which it comes; a hole holds zeros, as the manifest says."""
    holes, end = [], 0
    for start, length in sorted(wanted):
        if start >= end:
            holes.append((start, length))
            end = start + length
    text = bytearray(content)
    for start, length in holes:
        text[start : start + length] = bytes(len(text[start : start + length]))
    target = os.memfd_create("target")
    try:
        os.ftruncate(target, len(text))
        os.pwrite(target, b"\xff" * len(text), 0)
        left = list(reversed(holes))
        for position in range(0, len(text), piece):
            writing._write_around(target, bytes(text[position : position + piece]), position, left)
        found = bytearray(os.pread(target, len(text) + 1, 0))
    finally:
        os.close(target)
    for start, length in holes:
        assert set(found[start : start + length]) <= {0xFF}, "it was not written"
        found[start : start + length] = bytes(len(found[start : start + length]))
    assert found == text


@pytest.mark.parametrize(
    ("change", "row", "travels"),
    [
        (Change.NEW, Row(b"a", "f", 0o600), True),
        (Change.ATTRIBUTES, Row(b"a", "d", 0o600), True),
        (Change.GROUP, Row(b"a", "f", 0o600), True),
        (Change.DOUBTFUL, Row(b"a", "f", 0o600), True),
        (Change.MANIFEST, Row(b"a", "f", 0o600), False),
        (Change.INODE | Change.HASHED, Row(b"a", "f", 0o600), False),
        (Change.NEW, Row(b"a", "l", 0o777, carried=True), False),
        (Change.CONTENT | Change.HELD, Row(b"a", "f", 0o600), False),
        (Change.CONTENT | Change.UNREADABLE, Row(b"a", "f", 0o600), False),
        (Change.GONE | Change.DOUBTFUL, Row(b"a", "f", 0o600), False),
    ],
)
def test_what_travels(change: Changes, row: Row, travels: bool) -> None:  # noqa: FBT001 - a table
    assert outgoing.travels(Item(change, row)) is travels


def test_where_a_path_is_in_what_is_shown() -> None:
    assert (outgoing.sealed_from(b""), outgoing.sealed_from(b"a/b")) == (b"backup", b"backup/a/b")
