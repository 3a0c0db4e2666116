# SPDX-License-Identifier: GPL-3.0-or-later
"""How a first plan is cut into subtrees: everything travels, once or as a directory twice, and nothing that must not."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offsited.core.plan import SYMLINK_LIMIT
from offsited.worker.pending import Pending
from offsited.worker.subtrees import Division, divide

from .workshop import Bench

NAMES = st.sampled_from(["a", "a-b", "b", "cache", "\udcff", "n" * 200])
FILES = st.sets(st.lists(NAMES, min_size=1, max_size=5).map("/".join), max_size=30)
LINKS = st.sets(st.lists(NAMES, max_size=3).map("/".join), max_size=3)
"""Directories with a link that only the manifest carries."""


def plant(top: Path, files: set[str], links: set[str]) -> None:
    top.mkdir()
    for file in sorted(files):
        path = top / file
        if path.is_dir() or any(parent.is_file() for parent in path.parents if parent.is_relative_to(top)):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
    for directory in sorted(links):
        if (top / directory).is_dir():
            (top / directory / "long-link").symlink_to("t" * SYMLINK_LIMIT)


@contextmanager
def planned(directory: Path, files: set[str], links: set[str] | None = None) -> Iterator[Pending]:
    """The plan against nothing of a tree with these files, at `top`."""
    bench = Bench(directory / "state")
    bench.directory.mkdir()
    plant(directory / "top", files, links or set())
    bench.survey(directory / "top", ("cache",))
    with bench.plan() as (_, pending):
        yield pending


def told(pending: Pending, division: Division) -> list[bytes]:
    return [item.row.path for item in pending.told_in(division.told)]


def walked(pending: Pending, division: Division) -> list[bytes]:
    return [item.row.path for lot in division.lots for root in lot for item in pending.within(root)]


@given(FILES, LINKS, st.integers(1, 40), st.integers(1, 200))
@settings(deadline=None)
def test_all_that_travels_and_nothing_else(files: set[str], links: set[str], limit: int, weight: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory, "top")
        with planned(Path(directory), files, links) as pending:
            division = divide(pending, limit, weight)
            travelling = {item.row.path for item in pending.to_send()}
            one, other = told(pending, division), walked(pending, division)
            assert {*one, *other} == travelling
            assert len(set(one)) == len(one)
            assert len(set(other)) == len(other), "no subtree within another"
            assert all(os.path.isdir(top / os.fsdecode(path)) for path in {*one} & {*other}), "no file twice"
            for lot in division.lots:
                assert len({root.rpartition(b"/")[0] for root in lot}) == 1, "of one directory"
                assert sum(item.row.size for root in lot for item in pending.within(root) if item.row.kind != "d") <= weight
                assert len([1 for root in lot for _ in pending.within(root)]) <= limit + 1 or len(lot) == 1
            on_disk = {
                os.fsencode(Path(below, name).relative_to(top))
                for root in (root for lot in division.lots for root in lot)
                for below, directories, names in os.walk(top / os.fsdecode(root))
                for name in (*directories, *names)
            }
            assert on_disk <= travelling, "rsync would walk into what must not travel"


@pytest.mark.parametrize(
    ("limit", "roots", "names"),
    [
        (100, [[b""]], []),
        (4, [[b"a"], [b"b"]], [b"", b"a", b"b", b"top"]),
        (6, [[b"a", b"b"]], [b"", b"a", b"b", b"top"]),
        (2, [[b"b"]], [b"", b"a", b"a/1", b"a/2", b"a/3", b"b", b"top"]),
    ],
)
def test_where_it_is_cut(tmp_path: Path, limit: int, roots: list[list[bytes]], names: list[bytes]) -> None:
    with planned(tmp_path, {"a/1", "a/2", "a/3", "b/1", "top"}) as pending:
        division = divide(pending, limit, 1000)
        assert division.lots == roots
        assert told(pending, division) == names


def test_what_cannot_be_read_is_not_walked_into(tmp_path: Path) -> None:
    """rsync would stumble over it and fail."""
    with planned(tmp_path, {"a/deep/secret/1", "b/1"}) as pending:
        pending.database.execute("INSERT INTO pending.unread VALUES (x'612f64656570', x'61', 5)")
        division = divide(pending, 100, 1000)
        assert division.told == {b"", b"a", b"a/deep"}
        assert division.lots == [[b"b"], [b"a/deep/secret"]]


def test_a_subtree_is_read_without_what_comes_after_it(tmp_path: Path) -> None:
    """Each of thousands of subtrees was read to the end of the plan."""
    with planned(tmp_path, {"a/1", "b/2", "c/3"}) as pending:
        asked: list[str] = []
        pending.database.set_trace_callback(asked.append)
        assert [item.row.path for item in pending.within(b"b")] == [b"b", b"b/2"]
        pending.database.set_trace_callback(None)
        steps = [row[3] for query in asked for row in pending.database.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert steps
    assert all(step.endswith(("(path=?)", "(path>? AND path<?)")) for step in steps), steps
