# SPDX-License-Identifier: GPL-3.0-or-later
"""What rsync prints. That the real program prints so: tests/unit/worker/test_transfer.py."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core import gocryptfs
from offsited.core.rsync_output import (
    Detailed,
    Item,
    Running,
    Tally,
    Topmost,
    obstacles,
    parse_detailed,
    parse_line,
    parse_listed,
    parse_listing,
    parse_wire_bytes,
    says_skipped,
)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"    1048576 100%  305.15MB/s    0:00:00 (xfr#1, to-chk=3/10)", Running(1048576, 7)),
        (b"    1048576  50%    1.00MB/s    0:00:01 (xfr#1, ir-chk=1003/1010)", Running(1048576, 7)),
        (b"      32768   3%    0.00kB/s    0:00:00  ", Running(32768, 0)),
        (b"<f+++++++++ 5 a/b", Item("<f+++++++++", 5, b"a/b")),
        (b">f.st...... 5 a b", Item(">f.st......", 5, b"a b")),
        (b"cd+++++++++ 4096 a/", Item("cd+++++++++", 4096, b"a/")),
        (b"cL+++++++++ 3 link", Item("cL+++++++++", 3, b"link")),
        (b"hf+++++++++ 0 other", Item("hf+++++++++", 0, b"other")),
        (b".d..t...... 4096 ./", Item(".d..t......", 4096, b"./")),
        (b".f          5 a", Item(".f", 5, b"a")),
        (b".f           5 a", None),
        (b"*deleting   0 gone/", Item("*deleting", 0, b"gone/")),
        (b"*deleting   0 \\#303\\#244\\#012x", Item("*deleting", 0, b"\xc3\xa4\nx")),
        (b"*deleting   0 \\#134#012", Item("*deleting", 0, b"\\#012")),
        (b"*deleting   0 \\#999\\#400\\#12", Item("*deleting", 0, b"\\#999\\#400\\#12")),
        (b"sending incremental file list", None),
        (b"Number of files: 3 (reg: 1, dir: 2)", None),
        (b"", None),
        (b"created directory /x", None),
    ],
)
def test_lines(line: bytes, found: Running | Item | None) -> None:
    assert parse_line(line) == found


def test_what_the_receiver_left_out_is_no_error_to_rsync_and_is_seen() -> None:
    assert says_skipped(b'skipping non-regular file "dir/fifo"')
    assert not says_skipped(b"sending incremental file list")


@given(st.binary())
def test_no_line_crashes(line: bytes) -> None:
    parse_line(line)
    parse_wire_bytes(line)
    parse_listing([line])


@given(st.binary(min_size=1))
def test_whatever_rsync_escapes_is_read_back(name: bytes) -> None:
    """rsync escapes what is not printable in LC_ALL=C, and a backslash that looks like an escape (log.c, filtered_fwrite)."""
    line = b"*deleting   0 " + _as_rsync_prints(name)
    found = parse_line(line)
    assert isinstance(found, Item)
    assert found.path == name


def _as_rsync_prints(name: bytes) -> bytes:
    printed = b""
    for index, byte in enumerate(name):
        looks_escaped = re.match(rb"\\#\d{3}", name[index:]) is not None
        plain = 32 <= byte < 127 and not looks_escaped
        printed += bytes((byte,)) if plain else b"\\#%03o" % byte
    return printed


@pytest.mark.parametrize(
    ("change", "deleted", "sent", "content"),
    [
        ("<f+++++++++", False, True, True),
        (">f.st......", False, True, True),
        ("cd+++++++++", False, True, False),
        ("cS+++++++++", False, True, False),
        ("hf+++++++++", False, True, False),
        (".f...p.....", False, False, False),
        (".d..t......", False, False, False),
        ("*deleting", True, False, False),
    ],
)
def test_what_was_done_to_an_entry(change: str, deleted: bool, sent: bool, content: bool) -> None:  # noqa: FBT001 - a table
    item = Item(change, 1, b"x")
    assert (item.deleted, item.sent, item.is_content) == (deleted, sent, content)


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b"Total bytes sent: 123", 123),
        (b"Total bytes received: 4", 4),
        (b"Total file size: 9 bytes", 0),
        (b"Total bytes sent: 1,234", 0),
        (b"\xff", 0),
    ],
)
def test_bytes_on_the_wire(line: bytes, number: int) -> None:
    assert parse_wire_bytes(line) == number


def test_a_listing() -> None:
    lines = [
        b"receiving file list ... done",
        b"drwxr-xr-x          4,096 2026/11/24 03:00:00 .",
        b"-rw-r--r--              5 2026/11/24 03:00:00 a b",
        b"lrwxrwxrwx              5 2026/11/24 03:00:00 link -> x",
        b"drwx------         4,096 2026/11/24 03:00:00 ...",
        b"crw-rw-rw-         1,3 2026/11/24 03:00:00 null",
        b"prw-------              0 2026/11/24 03:00:00 fifo",
        b"-rw-r--r--        123,456 2026/11/24 03:00:00 a -> b",
        b"",
    ]
    assert parse_listing(lines) == [b"a b", b"link", b"...", b"null", b"fifo", b"a -> b"]
    assert parse_listing(lines[:2]) == []


@pytest.mark.parametrize(
    ("complaints", "paths", "alone"),
    [
        ("", [], True),
        ("could not make way for new regular file: a/b", [b"a/b"], True),
        ("could not make way for new symlink: a\ncould not make way for regular file: b", [b"a", b"b"], True),
        ("could not make way for new regular file: \\#303\\#244", [b"\xc3\xa4"], True),
        ("cannot delete non-empty directory: a\ncould not make way for new regular file: a", [b"a"], True),
        ("could not make way for new regular file: a\nrsync: [sender] read errors mapping x (5)", [b"a"], False),
    ],
)
def test_what_stands_in_the_way(complaints: str, paths: list[bytes], alone: bool) -> None:  # noqa: FBT001 - a table
    assert obstacles(complaints) == (paths, alone)


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_whatever_rsync_lists_is_read_back(name: bytes) -> None:
    assert parse_listed(b"-rw-------             16 2026/11/24 03:00:00 " + _as_rsync_prints(name)) == name


@pytest.mark.parametrize(
    ("listed", "left"),
    [
        ([], []),
        ([b"a"], [b"a"]),
        ([b"a", b"a/b", b"a/c", b"a/c/d"], [b"a"]),
        ([b"a/b", b"a/c"], [b"a/b", b"a/c"]),
        ([b"ab", b"abc", b"ab/c"], [b"ab", b"abc"]),
        ([b"a", b"a"], [b"a"]),
    ],
)
def test_only_the_topmost_is_kept(listed: list[bytes], left: list[bytes]) -> None:
    found = Topmost()
    for path in listed:
        found.add(path)
    assert sorted(found.paths) == left


_NAMES = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=4).map(b"/".join)


@given(st.lists(_NAMES, unique=True).map(sorted))
def test_the_topmost_cover_everything_that_came_and_nothing_else(listed: list[bytes]) -> None:
    """A directory comes before what is below it, as in every listing."""
    found = Topmost()
    for path in listed:
        found.add(path)
    assert found.paths <= set(listed)
    for path in listed:
        assert any(path == top or path.startswith(top + b"/") for top in found.paths)
    for top in found.paths:
        assert not any(top.startswith(other + b"/") for other in found.paths)


def test_a_tally_of_an_encrypted_tree_counts_plain_entries_and_sizes() -> None:
    tally = Tally()
    for item in (
        Item("cd+++++++++", 4096, b"./"),
        Item("cd+++++++++", 4096, b"sealed-backup/"),
        Item("<f+++++++++", 999, b"gocryptfs.conf"),
        Item("cd+++++++++", 4096, b"d/e/"),
        Item("<f+++++++++", 16, b"d/gocryptfs.diriv"),
        Item("<f+++++++++", gocryptfs.sealed_size(5000), b"d/x"),
        Item("<f+++++++++", gocryptfs.sealed_size(7), b"d/gocryptfs.longname.X"),
        Item("<f+++++++++", 300, b"d/gocryptfs.longname.X.name"),
        Item("hf+++++++++", 0, b"d/hard"),
        Item(".f...p.....", 99, b"d/mode"),
        Item("*deleting", 0, b"old/"),
        Item("*deleting", 0, b"old/gocryptfs.diriv"),
        Item("*deleting", 0, b"gocryptfs.longname.Y"),
        Item("*deleting", 0, b"gocryptfs.longname.Y.name"),
    ):
        tally.take(item, sealed=True)
    assert (tally.sent_entries, tally.sent_bytes, tally.deleted_entries) == (4, 5007, 2)


def test_a_tally_of_a_tree_in_clear_takes_every_name_as_it_is() -> None:
    tally = Tally()
    tally.take(Item(">f+++++++++", 16, b"gocryptfs.conf"), sealed=False)
    assert (tally.sent_entries, tally.sent_bytes) == (1, 16)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b">f+++++++++ 53 1000 7 rw-r--r-- 2026/11/25-14:19:05 a/b c", Detailed("f", 53, 1000, 7, 0o644, 1795616345, b"a/b c")),
        (b"cd+++++++++ 80 0 0 rwsr-sr-t 1970/01/01-00:00:00 a/", Detailed("d", 80, 0, 0, 0o7755, 0, b"a")),
        (b"cL+++++++++ 5 0 0 rwxrwxrwx 1969/12/31-23:59:59 l", Detailed("l", 5, 0, 0, 0o777, -1, b"l")),
        (b"cD+++++++++ 0 0 0 rw-rw---- 2026/11/25-14:19:05 n", Detailed("c", 0, 0, 0, 0o660, 1795616345, b"n")),
        (b"cS+++++++++ 0 0 4294967294 -w---S--T 2026/11/25-14:19:05 \\#012", Detailed("p", 0, 0, 2**32 - 2, 0o3200, 1795616345, b"\n")),
        (b".d..t...... 80 0 0 rwxr-xr-x 2026/11/25-14:19:05 ./", Detailed("d", 80, 0, 0, 0o755, 1795616345, b".")),
        (b"receiving incremental file list", None),
        (b"", None),
    ],
)
def test_entries_with_all_that_rsync_tells(line: bytes, found: Detailed | None) -> None:
    assert parse_detailed(line) == found
