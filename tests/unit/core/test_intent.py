# SPDX-License-Identifier: GPL-3.0-or-later
"""The intent: what is said at a target before anything changes there."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core.intent import Header, encode_line, parse_header, parse_line

HEADER = Header("v", "seed", 7, whole=True)


@pytest.mark.parametrize("whole", [True, False])
def test_a_header_can_be_read_again(whole: bool) -> None:  # noqa: FBT001 - a table
    header = Header("v", "seed", 7, whole=whole)
    assert parse_header(header.encode()) == header


def test_it_is_one_line_that_anybody_can_read() -> None:
    line = HEADER.encode()
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
    assert json.loads(line) == {"vault": "v", "target": "seed", "job": 7, "whole": True, "format": 1}


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[]", b"null", b"7", b"not json", b"\xff", HEADER.encode()[:-5], HEADER.encode().replace(b"7", b'"x"'), b"[" * 100_000],
)
def test_what_is_none_reads_as_none(line: bytes) -> None:
    assert parse_header(line) is None


@given(st.binary())
def test_no_bytes_crash(line: bytes) -> None:
    assert parse_header(line) is None


def is_path(path: bytes) -> bool:
    return not {b"", b".", b".."} & set(path.split(b"/"))


NO_LINES = [b"", b"{}", b"[]", b"7", b"null", b"\xff", b'{"path": 7}', b'{"path": "../x"}', b'{"path": "/x"}', b"[" * 100_000]


@pytest.mark.parametrize("line", NO_LINES, ids=range(len(NO_LINES)))
def test_what_is_no_line_reads_as_none(line: bytes) -> None:
    assert parse_line(line) is None


@given(st.binary(min_size=1).filter(lambda path: b"\0" not in path), st.booleans())
def test_every_path_is_one_line_and_comes_back(path: bytes, again: bool) -> None:  # noqa: FBT001 - drawn
    line = encode_line(path, again=again)
    assert line.count(b"\n") == 1
    assert parse_line(line) == (path if is_path(path) else None)
    document = json.loads(line)
    assert document.pop("path").encode("utf-8", "surrogateescape") == path
    assert document == ({"again": True} if again else {})
